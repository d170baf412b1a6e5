"""Frozen values: typed overrides, nearest names, plain data and back."""

import json
import time
from dataclasses import dataclass, fields, replace

import pytest

from reslab.spec.arch import Arch
from reslab.spec.config import convert, from_dict, non_default_fields, override, override_keys, to_dict
from reslab.spec.errors import invalid, nearest, unknown_name
from reslab.spec.optim import OptimizerConfig
from reslab.spec.recipe import Recipe
from reslab.spec.zoo import ARCHS


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: int = 3
    name: str = "sgd"


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    sides: tuple[int, int] = (4, 5)
    stages: tuple[int, ...] = (1, 2)
    flags: tuple[bool, ...] = ()
    maybe: float | None = None
    law: tuple[int, ...] | str = (1,)
    on: bool = False
    text: str = ""


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        *[("inner.lr", given, 0.2) for given in ("0.2", 0.2, " 0.2 ")],
        ("inner.lr", 1, 1.0),
        ("inner.lr", "1e-3", 0.001),
        *[("inner.steps", given, 64000) for given in ("64000", "64_000", 64000)],
        *[("sides", given, (8, 9)) for given in ("8,9", "(8, 9)", [8, 9], (8, 9))],
        *[("stages", given, (2,)) for given in ("2", "2,", "(2,)", (2,))],
        *[("stages", given, ()) for given in ("", "()", ())],
        *[("flags", given, (True, False)) for given in ("true,false", "yes,no", "1,0", (True, False))],
        *[("maybe", given, None) for given in ("none", "null", None)],
        ("maybe", "0.5", 0.5),
        ("law", "4,5", (4, 5)),
        ("law", "additive(16,48)", "additive(16,48)"),
        *[("on", given, True) for given in ("true", "True", "on", "1", True)],
        *[("on", given, False) for given in ("false", "off", "0", "no", False)],
        ("text", "7", "7"),
    ],
)
def test_overrides_are_read_as_the_fields_type(key, given, expected):
    value = override(Outer(), {key: given})
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("inner.lr", "fast", "inner.lr as a number"),
        ("inner.lr", True, "inner.lr"),
        ("inner.lr", None, "inner.lr"),
        ("inner.steps", "2.5", "a whole number"),
        ("inner.steps", 2.0, "a whole number"),
        ("inner.steps", True, "inner.steps"),
        ("inner.name", 3, "inner.name"),
        ("sides", "8", "2 whole numbers"),
        ("sides", (1, 2, 3), "2 whole numbers"),
        ("sides", "a,b", "sides"),
        ("stages", "1,x", "stages"),
        ("stages", 3, "separated by commas"),
        ("flags", "true,perhaps", "true or false"),
        ("flags", (1, 0), "true or false"),
        ("maybe", "often", "maybe"),
        ("on", "maybe", "true or false"),
        ("on", 1, "true or false"),
        ("text", None, "text"),
        ("text", True, "text"),
    ],
)
def test_values_of_another_type_are_refused_by_key(key, given, message):
    with pytest.raises(ValueError) as error:
        override(Outer(), {key: given})
    assert key in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("iner.lr", "inner.lr"),
        ("inner.rl", "inner.lr"),
        ("inner.step", "inner.steps"),
        ("stage", "stages"),
        ("tex", "text"),
    ],
)
def test_unknown_keys_name_the_nearest(key, near):
    with pytest.raises(ValueError, match=f"unknown key '{key}'.*'{near}'"):
        override(Outer(), {key: "1"})


def test_a_key_below_a_plain_field_is_unknown():
    with pytest.raises(ValueError, match=r"text\.more"):
        override(Outer(), {"text.more": 1})


def test_overrides_leave_the_value_as_it_was():
    value = Outer()
    changed = override(value, {"inner.lr": 0.5, "inner.steps": 9, "on": True})
    assert value == Outer()
    assert changed.inner == Inner(0.5, 9)
    assert override(value, {}) is value


