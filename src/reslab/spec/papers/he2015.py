"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1): tables and figures on CIFAR."""

from dataclasses import replace

from reslab.spec.papers.presets import (
    SMOKE_ASKING,
    tests_better,
    tests_worse,
    three_stages,
    trains_better,
    trains_worse,
)
from reslab.spec.study import Asked, Claim, Cut, Cuts, Drawing, Panel, Reported, Row, Study

PAPER = "He et al. 2015, arXiv:1512.03385v1"
_RESPONSES = "responses.mean_std"
_DECADES = "gradients.slope.decades"
# Table 6 prints the residual ones; the plain ones are read off Fig. 6 (left), to about a point.
_FIG6 = {20: 9.0, 32: 10.0, 44: 11.0, 56: 13.5}
_TABLE6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97}
# Units a stage on the digits.
_SMOKE = {20: 1, 32: 2, 44: 3, 56: 4, 110: 5, 1202: 6}
_PLAIN = tuple(f"plain-{depth}" for depth in _FIG6)
_RESIDUAL = tuple(f"residual-{depth}" for depth in _TABLE6)


def _plain(depth: int) -> Row:
    told = Reported(_FIG6[depth], where=f"{PAPER}, Fig. 6 (left), read off the curve to about a point")
    cuts = three_stages(_SMOKE[depth])
    return Row(f"plain-{depth}", f"plain{depth}_cifar", "cifar10", "he2015-cifar", seeds=5, reported=told, cuts=cuts)


def _residual(depth: int) -> Row:
    told = Reported(_TABLE6[depth], where=f"{PAPER}, Table 6", confidence="read")
    cuts = three_stages(_SMOKE[depth])
    return Row(
        f"residual-{depth}", f"resnet{depth}_cifar", "cifar10", "he2015-cifar", seeds=5, reported=told, cuts=cuts
    )


_110 = Row(
    "residual-110",
    "resnet110_cifar",
    "cifar10",
    "he2015-cifar-110",
    seeds=5,
    reported=Reported(
        6.61, "mean of 5", where=f"{PAPER}, Table 6", std=0.16, note="the best of the 5 is 6.43", confidence="read"
    ),
    cuts=three_stages(_SMOKE[110]),
)
_1202 = Row(
    "residual-1202",
    "resnet1202_cifar",
    "cifar10",
    "he2015-cifar-110",
    seeds=1,
    reported=Reported(7.93, where=f"{PAPER}, Table 6", confidence="read"),
    also=(Reported(0.1, where=f"{PAPER}, Sec. 4.2", note="below 0.1 %", confidence="read", metric="train_error_eval"),),
    cuts=three_stages(_SMOKE[1202], 36),
)


def _initial(depth: int, kind: str) -> Row:
    """A network at initialisation, on pictures of CIFAR-10."""
    model = f"{'plain' if kind == 'plain' else 'resnet'}{depth}_cifar"
    return Row(f"{kind}-{depth}", model, "cifar10", seeds=3, metric=_DECADES)


_DEPTHS = (20, 32, 44, 56, 110)
_EVERY_PLAIN = tuple(f"plain-{depth}" for depth in _DEPTHS)
_EVERY_RESIDUAL = tuple(f"residual-{depth}" for depth in _DEPTHS)
_BOTH = (Panel("plain networks", _EVERY_PLAIN), Panel("residual networks", _EVERY_RESIDUAL))

