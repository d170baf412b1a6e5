"""Options that several verbs share, read."""

import pytest

from reslab.cli.options import gather_numbers, read_numbers, read_pretrained, read_settings


def test_settings_are_read() -> None:
    found = read_settings(["model.merge=none", "optimizer.lr = 0.2", "model.shortcut=a=b", "train_transform="])
    assert found == {"model.merge": "none", "optimizer.lr": "0.2", "model.shortcut": "a=b", "train_transform": ""}
    assert read_settings(None) == {}


@pytest.mark.parametrize("setting", ["optimizer.lr", "=3", "model.=3", ""])
def test_a_setting_without_its_parts_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        read_settings([setting])


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr came twice"):
        read_settings(["optimizer.lr=1", "optimizer.lr=2"])


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("true", True), ("False", False), ("IMAGENET1K_V1", "IMAGENET1K_V1"), ("a/true", "a/true")],
)
def test_pretrained_is_read(text: str | None, value: object) -> None:
    assert read_pretrained(text) == value


@pytest.mark.parametrize(
    ("words", "gathered"),
    [
        ("eval --mean .1 .2 .3 --std 1 2 3", "eval --mean .1,.2,.3 --std 1,2,3"),
        ("eval --mean 0.1,0.2 run", "eval --mean 0.1,0.2 run"),
        ("eval --mean 0.1 run 0.2", "eval --mean 0.1 run 0.2"),
        ("eval --std 1 -b 64", "eval --std 1 -b 64"),
        ("eval --mean x 2", "eval --mean x 2"),
        ("train --lr 0.1 --epochs 3", "train --lr 0.1 --epochs 3"),
    ],
)
def test_numbers_after_one_option_are_gathered(words: str, gathered: str) -> None:
    assert gather_numbers(words.split()) == gathered.split()


def test_numbers_are_read() -> None:
    assert read_numbers("0.5,-1,2", "--mean") == (0.5, -1.0, 2.0)
    assert read_numbers(None, "--mean") is None
    with pytest.raises(ValueError, match="--mean as numbers"):
        read_numbers("0.5,x", "--mean")
