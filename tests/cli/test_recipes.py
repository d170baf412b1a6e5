"""`reslab recipes NAME`: every value, which differ from the defaults, and the reference."""

from reslab.cli.lists import changed_keys, flatten_recipe, format_value
from reslab.spec.config import override, override_keys
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from tests.cli.conftest import Command


def test_one_recipe_with_its_source_and_every_value(command: Command) -> None:
    outcome = command("recipes", "d2l-fashion")
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    assert "Dive into Deep Learning" in lines["reference"]
    assert "4,680" in lines["notes"]
    assert set(flatten_recipe(RECIPES["d2l-fashion"])) <= set(lines)
    assert lines["optimizer.lr"].split()[1:] == ["0.05", "default", "0.1"]
    assert lines["optimizer.name"].split()[1:] == ["sgd"]


def test_one_recipe_as_json(command: Command) -> None:
    value = command("recipes", "he2015-cifar", "--json").value
    assert value["optimizer"]["weight_decay"] == 1e-4
    assert {"optimizer.weight_decay", "schedule.milestones", "duration", "train_transform"} <= set(value["differs"])
    assert "batch_size" not in value["differs"]


def test_the_keys_are_those_of_set() -> None:
    recipe = RECIPES["rsb-a1"]
    assert set(flatten_recipe(recipe)) < set(override_keys(recipe))
    again = override(
        Recipe("", ""),
        {key: format_value(flatten_recipe(recipe)[key]) for key in ("batch_size", "train_transform", "loss")},
    )
    assert (again.batch_size, again.train_transform, again.loss) == (
        recipe.batch_size,
        recipe.train_transform,
        recipe.loss,
    )
    assert changed_keys(Recipe("", "")) == []


def test_an_unknown_recipe_names_the_nearest(command: Command) -> None:
    outcome = command("recipes", "rsb-a9")
    assert outcome.code == 1
    assert "rsb-a1" in outcome.err
