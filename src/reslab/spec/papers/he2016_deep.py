"""He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027): Tables 3 to 5, up to 1,001 layers."""

from dataclasses import replace

from reslab.spec.papers.presets import cifar_presets, higher_test_error, imagenet_presets, lower_test_error
from reslab.spec.study import Claim, ReportedValue, RowSpec, Study

PAPER = "He et al. 2016, arXiv:1603.05027"
DIFFERENCES = ("the paper's tables give medians of 5 runs; here it is the mean, with the standard deviation",)

# Blocks per stage at short scale, and the paper's test errors: (baseline, pre-activation).
_TABLE3 = {
    ("110-1layer", "cifar10"): ("resnet110_1layer_cifar", 12, (9.90, 8.91)),
    ("110", "cifar10"): ("resnet110_cifar", 6, (6.61, 6.37)),
    ("164", "cifar10"): ("resnet164_cifar", 3, (5.93, 5.46)),
    ("1001", "cifar10"): ("resnet1001_cifar", 12, (7.61, 4.92)),
    ("164", "cifar100"): ("resnet164_cifar", 3, (25.16, 24.33)),
    ("1001", "cifar100"): ("resnet1001_cifar", 12, (27.82, 22.71)),
}
_SMOKE_DEPTHS = {"110-1layer": 3, "110": 2, "164": 2, "1001": 3}


def median_of_5(value: float | None, table: str, note: str = "") -> ReportedValue:
    """Return a value of the paper, a median of five runs."""
    return ReportedValue(value, "median of 5", location=f"{PAPER}, {table}", note=note, provenance="verified")


def _row_name(kind: str, depth: str, data: str) -> str:
    return f"{kind}-{depth}" + ("-c100" if data == "cifar100" else "")


def deep_row(kind: str, depth: str, data: str, table: str = "Table 3") -> RowSpec:
    """Return the row of a network with `original` or `preact` blocks, with the median printed in a table."""
    model, short_depth, values = _TABLE3[depth, data]
    return RowSpec(
        _row_name(kind, depth, data),
        model,
        data,
        "he2016-cifar",
        () if kind == "original" else ("order=full-preact",),
        seeds=5,
        reported=median_of_5(values[kind == "preact"], table),
        presets=cifar_presets(_SMOKE_DEPTHS[depth], short_depth),
    )


def _mean_of_5(value: float, std: float, median: float) -> ReportedValue:
    """Return the mean of Table 4, which prints it beside the median for 1,001 layers; ours is a mean too."""
    note = f"the median is {median:g}"
    return ReportedValue(value, "mean of 5", location=f"{PAPER}, Table 4", std=std, note=note, provenance="verified")


def _preact_is_better(depth: str, data: str) -> Claim:
    return lower_test_error(_row_name("preact", depth, data), _row_name("original", depth, data))


_BATCH_64 = replace(
    deep_row("preact", "1001", "cifar10"),
    name="preact-1001-batch64",
    overrides=("batch_size=64", "optimizer.lr=0.1", "schedule.milestones=64k steps,96k steps", "duration=128k steps"),
    presets=cifar_presets(3, 12, duration="128,000", short_steps=2000),
    reported=_mean_of_5(4.69, 0.20, 4.62),
)
# Table 5: error of one crop of 320 pixels from images whose shorter side is 320.
_CROP_320 = "resize(320) center-crop(320)"
_SCHEDULE = (
    "schedule.name=multistep",
    "schedule.milestones=30 epochs,60 epochs",
    "duration=90 epochs",
)


def _imagenet_row(name: str, model: str, top1: float, top5: float, *overrides: str) -> RowSpec:
    def reported(value: float, metric: str = "") -> ReportedValue:
        size = 320 if _evaluates_at_320(overrides) else 224
        return ReportedValue(
            value,
            protocol=f"one crop of {size} pixels",
            location=f"{PAPER}, Table 5",
            provenance="verified",
            metric=metric,
        )

    depths = "3, 8, 36, 3" if "152" in model else "3, 24, 36, 3"
    return RowSpec(
        name, model, "imagenet", "he2015-imagenet", overrides=(*_SCHEDULE, *overrides), reported=reported(top1),
        more_reported=(reported(top5, "test_error_top5"),), presets=imagenet_presets(depths),
    )  # fmt: skip


