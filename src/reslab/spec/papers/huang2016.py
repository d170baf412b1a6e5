"""Huang et al. 2016, Deep Networks with Stochastic Depth (arXiv:1603.09382)."""

from dataclasses import replace

from reslab.spec.papers.presets import cifar_presets
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_PAPER = "Huang et al. 2016, arXiv:1603.09382"
_README = "github.com/yueatsprograms/Stochastic_Depth, README"
_BEST_EPOCH = "single, at the best validation epoch"
_PRESETS = cifar_presets(3, duration="500 epochs")


def _row(name: str, data: str, merge: str, reported: ReportedValue) -> RowSpec:
    return RowSpec(
        name,
        "resnet110_cifar",
        data,
        "stochastic-depth",
        (f"merge={merge}",),
        seeds=3,
        reported=reported,
        presets=_PRESETS,
    )


_CONSTANT = _row(
    "constant-110", "cifar10", "add", ReportedValue(6.41, _BEST_EPOCH, location=_README, provenance="verified")
)
_STOCHASTIC = _row(
    "stochastic-110",
    "cifar10",
    "stochastic-depth(0.5) add",
    ReportedValue(
        5.23,
        _BEST_EPOCH,
        location=f"{_PAPER}, Table 1",
        note="5.25 in early versions and the README",
        provenance="verified",
    ),
)

HUANG2016: tuple[Study, ...] = (
    Study(
        name="stochastic_depth2016/table1",
        title="Training a random subset of blocks improves a deep network",
        reference=f"{_PAPER}, Table 1 and Fig. 3",
        rows=(
            _CONSTANT,
            _STOCHASTIC,
            _row(
                "constant-110-c100", "cifar100", "add", ReportedValue(27.22, _BEST_EPOCH, location=f"{_PAPER}, Table 1")
            ),
            _row(
                "stochastic-110-c100",
                "cifar100",
                "stochastic-depth(0.5) add",
                ReportedValue(
                    24.58,
                    _BEST_EPOCH,
                    location=f"{_PAPER}, Table 1",
                    note="24.98 in early versions",
                    provenance="verified",
                ),
            ),
            replace(
                _STOCHASTIC,
                name="stochastic-1202",
                model="resnet1202_cifar",
                seeds=1,
                reported=ReportedValue(4.91, _BEST_EPOCH, location=f"{_PAPER}, Table 1", provenance="verified"),
                presets=cifar_presets(4, 36, duration="500 epochs"),
            ),
        ),
        presets=_PRESETS,
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
