"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1)."""

from reslab.spec.drawing import Drawing, Panel
from reslab.spec.study import Asked, Claim, Cut, Cuts, Reported, Row, Study

_PAPER = "He et al. 2015, arXiv:1512.03385v1"

# Table 6 prints the residual ones; the plain ones are read off Fig. 6 (left), to about a point.
_TABLE6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97}
_FIG6 = {20: 9.0, 32: 10.0, 44: 11.0, 56: 13.5}


def _plain(depth: int) -> Row:
    told = Reported(_FIG6[depth], where=f"{_PAPER}, Fig. 6 (left), read off the curve to about a point")
    return Row(f"plain-{depth}", f"plain{depth}_cifar", "cifar10", "he2015-cifar", seeds=5, reported=told)


def _residual(depth: int) -> Row:
    told = Reported(_TABLE6[depth], where=f"{_PAPER}, Table 6", confidence="read")
    return Row(f"residual-{depth}", f"resnet{depth}_cifar", "cifar10", "he2015-cifar", seeds=5, reported=told)


_CIFAR_CUTS = Cuts(
    smoke=Cut(
        "bundled 8x8 digits, widths 4, 8, 16, 12 steps of 32",
        (
            "model.widths=4,8,16",
            "model.stem=conv3(4) norm act",
            "length=12 steps",
            "schedule.milestones=6 steps,9 steps",
            "batch=32",
            "augment=pad(1) crop(8)",
        ),
        data="digits",
        num_images=256,
        seeds=2,
        train_error=80.0,
    ),
    short=Cut(
        "25,600 of the 50,000 pictures, 600 of 64,000 steps",
        ("length=600 steps", "schedule.milestones=300 steps,450 steps"),
        num_images=25_600,
        seeds=3,
        train_error=60.0,
    ),
    full=Cut("nothing is cut: the paper's procedure", train_error=20.0),
)

HE2015: tuple[Study, ...] = (
    Study(
        name="he2015/degradation",
        title="Plain networks get worse with depth, residual ones do not",
        source=f"{_PAPER}, Figs. 1 and 6, Table 6",
        rows=(*(_plain(depth) for depth in _FIG6), *(_residual(depth) for depth in _TABLE6)),
        cuts=_CIFAR_CUTS,
        claims=(
            Claim("plain-56 trains worse than plain-20", "plain-56", ">", "plain-20", "train_error"),
            Claim("plain-56 tests worse than plain-20", "plain-56", ">", "plain-20", "test_error"),
            Claim("residual-56 trains better than plain-56", "residual-56", "<", "plain-56", "train_error"),
            Claim("residual-56 tests better than plain-56", "residual-56", "<", "plain-56", "test_error"),
            Claim("residual-56 tests better than residual-20", "residual-56", "<", "residual-20", "test_error"),
            Claim(
                "residual-20 reaches a training error in fewer steps than plain-20",
                "residual-20",
                "<",
                "plain-20",
                "steps_to_train_error",
            ),
        ),
        asked=(Asked("gradients", at="init"),),
        figures=(
            Drawing(
                "error_curves",
                "Training error (dashed) and test error (bold)",
                (
                    Panel("plain networks", tuple(f"plain-{depth}" for depth in _FIG6)),
                    Panel("residual networks", tuple(f"residual-{depth}" for depth in _TABLE6)),
                ),
                where="Fig. 6",
            ),
        ),
    ),
)
