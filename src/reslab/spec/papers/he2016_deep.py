"""He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027): Tables 3 to 5, up to 1,001 layers."""

from dataclasses import replace

from reslab.spec.papers.he2016 import DIFFERENCES, PAPER, told
from reslab.spec.papers.presets import four_stages, tests_better, tests_worse, three_stages
from reslab.spec.study import Claim, Cuts, Reported, Row, Study

# Units a stage at short scale, and the paper's test errors: (baseline, pre-activation).
_TABLE3 = {
    ("110-1layer", "cifar10"): ("resnet110_1layer_cifar", 12, (9.90, 8.91)),
    ("110", "cifar10"): ("resnet110_cifar", 6, (6.61, 6.37)),
    ("164", "cifar10"): ("resnet164_cifar", 3, (5.93, 5.46)),
    ("1001", "cifar10"): ("resnet1001_cifar", 12, (7.61, 4.92)),
    ("164", "cifar100"): ("resnet164_cifar", 3, (25.16, 24.33)),
    ("1001", "cifar100"): ("resnet1001_cifar", 12, (27.82, 22.71)),
}
_SMOKE = {"110-1layer": 3, "110": 2, "164": 2, "1001": 3}


def _name(kind: str, depth: str, data: str) -> str:
    return f"{kind}-{depth}" + ("-c100" if data == "cifar100" else "")


def deep_row(kind: str, depth: str, data: str, table: str = "Table 3") -> Row:
    """A network with `original` or `preact` units on a data set, with the median that a table prints."""
    model, units, values = _TABLE3[depth, data]
    return Row(
        _name(kind, depth, data),
        model,
        data,
        "he2016-cifar",
        () if kind == "original" else ("order=full-preact",),
        seeds=5,
        reported=told(values[kind == "preact"], table),
        cuts=three_stages(_SMOKE[depth], units),
    )


def _mean(value: float, std: float, median: float) -> Reported:
    """Of 1,001 layers Table 4 prints mean and spread beside the median; the mean is what ours is."""
    note = f"the median is {median:g}"
    return Reported(value, "mean of 5", where=f"{PAPER}, Table 4", std=std, note=note, confidence="read")


def _better(depth: str, data: str) -> Claim:
    return tests_better(_name("preact", depth, data), _name("original", depth, data))


def _twice_the_steps(cuts: Cuts) -> Cuts:
    """Of half a batch as many pictures."""
    short = cuts.short
    settings = tuple(setting.replace("=1000 steps", "=2000 steps") for setting in short.settings)
    return replace(cuts, short=replace(short, words=short.words.replace("1,000", "2,000"), settings=settings))


_BATCH_64 = replace(
    deep_row("preact", "1001", "cifar10"),
    name="preact-1001-batch64",
    settings=("batch=64", "optimizer.lr=0.1", "schedule.milestones=64k steps,96k steps", "length=128k steps"),
    cuts=_twice_the_steps(three_stages(3, 12, length="128,000")),
    reported=_mean(4.69, 0.20, 4.62),
)
# Table 5: error of one crop of 320 pixels of pictures whose shorter side is 320.
_CROP_320 = "resize(320) center-crop(320)"
_STEPS = (
    "schedule.name=steps",
    "schedule.milestones=30 epochs,60 epochs",
    "length=90 epochs",
)


def _imagenet(name: str, model: str, top1: float, top5: float, *settings: str) -> Row:
    def one(value: float, metric: str = "") -> Reported:
        side = 320 if _test_320(settings) else 224
        return Reported(
            value, protocol=f"one crop of {side} pixels", where=f"{PAPER}, Table 5", confidence="read", metric=metric
        )

    depths = "3, 8, 36, 3" if "152" in model else "3, 24, 36, 3"
    return Row(
        name, model, "imagenet", "he2015-imagenet", settings=(*_STEPS, *settings), reported=one(top1),
        also=(one(top5, "test_error_top5"),), cuts=four_stages(depths),
    )  # fmt: skip


def _test_320(settings: tuple[str, ...]) -> bool:
    return f"test={_CROP_320}" in settings


_320 = f"test={_CROP_320}"
_TABLE5 = (
    _imagenet("original-152-at-224", "resnet152_v1", 23.0, 6.7),
    _imagenet("original-152", "resnet152_v1", 21.3, 5.5, _320),
    _imagenet("preact-152", "preresnet152", 21.1, 5.5, _320),
    _imagenet("original-200", "resnet200", 21.8, 6.0, _320),
    _imagenet("preact-200", "preresnet200", 20.7, 5.3, _320),
    _imagenet("preact-200-aspect", "preresnet200", 20.1, 4.8, _320, "augment=random-resized-crop(224) flip"),
)

HE2016_DEEP: tuple[Study, ...] = (
    Study(
        name="he2016/table3",
        title="Original and pre-activated units, from one-layer skips to 1,001 layers",
        source=f"{PAPER}, Table 3",
        rows=tuple(deep_row(kind, *key) for key in _TABLE3 for kind in ("original", "preact")),
        cuts=three_stages(2, 6),
        claims=tuple(_better(*key) for key in _TABLE3),
        differences=DIFFERENCES,
    ),
    Study(
        name="he2016/table4",
        title="164 and 1,001 pre-activated layers on CIFAR-10 and CIFAR-100",
        source=f"{PAPER}, Table 4",
        rows=(
            deep_row("preact", "164", "cifar10", "Table 4"),
            replace(deep_row("preact", "1001", "cifar10"), reported=_mean(4.89, 0.14, 4.92)),
            _BATCH_64,
            deep_row("original", "164", "cifar100", "Table 4"),
            deep_row("original", "1001", "cifar100", "Table 4"),
            deep_row("preact", "164", "cifar100", "Table 4"),
            replace(deep_row("preact", "1001", "cifar100"), reported=_mean(22.68, 0.22, 22.71)),
        ),
        cuts=three_stages(2, 6),
        claims=(
            tests_better("preact-1001", "preact-164"),
            Claim(
                "preact-1001 tests better than preact-164 on CIFAR-100",
                "preact-1001-c100",
                "<",
                "preact-164-c100",
                "test_error",
            ),
            Claim(
                "1,001 original layers test worse than 164 on CIFAR-100",
                "original-1001-c100",
                ">",
                "original-164-c100",
                "test_error",
            ),
            Claim("a batch of 64 tests better than 128", "preact-1001-batch64", "<", "preact-1001", "test_error"),
        ),
        differences=(
            f"{DIFFERENCES[0]}; of the 1,001 pre-activated layers the paper prints the mean too, which stands here",
            "at a batch of 64 as many pictures are seen, so twice the steps, and the rate stays 0.1: a reading",
        ),
    ),
    Study(
        name="he2016/table5",
        title="152 and 200 layers on ImageNet, original and pre-activated",
        source=f"{PAPER}, Table 5",
        rows=_TABLE5,
        cuts=four_stages("own"),
        claims=(
            tests_better("preact-200", "original-200"),
            tests_better("preact-200", "preact-152"),
            tests_worse("original-200", "original-152"),
            Claim(
                "152 layers test alike, original or pre-activated",
                "preact-152",
                "within",
                "original-152",
                "test_error",
                margin=0.5,
            ),
            Claim(
                "scale and aspect ratio augmentation helps 200 layers",
                "preact-200-aspect",
                "<",
                "preact-200",
                "test_error",
            ),
        ),
        differences=(
            "pictures are normalised by a mean and deviation per channel",
            "one run each; the rate is divided at 30 and 60 of 90 epochs",
            "the original 200 layers stride in the 3x3 convolution, the original 152 in the first 1x1",
        ),
    ),
)
