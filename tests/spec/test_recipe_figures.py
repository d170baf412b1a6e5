"""The figures of each recipe against those that its source prints."""

import pytest

from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from reslab.spec.zoo import ARCHS

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
# Length, batch, and the rates as factors: schedule, warm-up, milestones, gamma.
COURSES = {
    "he2015-cifar": ("64k steps", 128, "steps", "0 steps", ("32k steps", "48k steps"), 0.1),
    "he2015-imagenet": ("600k steps", 256, "plateau", "0 steps", (), 0.1),
    "he2015-cifar-110": ("64k steps", 128, "steps", "until error 80%", ("32k steps", "48k steps"), 0.1),
    "he2016-cifar": ("64k steps", 128, "steps", "400 steps", ("32k steps", "48k steps"), 0.1),
    "wrn-cifar": ("200 epochs", 128, "steps", "0 steps", ("60 epochs", "120 epochs", "160 epochs"), 0.2),
    "stochastic-depth": ("500 epochs", 128, "steps", "0 steps", ("250 epochs", "375 epochs"), 0.1),
    "goyal2017": ("90 epochs", 256, "steps", "5 epochs", ("30 epochs", "60 epochs", "80 epochs"), 0.1),
    "torchvision-v1": ("90 epochs", 256, "steps", "0 steps", ("30 epochs", "60 epochs"), 0.1),
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
    found = recipe.optimizer
    return found.name, found.lr, found.momentum, found.nesterov, found.weight_decay, found.decay_norm_and_bias


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_optimizer(name: str) -> None:
    assert optimizer_of(RECIPES[name]) == OPTIMIZERS[name]


@pytest.mark.parametrize("name", sorted(COURSES))
def test_length_batch_and_schedule(name: str) -> None:
    recipe, found = RECIPES[name], RECIPES[name].schedule
    assert (recipe.length, recipe.batch, found.name, found.warmup, found.milestones, found.gamma) == COURSES[name]


@pytest.mark.parametrize("name", sorted(AUGMENT))
def test_the_augmentation(name: str) -> None:
    assert RECIPES[name].augment == AUGMENT[name]


def test_resnet_strikes_back() -> None:
    found = [RECIPES[name] for name in ("rsb-a1", "rsb-a2", "rsb-a3")]
    assert [recipe.label_smoothing for recipe in found] == [0.1, 0.0, 0.0]
    assert [recipe.repeats for recipe in found] == [3, 3, 1]
    assert [recipe.axes for recipe in found] == [("mix=drop-path(0.05)",)] * 2 + [()]
    assert {recipe.test for recipe in found} == {"resize(236,bicubic) center-crop(224)"}
    assert {recipe.schedule.start for recipe in found} == {1e-4}
    assert [recipe.schedule.end * recipe.optimizer.lr for recipe in found] == pytest.approx([1e-6] * 3)
    assert all(recipe.loss.startswith("bce") for recipe in found)


def test_torchvision_s_new_recipe() -> None:
    recipe = RECIPES["torchvision-v2"]
    assert (recipe.label_smoothing, recipe.repeats, recipe.ema_every) == (0.1, 4, 32)
    assert recipe.test == "resize(232) center-crop(224)"
    assert recipe.ema == pytest.approx(0.998908, abs=1e-6)  # 1 - (1 - 0.99998) 1024 32 / 600
    assert recipe.schedule.start == 0.01


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
        assert (schedule.start, schedule.warmup_shape) == (0.1, "constant")  # 0.01 of 0.1
    assert RECIPES["goyal2017"].schedule.start_lr == 0.1
    assert RECIPES["goyal2017"].axes == ("last_norm_weight=0", "init=goyal")
    assert RECIPES["bag-of-tricks"].axes == ("last_norm_weight=0", "init=xavier")


def test_recipes_with_a_mean_of_each_pixel() -> None:
    found = {name for name, recipe in RECIPES.items() if recipe.pixel_mean}
    assert found == {"he2015-cifar", "he2015-cifar-110", "he2016-cifar", "stochastic-depth"}


def test_recipes_of_others_compute_in_float32_and_name_what_they_are_for() -> None:
    ours = {name for name, recipe in RECIPES.items() if recipe.source.startswith("our own")}
    for name in sorted(set(RECIPES) - ours):
        recipe = RECIPES[name]
        assert (recipe.precision, recipe.channels_last, recipe.compile) == ("float32", False, False)
        assert recipe.model in ARCHS
        assert recipe.data in ("cifar10", "cifar2", "imagenet", "fashion-mnist")
    assert RECIPES["d2l-fashion"].mean == (0.0,)
    assert RECIPES["d2l-fashion"].std == (1.0,)
    assert RECIPES["stochastic-depth"].val_fraction == 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unfreeze": ("head",)}, "PART: LENGTH"),
        ({"unfreeze": ("head: 1 epoch",)}, "from the start"),
        ({"unfreeze": ("head: 0 epochs", "head: 2 epochs")}, "once"),
        ({"axes": ("mix",)}, "AXIS=VALUE"),
        ({"val_fraction": 1.0}, "below 1"),
        ({"mean": (0.5,)}, "every channel"),
        ({"repeats": 0}, "at least 1"),
        ({"l2": -0.1}, "at least 0"),
    ],
)
def test_what_means_nothing_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe("x", "test", **settings)  # type: ignore[arg-type]