HE2015: tuple[Study, ...] = (
    Study(
        name="he2015/degradation",
        title="Plain networks get worse with depth, residual ones do not",
        source=f"{PAPER}, Figs. 1 and 6, Table 6",
        rows=(*map(_plain, _FIG6), *map(_residual, _TABLE6)),
        cuts=three_stages(1),
        claims=(
            trains_worse("plain-56", "plain-20"),
            tests_worse("plain-56", "plain-20"),
            trains_worse("plain-32", "plain-20"),
            trains_worse("plain-44", "plain-32"),
            trains_worse("plain-56", "plain-44"),
            trains_better("residual-56", "residual-20"),
            tests_better("residual-56", "residual-20"),
            trains_better("residual-56", "plain-56"),
            tests_better("residual-56", "plain-56"),
            Claim(
                "36 layers more cost the plain networks more than the residual ones",
                "plain-56 - plain-20",
                ">",
                "residual-56 - residual-20",
                "train_error",
            ),
            *(
                Claim(
                    f"residual-{depth} reaches a fixed training error in fewer steps than plain-{depth}",
                    f"residual-{depth}",
                    "<",
                    f"plain-{depth}",
                    "steps_to_train_error",
                )
                for depth in (20, 56)
            ),
        ),
        asked=(Asked("gradients", at="init"),),
        figures=(
            Drawing(
                "error_curves",
                "Error against iterations",
                (Panel("plain networks", _PLAIN), Panel("residual networks", _RESIDUAL)),
                where="Fig. 6",
            ),
            Drawing("train_then_test", "20 and 56 plain layers", (Panel("plain", (_PLAIN[0], _PLAIN[-1])),), "Fig. 1"),
            Drawing(
                "lines",
                "Test error against depth",
                (Panel("plain", _PLAIN, tuple(_FIG6)), Panel("residual", _RESIDUAL, tuple(_TABLE6))),
                axis="layers",
                metric="test_error",
            ),
            Drawing(
                "gradients",
                "Gradient at each unit before training",
                (Panel("plain networks", _PLAIN), Panel("residual networks", _RESIDUAL)),
                question="gradients@init",
            ),
        ),
        notes="Runs that others published with 64,000 steps: plain-56 14.22 and residual-56 8.30 % (a public README, "
        "single runs); plain-56 13.07 and residual-56 7.46 % (another repository).",
    ),
    Study(
        name="he2015/table6",
        title="Residual networks of 20 to 1,202 layers on CIFAR-10",
        source=f"{PAPER}, Table 6 and Fig. 6 (middle and right)",
        rows=(*map(_residual, _TABLE6), _110, _1202),
        cuts=three_stages(1),
        claims=(
            tests_better("residual-32", "residual-20"),
            tests_better("residual-44", "residual-32"),
            tests_better("residual-56", "residual-44"),
            tests_better("residual-110", "residual-56"),
            tests_worse("residual-1202", "residual-110"),
            Claim(
                "residual-1202 and residual-110 train equally well",
                "residual-1202",
                "within",
                "residual-110",
                "train_error",
                margin=0.5,
            ),
        ),
        figures=(
            Drawing(
                "error_curves",
                "Error against iterations",
                (
                    Panel("20 to 110 layers", (*_RESIDUAL, "residual-110")),
                    Panel("110 and 1,202 layers", ("residual-110", "residual-1202")),
                ),
                where="Fig. 6, middle and right",
            ),
            Drawing(
                "lines",
                "Test error against depth",
                (Panel("residual", (*_RESIDUAL, "residual-110", "residual-1202"), (*_TABLE6, 110, 1202)),),
                axis="layers",
                metric="test_error",
            ),
        ),
        differences=(
            "the 1,202 layers begin at a rate of 0.01 as the 110 do; the paper says that they are trained alike",
        ),
    ),
    Study(
        name="he2015/fig7",
        title="The responses of residual networks are small, and smaller the deeper they are",
        source=f"{PAPER}, Fig. 7",
        rows=tuple(
            replace(row, metric=_RESPONSES, reported=None)
            for row in (_plain(20), _plain(56), _residual(20), _residual(56), _110)
        ),
        cuts=three_stages(1),
        claims=(
            Claim("residual-20 responds less than plain-20", "residual-20", "<", "plain-20", _RESPONSES),
            Claim("residual-56 responds less than plain-56", "residual-56", "<", "plain-56", _RESPONSES),
            Claim("residual-56 responds less than residual-20", "residual-56", "<", "residual-20", _RESPONSES),
            Claim("residual-110 responds less than residual-56", "residual-110", "<", "residual-56", _RESPONSES),
        ),
        asked=(Asked("responses"),),
        figures=(
            Drawing(
                "responses",
                "Standard deviation of the layers' responses",
                (
                    Panel("plain networks", ("plain-20", "plain-56")),
                    Panel("residual networks", ("residual-20", "residual-56", "residual-110")),
                ),
                where="Fig. 7",
            ),
        ),
        notes="A response is what a 3x3 convolution gives after its BatchNorm, before ReLU or addition.",
    ),
    Study(
        name="he2015/initial",
        title="Gradients and responses at initialisation, 20 to 110 layers",
        source=f"{PAPER}, Sec. 4.1 (gradients of plain networks) and Fig. 7; the state before training is our addition",
        rows=tuple(_initial(depth, kind) for kind in ("plain", "residual") for depth in _DEPTHS),
        cuts=Cuts(
            smoke=Cut(
                "bundled 8x8 digits, widths 4, 8, 16",
                ("model.widths=4,8,16", "model.stem=conv3(4) norm act"),
                data="digits",
                seeds=2,
                asking=SMOKE_ASKING,
            ),
            short=Cut("nothing is cut: networks at initialisation are cheap", seeds=3),
            full=Cut("nothing is cut: networks at initialisation are cheap", seeds=3),
        ),
        claims=(
            Claim("plain-20's gradients stay within a power of ten", "plain-20", "within", 0.0, _DECADES, 1.0),
            Claim("plain-56's gradients stay within a power of ten", "plain-56", "within", 0.0, _DECADES, 1.0),
            Claim("residual-56's gradients stay within a power of ten", "residual-56", "within", 0.0, _DECADES, 1.0),
            Claim("residual-110's gradients stay within a power of ten", "residual-110", "within", 0.0, _DECADES, 1.0),
            Claim("plain-110's gradients grow more than residual-110's", "plain-110", ">", "residual-110", _DECADES),
        ),
        asked=(Asked("gradients", at="init"), Asked("responses", ("statistics=running",), at="init")),
        figures=(
            Drawing("gradients", "Gradient at each unit", _BOTH, question="gradients@init"),
            Drawing("responses", "Responses where BatchNorm changes nothing", _BOTH, question="responses@init"),
            Drawing(
                "lines",
                "Powers of ten by which the gradient grows from the last unit back to the first",
                (
                    Panel("plain", _EVERY_PLAIN, tuple(map(float, _DEPTHS))),
                    Panel("residual", _EVERY_RESIDUAL, tuple(map(float, _DEPTHS))),
                ),
                axis="layers",
                metric=_DECADES,
            ),
        ),
        notes="The paper writes that the gradients of its plain networks have healthy norms with BatchNorm; it does "
        "not say when they were measured. Here it is at initialisation, over one batch, with its own statistics. So "
        "normalised, every response is 1; the picture of the responses therefore takes the running statistics as they "
        "begin, mean 0 and variance 1, which pass everything on: it shows what the norms have to hold.",
    ),
)
