"""Papers that change the network or its training: stochastic depth, wide networks, large batches.

Huang et al. 2016, Deep Networks with Stochastic Depth (arXiv:1603.09382).
Zagoruyko and Komodakis 2016, Wide Residual Networks (arXiv:1605.07146).
Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv:1706.02677): the last norm of each branch starts at zero.
"""

from dataclasses import replace

from reslab.spec.papers.he2016_deep import deep_row
from reslab.spec.papers.presets import cifar_presets, imagenet_presets, lower_test_error
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_HUANG = "Huang et al. 2016, arXiv:1603.09382"
_README = "github.com/yueatsprograms/Stochastic_Depth, README"
_BEST_EPOCH = "single, at the best validation epoch"
_HUANG_PRESETS = cifar_presets(3, duration="500 epochs")


def _huang_row(name: str, data: str, merge: str, reported: ReportedValue) -> RowSpec:
    return RowSpec(
        name,
        "resnet110_cifar",
        data,
        "stochastic-depth",
        (f"merge={merge}",),
        seeds=3,
        reported=reported,
        presets=_HUANG_PRESETS,
    )


_CONSTANT = _huang_row(
    "constant-110", "cifar10", "add", ReportedValue(6.41, _BEST_EPOCH, location=_README, provenance="verified")
)
_STOCHASTIC = _huang_row(
    "stochastic-110",
    "cifar10",
    "stochastic-depth(0.5) add",
    ReportedValue(
        5.23,
        _BEST_EPOCH,
        location=f"{_HUANG}, Table 1",
        note="5.25 in early versions and the README",
        provenance="verified",
    ),
)

HUANG2016: tuple[Study, ...] = (
    Study(
        name="stochastic_depth2016/table1",
        title="Training a random subset of blocks improves a deep network",
        reference=f"{_HUANG}, Table 1 and Fig. 3",
        rows=(
            _CONSTANT,
            _STOCHASTIC,
            _huang_row(
                "constant-110-c100", "cifar100", "add", ReportedValue(27.22, _BEST_EPOCH, location=f"{_HUANG}, Table 1")
            ),
            _huang_row(
                "stochastic-110-c100",
                "cifar100",
                "stochastic-depth(0.5) add",
                ReportedValue(
                    24.58,
                    _BEST_EPOCH,
                    location=f"{_HUANG}, Table 1",
                    note="24.98 in early versions",
                    provenance="verified",
                ),
            ),
            replace(
                _STOCHASTIC,
                name="stochastic-1202",
                model="resnet1202_cifar",
                seeds=1,
                reported=ReportedValue(4.91, _BEST_EPOCH, location=f"{_HUANG}, Table 1", provenance="verified"),
                presets=cifar_presets(4, 36, duration="500 epochs"),
            ),
        ),
        presets=_HUANG_PRESETS,
        claims=(
            Claim("stochastic depth lowers the test error", "stochastic-110", "<", "constant-110", "test_error"),
            Claim(
                "stochastic depth lowers the test error on CIFAR-100",
                "stochastic-110-c100",
                "<",
                "constant-110-c100",
                "test_error",
            ),
            Claim(
                "stochastic depth raises the training loss",
                "stochastic-110",
                ">",
                "constant-110",
                "train_loss",
            ),
            Claim("stochastic depth trains in less time", "stochastic-110", "<", "constant-110", "train_seconds"),
            Claim(
                "1,202 layers have a lower test error than 110", "stochastic-1202", "<", "stochastic-110", "test_error"
            ),
        ),
        figures=(
            FigureSpec(
                "loss_and_error",
                "Training loss and test error against iterations",
                (
                    FigurePanel("CIFAR-10, 110 layers", ("constant-110", "stochastic-110")),
                    FigurePanel("CIFAR-100, 110 layers", ("constant-110-c100", "stochastic-110-c100")),
                ),
                location="Fig. 3",
            ),
        ),
        differences=(
            "the weights of the last step are evaluated; the paper's table takes the epoch with the best validation "
            "error on 5,000 images",
            "optimizer, batch size and weight decay are those of the authors' code",
        ),
    ),
)


_ZAGORUYKO = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_TABLE5 = {
    "WRN-40-4": ("wrn40_4_cifar", 4.53, 21.18),
    "WRN-16-8": ("wrn16_8_cifar", 4.27, 20.43),
    "WRN-28-10": ("wrn28_10_cifar", 4.00, 19.25),
}
# Blocks per stage on the digits, and a quarter of the widths at short scale.
_WIDE_SMOKE_DEPTHS = {"WRN-40-4": 3, "WRN-16-8": 1, "WRN-28-10": 2}
_QUARTER_WIDTHS = {"WRN-40-4": "16,32,64", "WRN-16-8": "32,64,128", "WRN-28-10": "40,80,160"}