def _evaluates_at_320(overrides: tuple[str, ...]) -> bool:
    return f"eval_transform={_CROP_320}" in overrides


_EVAL_320 = f"eval_transform={_CROP_320}"
_TABLE5 = (
    _imagenet_row("original-152-at-224", "resnet152_v1", 23.0, 6.7),
    _imagenet_row("original-152", "resnet152_v1", 21.3, 5.5, _EVAL_320),
    _imagenet_row("preact-152", "preresnet152", 21.1, 5.5, _EVAL_320),
    _imagenet_row("original-200", "resnet200", 21.8, 6.0, _EVAL_320),
    _imagenet_row("preact-200", "preresnet200", 20.7, 5.3, _EVAL_320),
    _imagenet_row(
        "preact-200-aspect", "preresnet200", 20.1, 4.8, _EVAL_320, "train_transform=random-resized-crop(224) flip"
    ),
)

HE2016_DEEP: tuple[Study, ...] = (
    Study(
        name="he2016/table3",
        title="Original and pre-activated blocks, from one-layer skips to 1,001 layers",
        reference=f"{PAPER}, Table 3",
        rows=tuple(deep_row(kind, *key) for key in _TABLE3 for kind in ("original", "preact")),
        presets=cifar_presets(2, 6),
        claims=tuple(_preact_is_better(*key) for key in _TABLE3),
        differences=DIFFERENCES,
    ),
    Study(
        name="he2016/table4",
        title="164 and 1,001 pre-activated layers on CIFAR-10 and CIFAR-100",
        reference=f"{PAPER}, Table 4",
        rows=(
            deep_row("preact", "164", "cifar10", "Table 4"),
            replace(deep_row("preact", "1001", "cifar10"), reported=_mean_of_5(4.89, 0.14, 4.92)),
            _BATCH_64,
            deep_row("original", "164", "cifar100", "Table 4"),
            deep_row("original", "1001", "cifar100", "Table 4"),
            deep_row("preact", "164", "cifar100", "Table 4"),
            replace(deep_row("preact", "1001", "cifar100"), reported=_mean_of_5(22.68, 0.22, 22.71)),
        ),
        presets=cifar_presets(2, 6),
        claims=(
            lower_test_error("preact-1001", "preact-164"),
            Claim(
                "preact-1001 has a lower test error than preact-164 on CIFAR-100",
                "preact-1001-c100",
                "<",
                "preact-164-c100",
                "test_error",
            ),
            Claim(
                "original-1001 has a higher test error than original-164 on CIFAR-100",
                "original-1001-c100",
                ">",
                "original-164-c100",
                "test_error",
            ),
            Claim(
                "a batch of 64 has a lower test error than 128", "preact-1001-batch64", "<", "preact-1001", "test_error"
            ),
        ),
        differences=(
            f"{DIFFERENCES[0]}; for 1,001 pre-activated layers the paper prints the mean too, which is used here",
            "a batch of 64 sees as many images in twice the steps, and the learning rate stays 0.1 (our reading)",
        ),
    ),
    Study(
        name="he2016/table5",
        title="152 and 200 layers on ImageNet, original and pre-activated",
        reference=f"{PAPER}, Table 5",
        rows=_TABLE5,
        presets=imagenet_presets(),
        claims=(
            lower_test_error("preact-200", "original-200"),
            lower_test_error("preact-200", "preact-152"),
            higher_test_error("original-200", "original-152"),
            Claim(
                "152 original and 152 pre-activated layers reach the same test error",
                "preact-152",
                "within",
                "original-152",
                "test_error",
                margin=0.5,
            ),
            Claim(
                "scale and aspect ratio augmentation lowers the test error of 200 layers",
                "preact-200-aspect",
                "<",
                "preact-200",
                "test_error",
            ),
        ),
        differences=(
            "images are normalized by a mean and standard deviation per channel",
            "one run each; the learning rate is divided at epochs 30 and 60 of 90",
            "the original 200 layers have the stride in the 3x3 convolution, the original 152 in the first 1x1",
        ),
    ),
)
