"""The values of --set, config files and flags: parsed, merged, and checked before torch is imported."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from reslab.cli.overrides import (
    DEFAULT_MODELS,
    check_overrides,
    merge_config,
    parse_overrides,
    read_config_file,
    require_model_and_recipe,
)
from reslab.spec.dense import ModelKind
from reslab.training.options import default_model
from reslab.training.run import Run
from tests.cli.conftest import Command

TOML = """
train_transform = ""
batch_size = 32
duration = "1 epoch"

[optimizer]
lr = 0.02
momentum = 0.5

[model]
depths = [1, 1, 1]
widths = [4, 8, 16]
stem = "conv3(4) norm act"
"""
YAML = """
train_transform: ""
batch_size: 32
duration: 1 epoch
optimizer: {lr: 0.02, momentum: 0.5}
model:
  depths: [1, 1, 1]
  widths: [4, 8, 16]
  stem: conv3(4) norm act
"""
FOUND = {
    "train_transform": "",
    "batch_size": 32,
    "duration": "1 epoch",
    "optimizer.lr": 0.02,
    "optimizer.momentum": 0.5,
    "model.depths": [1, 1, 1],
    "model.widths": [4, 8, 16],
    "model.stem": "conv3(4) norm act",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def test_toml_and_yaml_agree(file: Path) -> None:
    other = file.with_suffix(".yaml")
    other.write_text(YAML)
    assert read_config_file(file) == FOUND
    assert read_config_file(other) == FOUND
    assert read_config_file(None) == {}


def test_an_empty_file_has_no_values(tmp_path: Path) -> None:
    for name in ("a.toml", "a.yml"):
        (tmp_path / name).write_text("")
        assert read_config_file(tmp_path / name) == {}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.ini", "", r"\.toml.*\.json"),
        ("a.json", "{", "a JSON file"),
        ("a.toml", "lr 0.1", "a TOML file.*line 1"),
        ("a.yaml", "a: [1", "a YAML file"),
        ("a.yaml", "- 1", "keys and their values.*list"),
        ("a.toml", '"optimizer.lr" = 1\n[optimizer]\nlr = 2', "optimizer.lr twice"),
        ("missing.toml", None, "a readable config file"),
    ],
)
def test_an_invalid_config_file_is_an_error(tmp_path: Path, name: str, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_config_file(tmp_path / name)


def test_without_pyyaml_the_error_names_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(YAML)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"reslab\[yaml\].*TOML"):
        read_config_file(tmp_path / "a.yaml")


def test_flags_and_set_win_over_the_file() -> None:
    file = {"duration": "9 epochs", "batch_size": 9, "optimizer.lr": 9.0, "train_transform": "flip"}
    assert merge_config(file, {"train_transform": ""}) == {**file, "train_transform": ""}
    assert merge_config(file, {}, {"duration": "2 epochs"}) == {
        "batch_size": 9,
        "optimizer.lr": 9.0,
        "train_transform": "flip",
    }
    assert merge_config(file, {"batch_size": "3"}, {"optimizer.lr": 0.1}) == {
        "duration": "9 epochs",
        "batch_size": "3",
        "train_transform": "flip",
    }


def test_a_flag_and_set_for_one_value_must_agree(command: Command, tmp_path: Path) -> None:
    short = ["--set", "model.depths=1,1,1", "--epochs", "1", "--output"]
    pairs = [
        ("--lr", "0.1", "optimizer.lr=0.2", "lr 0.1 and the setting optimizer.lr=0.2"),
        ("--epochs", "2", "duration=3 epochs", "epochs 2 and the setting duration=3 epochs"),
        ("-b", "32", "batch_size=64", "batch size 32 and the setting batch_size=64"),
        ("--val-fraction", "0.1", "val_fraction=0.2", "val_fraction 0.1 and the setting val_fraction=0.2"),
        ("--model", "resnet20_cifar", "model=resnet32_cifar", "model resnet20_cifar and the setting"),
        ("--data", "digits", "data=cifar10", "data digits and the setting data=cifar10"),
    ]
    for flag, value, setting, expected in pairs:
        outcome = command("train", flag, value, "--set", setting, "--output", tmp_path / "run")
        assert outcome.code == 1
        assert expected in outcome.err
        assert not (tmp_path / "run").exists()
    same = ["--lr", "0.1", "--set", "optimizer.lr=1e-1", "--set", "duration=1 epoch", "--val-fraction", "0.1"]
    assert command("train", *same, "--set", "val_fraction=.1", *short, tmp_path / "run", "--json").code == 0
    recipe = Run(tmp_path / "run").recipe
    assert (recipe.optimizer.lr, recipe.duration, recipe.val_fraction) == (0.1, "1 epoch", 0.1)


def test_a_flag_wins_over_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('val_fraction = 0.3\nmodel = "resnet32_cifar"\nduration = "1 epoch"\n')
    arguments = ["train", "-c", tmp_path / "a.toml", "--val-fraction", "0.1", "--model", "resnet20_cifar"]
    assert command(*arguments, "--set", "model.depths=1,1,1", "--output", tmp_path / "run", "--json").code == 0
    run = Run(tmp_path / "run")
    assert (run.metadata["val_fraction"], run.metadata["model"]["name"]) == (0.1, "resnet20_cifar")


def test_flags_over_set_over_file_over_recipe(command: Command, file: Path, tmp_path: Path) -> None:
    arguments = ["train", "-c", file, "--set", "optimizer.momentum=0.6", "--lr", "0.03", "--output", tmp_path / "run"]
    assert command(*arguments, "--json").code == 0
    recipe, arch = Run(tmp_path / "run").recipe, Run(tmp_path / "run").arch
    assert arch is not None
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.batch_size) == (0.03, 0.6, 32)
    assert (recipe.duration, recipe.train_transform, recipe.name) == ("1 epoch", "", "digits")
    assert (arch.depths, arch.widths, arch.stem) == ((1, 1, 1), (4, 8, 16), "conv3(4) norm act")


def test_a_wrong_key_of_a_file_names_the_nearest(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[optimizer]\nlrr = 1\n")
    outcome = command("train", "-c", tmp_path / "a.toml", "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "optimizer.lr" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", "\ufefflr = 0.3\nepochs = 3\nschedule = 'cosine'\n".encode()),
        ("a.toml", "lr = 0.3\r\nepochs = 3\r\nschedule = 'cosine'\r\n".encode("utf-16")),
        ("a.yaml", "\ufefflr: 0.3\nepochs: 3\nschedule: cosine\n".encode()),
        ("a.json", b'{"lr": 0.3, "epochs": 3, "schedule": "cosine"}'),
        ("a.json", '\ufeff{"optimizer": {"lr": 0.3}, "epochs": 3, "schedule": {"name": "cosine"}}'.encode()),
    ],
)
def test_short_keys_byte_order_marks_and_json_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    merged = merge_config(read_config_file(tmp_path / name), {})
    assert merged == {"optimizer.lr": 0.3, "duration": "3 epochs", "schedule.name": "cosine"}
    assert merge_config(read_config_file(tmp_path / name), {"lr": "0.5"})["optimizer.lr"] == "0.5"
    assert "duration" not in merge_config(read_config_file(tmp_path / name), {}, {"duration": "2 epochs"})


@pytest.mark.parametrize("key", ["seed", "num_images", "output"])
def test_the_name_of_an_option_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match=f"--{key.replace('_', '-')}"):
        merge_config({}, {key: "1"})


def test_overrides_are_parsed() -> None:
    result = parse_overrides(["model.merge=none", "optimizer.lr = 0.2", "model.shortcut=a=b", "train_transform="])
    assert result == {"model.merge": "none", "optimizer.lr": "0.2", "model.shortcut": "a=b", "train_transform": ""}
    assert parse_overrides(None) == {}


@pytest.mark.parametrize("setting", ["optimizer.lr", "=3", "model.=3", ""])
def test_an_override_without_key_or_value_is_an_error(setting: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_overrides([setting])


def test_a_key_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr came twice"):
        parse_overrides(["optimizer.lr=1", "optimizer.lr=2"])


@pytest.mark.parametrize(
    ("task", "model", "nearest"),
    [
        ("segmentation", "unet_resnt18", "'unet_resnet18'"),
        ("segmentation", "resnt18", "'resnet18'"),
        ("detection", "fasterrcn_resnet18", "'fasterrcnn_resnet"),
        ("classification", "unet_resnt18", "'seresnet18'"),
        (None, "maskrcnn_resnet50_fpm", "'maskrcnn_resnet50_fpn'"),
    ],
)
def test_the_nearest_models_are_those_for_the_task(task: str | None, model: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown model '{model}'; nearest: {nearest}"):
        require_model_and_recipe(model, None, task)


def test_models_of_other_tasks_are_not_suggested() -> None:
    with pytest.raises(ValueError, match="unknown model 'fcn_resnt50'") as error:
        require_model_and_recipe("fcn_resnt50", None, "detection")
    assert "fcn_resnet50" not in str(error.value)
    with pytest.raises(ValueError, match="unknown task 'segmentatoin'; nearest: 'segmentation'"):
        require_model_and_recipe(None, None, "segmentatoin")


@pytest.mark.parametrize("model", ["timm/vit_tiny_patch16_224", "torchvision/alexnet", "torchvision.models:alexnet"])
def test_networks_outside_the_zoo_are_left_to_their_libraries(model: str) -> None:
    require_model_and_recipe(model, None, "classification")
    check_overrides({"model.width_mult": "0.5"}, model, None)
    with pytest.raises(ValueError, match="a number"):
        check_overrides({"optimizer.lr": "fast"}, model, None)


@pytest.mark.parametrize(
    ("overrides", "model", "recipe", "expected"),
    [
        ({"optimizer.lr": "fast"}, None, None, "optimizer.lr as a number"),
        ({"optimizer.lrr": "1"}, None, "he2015-cifar", "'optimizer.lr'"),
        ({"grad_accum_steps": "100000"}, None, None, "grad_accum_steps from 1"),
        ({"model.merge": "ad"}, None, None, "nearest: 'add'"),
        ({"model.depths": "1,1,1,1,1"}, "resnet18", None, "depths"),
        ({"model.merge": "ad"}, "fcn_resnet50", None, "nearest: 'add'"),
        ({"model": "resnet18", "model.order": "full-pre"}, None, None, "'full-preact'"),
    ],
)
def test_a_wrong_value_is_an_error(
    overrides: dict[str, str], model: str | None, recipe: str | None, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        check_overrides(overrides, model, recipe)


def test_a_value_that_suits_one_default_is_left_to_the_data() -> None:
    check_overrides({"model.depths": "1,1,1"}, None, None)
    check_overrides({"model.depths": "1,1,1,1", "model.widths": "8,8,8,8"}, None, None)
    check_overrides({"model.decoder": "deeplabv3"}, "resnet18", None)
    check_overrides({"grad_accum_steps": "400"}, None, None)
    check_overrides({"grad_accum_steps": "2000", "batch_size": 4000}, None, None)


def test_the_default_models_are_those_of_training() -> None:
    assert set(DEFAULT_MODELS) == {default_model((3, side, side), kind) for side in (8, 224) for kind in ModelKind}
