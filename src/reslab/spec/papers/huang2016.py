"""Huang et al. 2016, Deep Networks with Stochastic Depth (arXiv:1603.09382)."""

from dataclasses import replace

from reslab.spec.papers.presets import three_stages
from reslab.spec.study import Claim, Drawing, Panel, Reported, Row, Study

_PAPER = "Huang et al. 2016, arXiv:1603.09382"
_README = "github.com/yueatsprograms/Stochastic_Depth, README"
_BEST = "single, at the best validation epoch"
_CUTS = three_stages(3, length="500 epochs")


def _row(name: str, data: str, mix: str, told: Reported) -> Row:
    return Row(name, "resnet110_cifar", data, "stochastic-depth", (f"mix={mix}",), seeds=3, reported=told, cuts=_CUTS)


_CONSTANT = _row("constant-110", "cifar10", "add", Reported(6.41, _BEST, where=_README, confidence="read"))
_STOCHASTIC = _row(
    "stochastic-110",
    "cifar10",
    "survive(0.5) add",
    Reported(5.23, _BEST, where=f"{_PAPER}, Table 1", note="5.25 in early versions and the README", confidence="read"),
)

STOCHASTIC_DEPTH2016: tuple[Study, ...] = (
    Study(
        name="stochastic_depth2016/table1",
        title="Training fewer units at a time gives a better deep network",
        source=f"{_PAPER}, Table 1 and Fig. 3",
        rows=(
            _CONSTANT,
            _STOCHASTIC,
            _row("constant-110-c100", "cifar100", "add", Reported(27.22, _BEST, where=f"{_PAPER}, Table 1")),
            _row(
                "stochastic-110-c100",
                "cifar100",
                "survive(0.5) add",
                Reported(24.58, _BEST, where=f"{_PAPER}, Table 1", note="24.98 in early versions", confidence="read"),
            ),
            replace(
                _STOCHASTIC,
                name="stochastic-1202",
                model="resnet1202_cifar",
                seeds=1,
                reported=Reported(4.91, _BEST, where=f"{_PAPER}, Table 1", confidence="read"),
                cuts=three_stages(4, 36, length="500 epochs"),
            ),
        ),
        cuts=_CUTS,
        claims=(
            Claim("stochastic depth tests better", "stochastic-110", "<", "constant-110", "test_error"),
            Claim(
                "stochastic depth tests better on CIFAR-100",
                "stochastic-110-c100",
                "<",
                "constant-110-c100",
                "test_error",
            ),
            Claim(
                "stochastic depth fits the training pictures less",
                "stochastic-110",
                ">",
                "constant-110",
                "train_loss",
            ),
            Claim("stochastic depth trains faster", "stochastic-110", "<", "constant-110", "train_seconds"),
            Claim("1,202 layers test better than 110", "stochastic-1202", "<", "stochastic-110", "test_error"),
        ),
        figures=(
            Drawing(
                "loss_and_error",
                "Training loss and test error against iterations",
                (
                    Panel("CIFAR-10, 110 layers", ("constant-110", "stochastic-110")),
                    Panel("CIFAR-100, 110 layers", ("constant-110-c100", "stochastic-110-c100")),
                ),
                where="Fig. 3",
            ),
        ),
        differences=(
            "the last step is judged, the paper's table is of the epoch that was best on its 5,000 validation pictures",
            "optimizer, batch and decay are those of the authors' code",
        ),
    ),
)
