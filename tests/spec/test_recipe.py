"""Recipes: lengths with units, the learning rate's batch, refusals, and the way to JSON and back."""

import json
from dataclasses import replace

import pytest

from reslab.spec.config import from_dict, to_dict
from reslab.spec.grammar import parse_words
from reslab.spec.optimizer import Optimizer
from reslab.spec.recipe import Duration, Recipe, Schedule, adjust, parse_duration
from reslab.spec.recipes import RECIPES, get_recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 epochs", Duration(20, "epochs")),
        ("1 epoch", Duration(1, "epochs")),
        ("0.5 epochs", Duration(0.5, "epochs")),
        ("64k steps", Duration(64000, "steps")),
        ("1_500 steps", Duration(1500, "steps")),
        ("0 steps", Duration(0, "steps")),
    ],
)
def test_a_length_has_a_unit(text: str, expected: Duration) -> None:
    assert parse_duration(text) == expected


def test_steps_of_a_length() -> None:
    assert parse_duration("3 epochs").num_steps(22) == 66
    assert parse_duration("0.5 epochs").num_steps(23) == round(11.5)
    assert parse_duration("64k steps").num_steps(22) == 64000


@pytest.mark.parametrize("text", ["20", "epochs", "20 weeks", "-3 epochs", ""])
def test_a_length_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        parse_duration(text)


def test_a_bare_number_is_told_its_unit() -> None:
    with pytest.raises(ValueError, match="nearest valid: '20 epochs'"):
        Recipe("x", "test", length="20")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_json_and_has_a_source(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert len(recipe.source) > 20
    assert all(word.name for word in parse_words(recipe.augment))
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_the_recipe_of_the_2015_paper() -> None:
    recipe = get_recipe("he2015-cifar")
    optimizer = Optimizer("sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert recipe.optimizer == optimizer
    assert optimizer.decay_norm_and_bias
    assert not optimizer.nesterov
    assert recipe.schedule == Schedule("steps", milestones=("32k steps", "48k steps"), gamma=0.1)
    assert not recipe.channels_last
    assert (recipe.length, recipe.batch, recipe.precision) == ("64k steps", 128, "float32")
    assert recipe.augment == "pad(4) crop(32) flip"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'he2015-cifar'"):
        get_recipe("he2015-cifra")


def test_another_batch_scales_the_learning_rate_and_says_so() -> None:
    recipe, notes = adjust(RECIPES["he2015-cifar"], {"batch": "256"})
    assert recipe.optimizer.lr == pytest.approx(0.2)
    assert recipe.batch == 256
    assert notes == ("learning rate 0.1 for batch 128 becomes 0.2 for batch 256",)


def test_a_learning_rate_that_was_said_is_kept() -> None:
    recipe, notes = adjust(RECIPES["he2015-cifar"], {"batch": 256, "optimizer.lr": "0.3"})
    assert (recipe.optimizer.lr, recipe.batch, notes) == (0.3, 256, ())


def test_the_same_batch_changes_nothing() -> None:
    assert adjust(RECIPES["digits"], {"batch": 64}) == (RECIPES["digits"], ())


def test_settings_are_typed_and_their_keys_known() -> None:
    recipe, _ = adjust(RECIPES["digits"], {"schedule.milestones": "2 epochs,3 epochs", "schedule.name": "steps"})
    assert recipe.schedule.milestones == ("2 epochs", "3 epochs")
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        adjust(RECIPES["digits"], {"optimizer.lrr": "0.1"})
    with pytest.raises(ValueError, match="a whole number"):
        adjust(RECIPES["digits"], {"batch": "many"})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer.name", "sdg", "'sgd'"),
        ("optimizer.lr", 0.0, "above 0"),
        ("optimizer.weight_decay", -1.0, "at least 0"),
        ("optimizer.momentum", 0.0, "nesterov"),
        ("schedule.name", "cosin", "'cosine'"),
        ("schedule.name", "steps", "milestones"),
        ("schedule.warmup", "1 epoch", "one-cycle"),
        ("schedule.peak", 1.0, "between 0 and 1"),
        ("length", "0 epochs", "above 0"),
        ("batch", 0, "at least 1"),
        ("label_smoothing", 1.0, "below 1"),
        ("precision", "bf61", "'bf16'"),
        ("augment", "crop(8", "brackets"),
    ],
)
def test_what_means_nothing_is_refused(key: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adjust(RECIPES["digits"], {key: value})


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(AttributeError):
        RECIPES["digits"].batch = 3  # type: ignore[misc]
    assert replace(RECIPES["digits"], batch=3) != RECIPES["digits"]