def test_keys_are_those_that_override_takes():
    assert override_keys(Outer())[:4] == ["inner", "inner.lr", "inner.steps", "inner.name"]
    for key in override_keys(ARCHS["resnet50"]):
        override(ARCHS["resnet50"], {key: getattr(ARCHS["resnet50"], key)})


@pytest.mark.parametrize("name", sorted(ARCHS))
def test_every_network_goes_through_json_and_back(name):
    arch = ARCHS[name]
    assert from_dict(Arch, json.loads(json.dumps(to_dict(arch)))) == arch


@pytest.mark.parametrize("name", ["resnet50", "pyramidnet110_cifar", "book_net"])
def test_every_axis_can_be_written_and_read(name):
    arch = ARCHS[name]
    blank = Arch("x", "y", depths=(1,), widths=(1,))
    for field in fields(Arch):
        value = getattr(arch, field.name)
        text = ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
        assert getattr(override(blank, {field.name: text}), field.name) == value


def test_what_to_dict_wrote_is_checked_when_read():
    data = to_dict(Outer())
    assert from_dict(Outer, data) == Outer()
    assert from_dict(Outer, {}) == Outer()
    with pytest.raises(ValueError, match="'inner'"):
        from_dict(Outer, {"iner": {}})
    with pytest.raises(ValueError, match="steps"):
        from_dict(Outer, {"inner": {"steps": "many"}})
    with pytest.raises(ValueError, match="'lr'"):
        from_dict(Outer, {"inner": {"l": 1}})


def test_convert_takes_a_value_as_it_is():
    inner = Inner(2.0)
    assert convert(Inner, inner, "inner") is inner


def test_nearest_names():
    assert nearest("RESNET5O", ARCHS)[0].startswith("resnet5")
    assert nearest("zzz", ARCHS) == []
    assert str(unknown_name("model", "resnt50", ARCHS)).startswith("unknown model 'resnt50'; nearest: 'resnet50'")
    assert "known: 'a', 'b'" in str(unknown_name("thing", "zzz", ["a", "b"]))
    assert "known names is similar" in str(unknown_name("model", "qqqqqq", ARCHS))
    assert str(unknown_name("x", "ab", ["ab1"], "go on")).endswith("; go on")


def test_errors_have_all_four_parts():
    assert str(invalid("A", "B", "C", "do D")) == "required: A; got: B; nearest valid: C; do D"
    assert str(invalid("A", "B")) == "required: A; got: B"


def test_values_that_are_only_right_together_are_set_in_any_order() -> None:
    recipe = Recipe("x", "test")
    pair = {"schedule.name": "multistep", "schedule.milestones": "1 epoch,2 epochs"}
    for settings in (pair, dict(reversed(pair.items()))):
        overridden = override(recipe, settings)
        assert (overridden.schedule.name, overridden.schedule.milestones) == ("multistep", ("1 epoch", "2 epochs"))
    with pytest.raises(ValueError, match=r"milestones"):
        override(recipe, {"schedule.name": "multistep"})


def test_non_default_fields_leave_defaults_out_at_every_depth() -> None:
    recipe = replace(Recipe("mine", "here"), optimizer=OptimizerConfig(lr=0.25), batch_size=64)
    assert non_default_fields(recipe) == {
        "name": "mine",
        "reference": "here",
        "optimizer": {"lr": 0.25},
        "batch_size": 64,
    }
    assert non_default_fields(Recipe("mine", "here")) == {"name": "mine", "reference": "here"}


def test_nothing_is_compared_beyond_a_hundred_characters() -> None:
    started = time.process_time()
    assert nearest("x" * 10_000_000, ["x", "xx"]) == []
    assert nearest("depths", ["x" * 1_000_000] * 100 + ["depth"]) == ["depth"]
    assert len(nearest("name5", (f"name{number}" for number in range(1_000_000)))) == 3
    error = str(unknown_name("field", "y" * 10_000_000, ["image"]))
    assert error == f"unknown field {'y' * 100!r}...; known: 'image'"
    assert str(unknown_name("block", "a", [])) == "unknown block 'a'; there are none"
    assert time.process_time() - started < 3
