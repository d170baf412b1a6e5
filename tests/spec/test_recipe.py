"""Recipes: lengths with units, the learning rate's batch, refusals, and the way to JSON and back.

The figures of each recipe against those that its source prints.
"""

import json
from dataclasses import replace
from typing import Any

import pytest

from reslab.spec.config import from_dict, to_dict
from reslab.spec.grammar import parse_ops
from reslab.spec.optim import Duration, OptimizerConfig, ScheduleConfig, parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides, expand_recipe_keys
from reslab.spec.recipes import RECIPES, find_recipe
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import DENSE_ARCHS


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


def test_a_bare_number_is_reported_its_unit() -> None:
    with pytest.raises(ValueError, match="nearest valid: '20 epochs'"):
        Recipe("x", "test", duration="20")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_json_and_has_a_source(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert len(recipe.reference) > 20
    assert all(word.name for word in parse_ops(recipe.train_transform))
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_the_recipe_of_the_2015_paper() -> None:
    recipe = find_recipe("he2015-cifar")
    optimizer = OptimizerConfig("sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert recipe.optimizer == optimizer
    assert optimizer.decay_norm_and_bias
    assert not optimizer.nesterov
    assert recipe.schedule == ScheduleConfig("multistep", milestones=("32k steps", "48k steps"), gamma=0.1)
    assert not recipe.channels_last
    assert (recipe.duration, recipe.batch_size, recipe.precision) == ("64k steps", 128, "float32")
    assert recipe.train_transform == "pad(4) crop(32) flip"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'he2015-cifar'"):
        find_recipe("he2015-cifra")


def test_another_batch_size_scales_the_learning_rate_with_a_message() -> None:
    recipe, notes = apply_recipe_overrides(RECIPES["he2015-cifar"], {"batch_size": "256"})
    assert recipe.optimizer.lr == pytest.approx(0.2)
    assert recipe.batch_size == 256
    assert notes == ("learning rate 0.1 for batch 128 becomes 0.2 for batch 256",)


def test_a_learning_rate_that_was_reported_is_kept() -> None:
    recipe, notes = apply_recipe_overrides(RECIPES["he2015-cifar"], {"batch_size": 256, "optimizer.lr": "0.3"})
    assert (recipe.optimizer.lr, recipe.batch_size, notes) == (0.3, 256, ())


def test_the_same_batch_changes_nothing() -> None:
    assert apply_recipe_overrides(RECIPES["digits"], {"batch_size": 64}) == (RECIPES["digits"], ())


def test_settings_are_typed_and_their_keys_known() -> None:
    recipe, _ = apply_recipe_overrides(
        RECIPES["digits"], {"schedule.milestones": "2 epochs,3 epochs", "schedule.name": "multistep"}
    )
    assert recipe.schedule.milestones == ("2 epochs", "3 epochs")
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        apply_recipe_overrides(RECIPES["digits"], {"optimizer.lrr": "0.1"})
    with pytest.raises(ValueError, match="a whole number"):
        apply_recipe_overrides(RECIPES["digits"], {"batch_size": "many"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.name", "sdg", "'sgd'"),
        ("optimizer.lr", 0.0, "above 0"),
        ("optimizer.weight_decay", -1.0, "at least 0"),
        ("optimizer.momentum", 0.0, "nesterov"),
        ("schedule.name", "cosin", "'cosine'"),
        ("schedule.name", "multistep", "milestones"),
        ("schedule.warmup", "1 epoch", "one-cycle"),
        ("schedule.pct_start", 1.0, "between 0 and 1"),
        ("duration", "0 epochs", "above 0"),
        ("batch_size", 0, "at least 1"),
        ("label_smoothing", 1.0, "below 1"),
        ("precision", "bf61", "'bf16'"),
        ("train_transform", "crop(8", "brackets"),
        ("normalize.mean", "0.5", "every channel"),
        ("normalize.per_pixel_mean", "maybe", "true or false"),
        ("ema.decay", "1", "ema.decay from 0 .none. to below 1"),
        ("ema.every", "0", "at least 1 step"),
        ("early_stopping.patience", "3", "'3 epochs'"),
        ("early_stopping.metric", "topp1", "'top1'"),
        ("distill.alpha", "1.5", "distill.alpha from 0 to 1"),
        ("distill.temperature", "0", "distill.temperature"),
        ("ema", "0.9", "ema"),
    ],
)
def test_invalid_values_raise(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_recipe_overrides(RECIPES["digits"], {key: value})


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(AttributeError):
        RECIPES["digits"].batch_size = 3  # type: ignore[misc]
    assert replace(RECIPES["digits"], batch_size=3) != RECIPES["digits"]


# Optimizer, rate, momentum, Nesterov's, weight decay, whether norms and biases decay.
OPTIMIZERS = {
    "he2015-cifar": ("sgd", 0.1, 0.9, False, 1e-4, True),
    "he2015-cifar-110": ("sgd", 0.1, 0.9, False, 1e-4, True),
    "he2015-imagenet": ("sgd", 0.1, 0.9, False, 1e-4, True),
    "he2016-cifar": ("sgd", 0.1, 0.9, False, 1e-4, True),
    "wrn-cifar": ("sgd", 0.1, 0.9, True, 5e-4, True),
    "stochastic-depth": ("sgd", 0.1, 0.9, True, 1e-4, True),
    "goyal2017": ("sgd", 0.1, 0.9, True, 1e-4, False),
    "bag-of-tricks": ("sgd", 0.4, 0.9, True, 1e-4, False),
    "torchvision-v1": ("sgd", 0.1, 0.9, False, 1e-4, True),
    "torchvision-v2": ("sgd", 0.5, 0.9, False, 2e-5, False),
    "rsb-a1": ("lamb", 0.005, 0.9, False, 0.01, False),
    "rsb-a2": ("lamb", 0.005, 0.9, False, 0.02, False),
    "rsb-a3": ("lamb", 0.008, 0.9, False, 0.02, False),
    "d2l-fashion": ("sgd", 0.05, 0.0, False, 0.0, True),
    "book-ch8": ("sgd", 1e-2, 0.0, False, 0.0, True),
    "book-ch8-res-deep": ("sgd", 3e-3, 0.0, False, 0.0, True),
    "book-ch8-l2": ("sgd", 1e-2, 0.0, False, 0.0, True),
    "book-ch8-weight-decay": ("sgd", 1e-2, 0.0, False, 0.002, True),
    "book-ch8-l1": ("sgd", 1e-2, 0.0, False, 0.0, True),
    "book-ch8-dropout": ("sgd", 1e-2, 0.0, False, 0.0, True),
    "book-ch8-batch-norm": ("sgd", 1e-2, 0.0, False, 0.0, True),
}
# Length, batch, and the rates as factors: schedule, warmup, milestones, gamma.
COURSES = {
    "he2015-cifar": ("64k steps", 128, "multistep", "0 steps", ("32k steps", "48k steps"), 0.1),
    "he2015-imagenet": ("600k steps", 256, "plateau", "0 steps", (), 0.1),
    "he2015-cifar-110": ("64k steps", 128, "multistep", "until error 80%", ("32k steps", "48k steps"), 0.1),
    "he2016-cifar": ("64k steps", 128, "multistep", "400 steps", ("32k steps", "48k steps"), 0.1),
    "wrn-cifar": ("200 epochs", 128, "multistep", "0 steps", ("60 epochs", "120 epochs", "160 epochs"), 0.2),
    "stochastic-depth": ("500 epochs", 128, "multistep", "0 steps", ("250 epochs", "375 epochs"), 0.1),
    "goyal2017": ("90 epochs", 256, "multistep", "5 epochs", ("30 epochs", "60 epochs", "80 epochs"), 0.1),
    "torchvision-v1": ("90 epochs", 256, "multistep", "0 steps", ("30 epochs", "60 epochs"), 0.1),
    "torchvision-v2": ("600 epochs", 8 * 128, "cosine", "5 epochs", (), 0.1),
    "rsb-a1": ("600 epochs", 2048, "cosine", "5 epochs", (), 0.1),
    "rsb-a2": ("300 epochs", 2048, "cosine", "5 epochs", (), 0.1),
    "rsb-a3": ("100 epochs", 2048, "cosine", "5 epochs", (), 0.1),
    "d2l-fashion": ("10 epochs", 256, "constant", "0 steps", (), 0.1),
    "book-ch8": ("100 epochs", 64, "constant", "0 steps", (), 0.1),
}
AUGMENT = {
    "he2015-cifar": "pad(4) crop(32) flip",
    "he2015-imagenet": "random-scale-crop(224,256,480) flip lighting(0.1)",
    "he2016-cifar": "pad(4) crop(32) flip",
    "wrn-cifar": "pad(4,reflect) crop(32) flip",
    "torchvision-v2": "random-resized-crop(176) flip trivial-augment erase(0.1) mixup(0.2) cutmix(1)",
    "rsb-a1": "random-resized-crop(224,bicubic) flip randaugment(7,0.5) mixup(0.2) cutmix(1)",
    "rsb-a2": "random-resized-crop(224,bicubic) flip randaugment(7,0.5) mixup(0.1) cutmix(1)",
    "rsb-a3": "random-resized-crop(160,bicubic) flip randaugment(6,0.5) mixup(0.1) cutmix(1)",
    "d2l-fashion": "resize(96)",
    "book-ch8": "",
}


def optimizer_of(recipe: Recipe) -> tuple[object, ...]:
    optimizer = recipe.optimizer
    return (
        optimizer.name,
        optimizer.lr,
        optimizer.momentum,
        optimizer.nesterov,
        optimizer.weight_decay,
        optimizer.decay_norm_and_bias,
    )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_optimizer(name: str) -> None:
    assert optimizer_of(RECIPES[name]) == OPTIMIZERS[name]


@pytest.mark.parametrize("name", sorted(COURSES))
def test_length_batch_and_schedule(name: str) -> None:
    recipe, result = RECIPES[name], RECIPES[name].schedule
    assert (recipe.duration, recipe.batch_size, result.name, result.warmup, result.milestones, result.gamma) == COURSES[
        name
    ]


@pytest.mark.parametrize("name", sorted(AUGMENT))
def test_the_augmentation(name: str) -> None:
    assert RECIPES[name].train_transform == AUGMENT[name]


def test_resnet_strikes_back() -> None:
    result = [RECIPES[name] for name in ("rsb-a1", "rsb-a2", "rsb-a3")]
    assert [recipe.label_smoothing for recipe in result] == [0.1, 0.0, 0.0]
    assert [recipe.repeated_augmentation for recipe in result] == [3, 3, 1]
    assert [recipe.arch for recipe in result] == [("merge=drop-path(0.05)",)] * 2 + [()]
    assert {recipe.eval_transform for recipe in result} == {"resize(236,bicubic) center-crop(224)"}
    assert {recipe.schedule.warmup_factor for recipe in result} == {1e-4}
    assert [recipe.schedule.final_factor * recipe.optimizer.lr for recipe in result] == pytest.approx([1e-6] * 3)
    assert all(recipe.loss.startswith("bce") for recipe in result)


def test_torchvision_s_new_recipe() -> None:
    recipe = RECIPES["torchvision-v2"]
    assert (recipe.label_smoothing, recipe.repeated_augmentation, recipe.ema.every) == (0.1, 4, 32)
    assert recipe.eval_transform == "resize(232) center-crop(224)"
    assert recipe.ema.decay == pytest.approx(0.998908, abs=1e-6)  # 1 - (1 - 0.99998) 1024 32 / 600
    assert recipe.schedule.warmup_factor == 0.01


def test_the_book_s_variants() -> None:
    assert (RECIPES["book-ch8-l2"].l2, RECIPES["book-ch8-l1"].l1) == (0.001, 0.001)
    assert RECIPES["book-ch8-weight-decay"].optimizer.weight_decay == 2 * RECIPES["book-ch8-l2"].l2
    assert "drop2d(0.4)" in ARCHS[RECIPES["book-ch8-dropout"].model].stem
    assert "norm" in ARCHS[RECIPES["book-ch8-batch-norm"].model].stem
    assert ARCHS[RECIPES["book-ch8-res-deep"].model].depths == (100,)
    assert {RECIPES[name].data for name in RECIPES if name.startswith("book")} == {"cifar2"}


def test_warm_ups_begin_at_a_tenth() -> None:
    for name in ("he2015-cifar-110", "he2016-cifar"):
        schedule = RECIPES[name].schedule
        assert (schedule.warmup_factor, schedule.warmup_shape) == (0.1, "constant")  # 0.01 of 0.1
    assert RECIPES["goyal2017"].schedule.warmup_lr == 0.1
    assert RECIPES["goyal2017"].arch == ("last_norm_weight=0", "init=goyal")
    assert RECIPES["bag-of-tricks"].arch == ("last_norm_weight=0", "init=xavier")


def test_recipes_with_a_mean_of_each_pixel() -> None:
    result = {name for name, recipe in RECIPES.items() if recipe.normalize.per_pixel_mean}
    assert result == {"he2015-cifar", "he2015-cifar-110", "he2016-cifar", "stochastic-depth"}


def test_recipes_of_others_compute_in_float32_and_name_what_they_are_for() -> None:
    ours = {name for name, recipe in RECIPES.items() if recipe.reference.startswith("our own")}
    for name in sorted(set(RECIPES) - ours):
        recipe = RECIPES[name]
        assert (recipe.precision, recipe.channels_last, recipe.compile) == ("float32", False, False)
        is_dense = recipe.model in DENSE_ARCHS  # whose data, VOC and COCO, are named by their path
        assert is_dense or recipe.model in ARCHS
        assert is_dense == (recipe.data not in ("cifar10", "cifar2", "imagenet", "fashion-mnist"))
    assert RECIPES["d2l-fashion"].normalize.mean == (0.0,)
    assert RECIPES["d2l-fashion"].normalize.std == (1.0,)
    assert RECIPES["stochastic-depth"].val_fraction == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze": ("head",)}, "PART: START"),
        ({"unfreeze": ("head: 1 epoch",)}, "from the start"),
        ({"unfreeze": ("head: 10%",)}, "from the start"),
        ({"unfreeze": ("head: 0%", "all: 100%")}, "below 100%"),
        ({"unfreeze": ("head: 0 epochs", "head: 2 epochs")}, "once"),
        ({"arch": ("mix",)}, "AXIS=VALUE"),
        ({"val_fraction": 1.0}, "below 1"),
        ({"repeated_augmentation": 0}, "at least 1"),
        ({"eval_interval": 0}, "at least 1 epoch"),
        ({"l2": -0.1}, "at least 0"),
    ],
)
def test_invalid_figures_of_a_recipe_raise(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("x", "test", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "written_out"),
    [
        ({"lr": "0.3"}, {"optimizer.lr": "0.3"}),
        ({"weight_decay": 1e-3}, {"optimizer.weight_decay": 1e-3}),
        ({"optimizer": "adamw"}, {"optimizer.name": "adamw"}),
        ({"schedule": "cosine"}, {"schedule.name": "cosine"}),
        ({"epochs": 3}, {"duration": "3 epochs"}),
        ({"epochs": "1"}, {"duration": "1 epoch"}),
        ({"epochs": "2.5"}, {"duration": "2.5 epochs"}),
        ({"size": 64}, {"image_size": 64}),
        ({"teacher": "runs/x", "mean": "0.5"}, {"distill.teacher": "runs/x", "normalize.mean": "0.5"}),
        ({"batch_size": 8, "model": "x", "model.order": "y"}, {"batch_size": 8, "model": "x", "model.order": "y"}),
        ({"optimizer": {"lr": 1.0}}, {"optimizer": {"lr": 1.0}}),
        ({"nonsense": 1}, {"nonsense": 1}),
    ],
)
def test_short_keys_are_written_out(given: dict[str, Any], written_out: dict[str, Any]) -> None:
    assert expand_recipe_keys(given) == written_out
    assert expand_recipe_keys(written_out) == written_out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"warmup": "1 epoch"}, "schedule.warmup, ema.warmup"),
        ({"patience": "3"}, "schedule.patience, early_stopping.patience"),
        ({"ema": "0.999"}, "ema.decay, ema.every, ema.warmup"),
        ({"optimizer": 0.1}, "optimizer.name, optimizer.lr"),
        ({"lr": 1, "optimizer.lr": 2}, "optimizer.lr once"),
        ({"epochs": 1, "duration": "2 epochs"}, "duration once"),
    ],
)
def test_short_keys_that_are_ambiguous_or_given_twice_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_recipe_keys(given)