def _wide_row(name: str, data: str) -> RowSpec:
    model, cifar10_error, cifar100_error = _TABLE5[name]
    value = cifar10_error if data == "cifar10" else cifar100_error
    reported = ReportedValue(value, "median of 5", location=f"{_ZAGORUYKO}, Table 5", provenance="verified")
    row_name = name if data == "cifar10" else f"{name}-c100"
    presets = cifar_presets(_WIDE_SMOKE_DEPTHS[name], duration="200 epochs", quarter_widths=_QUARTER_WIDTHS[name])
    return RowSpec(row_name, model, data, "wrn-cifar", seeds=5, reported=reported, presets=presets)


def _table5_rows(data: str) -> tuple[RowSpec, ...]:
    """Return the rows of the thin networks, with the values of He et al. 2016, then the wide ones."""
    thin_rows = (deep_row("preact", depth, data, "Table 4") for depth in ("164", "1001"))
    return (*thin_rows, *(_wide_row(name, data) for name in _TABLE5))


ZAGORUYKO2016: tuple[Study, ...] = (
    Study(
        name="wrn2016/table5",
        title="Wide, shallow networks beat thin, deep ones",
        reference=f"{_ZAGORUYKO}, Table 5",
        rows=(*_table5_rows("cifar10"), *_table5_rows("cifar100")),
        presets=cifar_presets(2),
        claims=(
            lower_test_error("WRN-28-10", "preact-164"),
            lower_test_error("WRN-28-10", "preact-1001"),
            lower_test_error("WRN-28-10", "WRN-40-4"),
            lower_test_error("WRN-16-8", "WRN-40-4"),
            lower_test_error("WRN-28-10-c100", "preact-164-c100"),
            lower_test_error("WRN-28-10-c100", "preact-1001-c100"),
            lower_test_error("WRN-28-10-c100", "WRN-40-4-c100"),
        ),
        differences=("the paper's table gives medians of 5 runs; here it is the mean, with the standard deviation",),
        notes="The paper's table gives ResNet-1202 10.2 M parameters and puts the CIFAR-100 errors of 164 and 1,001 "
        "layers in the rows of 110 and 1,202; the values of the thin networks here come from He et al. 2016.",
    ),
)


_GOYAL = "Goyal et al. 2017, arXiv:1706.02677"
_LARGE_BATCH = ("batch_size=8192", "optimizer.lr=3.2")


_GOYAL_PRESETS = imagenet_presets("3, 4, 6, 3")
_LARGE_BATCH_PRESETS = imagenet_presets(
    "3, 4, 6, 3",
    short_steps=(
        "batch_size=1024",
        "optimizer.lr=0.8",
        "duration=125 steps",
        "schedule.name=multistep",
        "schedule.milestones=84 steps,109 steps",
        "schedule.warmup=20 steps",
    ),
    short_steps_text="125 steps of 1,024 with a warmup",
)


def _large_batch_row(name: str, gamma: int, large_batch: bool, value: float, std: float) -> RowSpec:
    return RowSpec(
        name, "resnet50", "imagenet", "goyal2017", (f"last_norm_weight={gamma}",),
        overrides=_LARGE_BATCH if large_batch else (), seeds=5,
        reported=ReportedValue(
            value, "mean of 5, each the median of its last 5 epochs", "one crop of 224 pixels", f"{_GOYAL}, Table 2b",
            std, provenance="verified",
        ),
        presets=_LARGE_BATCH_PRESETS if large_batch else _GOYAL_PRESETS,
    )  # fmt: skip


GOYAL2017: tuple[Study, ...] = (
    Study(
        name="goyal2017/table2b",
        title="Initializing the last norm of each branch at zero helps, with small batches and large",
        reference=f"{_GOYAL}, Table 2b",
        rows=(
            _large_batch_row("gamma-1-batch-256", 1, False, 23.84, 0.18),
            _large_batch_row("gamma-0-batch-256", 0, False, 23.60, 0.12),
            _large_batch_row("gamma-1-batch-8192", 1, True, 24.11, 0.07),
            _large_batch_row("gamma-0-batch-8192", 0, True, 23.74, 0.09),
        ),
        presets=_GOYAL_PRESETS,
        claims=(
            Claim(
                "initializing at zero lowers the test error with batches of 256",
                "gamma-0-batch-256",
                "<",
                "gamma-1-batch-256",
                "test_error",
            ),
            Claim(
                "initializing at zero lowers the test error with batches of 8,192",
                "gamma-0-batch-8192",
                "<",
                "gamma-1-batch-8192",
                "test_error",
            ),
            Claim(
                "a batch of 8,192 reaches the test error of 256",
                "gamma-0-batch-8192",
                "within",
                "gamma-0-batch-256",
                "test_error",
                margin=0.5,
            ),
        ),
        differences=(
            "the weights of the last step are evaluated; the paper takes the median of the last 5 epochs of each run",
            "BatchNorm normalizes over all images of a process, in the paper over 32; biases have no weight decay",
        ),
    ),
)