def test_one_cycle_needs_no_second_setting() -> None:
    base = RECIPES["photos"]
    recipe, messages = apply_recipe_overrides(base, {"schedule": "one-cycle"})
    assert (recipe.schedule.name, recipe.schedule.warmup) == ("one-cycle", "0 steps")
    assert "1 epoch" in messages[0]
    assert apply_recipe_overrides(recipe, {"schedule": "one-cycle"}) == (recipe, ())
    with pytest.raises(ValueError, match="one-cycle"):
        apply_recipe_overrides(base, {"schedule.name": "one-cycle", "schedule.warmup": "1 epoch"})


def test_the_learning_rate_of_another_optimizer_is_reported() -> None:
    recipe, messages = apply_recipe_overrides(RECIPES["cifar"], {"optimizer": "adamw"})
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw", 0.2)
    assert "--lr 0.001" in messages[0]
    assert apply_recipe_overrides(RECIPES["cifar"], {"optimizer": "adamw", "lr": "0.01"})[1] == ()


def test_another_optimizer_drops_the_arguments_of_the_recipes_own() -> None:
    base = RECIPES["photos-scratch"]
    assert base.optimizer.kwargs
    recipe, messages = apply_recipe_overrides(base, {"optimizer": "sgd", "lr": 0.01})
    assert (recipe.optimizer.name, recipe.optimizer.kwargs) == ("sgd", "")
    assert messages == ("the recipe's arguments of muon are dropped",)
    given = {"optimizer": "sgd", "lr": 0.01, "optimizer.kwargs": "dampening=0.1"}
    assert apply_recipe_overrides(base, given)[0].optimizer.kwargs == "dampening=0.1"
    assert apply_recipe_overrides(base, {"optimizer": "muon"}) == (base, ())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", "fast", "optimizer.lr as a number; got: 'fast'; nearest valid: optimizer.lr=0.1"),
        ("batch_size", "64.0", "batch_size as a whole number; got: '64.0'; nearest valid: batch_size=64"),
        ("channels_last", "maybe", "channels_last as true or false; got: 'maybe'; nearest valid: channels_last=false"),
        ("optimizer.betas", "x", "none or numbers separated by commas"),
        ("unfreeze", 3, "unfreeze as values separated by commas"),
        ("duration", 3, "duration as text; got: 3; nearest valid: duration=20 epochs"),
        ("duration", "3", "nearest valid: '3 epochs'"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_type_and_an_example(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        apply_recipe_overrides(Recipe("", ""), {key: value})
    assert message in str(error.value)
