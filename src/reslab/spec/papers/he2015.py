"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1): tables and figures on CIFAR."""

from dataclasses import replace

from reslab.spec.papers.presets import (
    SMOKE_ANALYSIS_OVERRIDES,
    cifar_presets,
    higher_test_error,
    higher_train_error,
    lower_test_error,
    lower_train_error,
)
from reslab.spec.study import (
    AnalysisRequest,
    Claim,
    FigurePanel,
    FigureSpec,
    ReportedValue,
    RowSpec,
    ScalePreset,
    ScalePresets,
    Study,
)

PAPER = "He et al. 2015, arXiv:1512.03385v1"
_RESPONSES = "responses.mean_std"
_GRADIENT_GROWTH = "gradients.slope.decades"
# Table 6 prints the residual ones; the plain ones are read off Fig. 6 (left), to about a point.
_FIG6 = {20: 9.0, 32: 10.0, 44: 11.0, 56: 13.5}
_TABLE6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97}
# Units a stage on the digits.
_SMOKE_DEPTHS = {20: 1, 32: 2, 44: 3, 56: 4, 110: 5, 1202: 6}
_PLAIN_ROWS = tuple(f"plain-{depth}" for depth in _FIG6)
_RESIDUAL_ROWS = tuple(f"residual-{depth}" for depth in _TABLE6)


def _plain_row(depth: int) -> RowSpec:
    reported = ReportedValue(_FIG6[depth], location=f"{PAPER}, Fig. 6 (left), read off the curve to about a point")
    presets = cifar_presets(_SMOKE_DEPTHS[depth])
    return RowSpec(
        f"plain-{depth}", f"plain{depth}_cifar", "cifar10", "he2015-cifar", seeds=5, reported=reported, presets=presets
    )


def _residual_row(depth: int) -> RowSpec:
    reported = ReportedValue(_TABLE6[depth], location=f"{PAPER}, Table 6", provenance="verified")
    presets = cifar_presets(_SMOKE_DEPTHS[depth])
    return RowSpec(
        f"residual-{depth}",
        f"resnet{depth}_cifar",
        "cifar10",
        "he2015-cifar",
        seeds=5,
        reported=reported,
        presets=presets,
    )


_RESIDUAL_110 = RowSpec(
    "residual-110",
    "resnet110_cifar",
    "cifar10",
    "he2015-cifar-110",
    seeds=5,
    reported=ReportedValue(
        6.61,
        "mean of 5",
        location=f"{PAPER}, Table 6",
        std=0.16,
        note="the best of the 5 is 6.43",
        provenance="verified",
    ),
    presets=cifar_presets(_SMOKE_DEPTHS[110]),
)
_RESIDUAL_1202 = RowSpec(
    "residual-1202",
    "resnet1202_cifar",
    "cifar10",
    "he2015-cifar-110",
    seeds=1,
    reported=ReportedValue(7.93, location=f"{PAPER}, Table 6", provenance="verified"),
    more_reported=(
        ReportedValue(
            0.1, location=f"{PAPER}, Sec. 4.2", note="below 0.1 %", provenance="verified", metric="train_error_eval"
        ),
    ),
    presets=cifar_presets(_SMOKE_DEPTHS[1202], 36),
)


def _init_row(depth: int, kind: str) -> RowSpec:
    """A network at initialisation, on pictures of CIFAR-10."""
    model = f"{'plain' if kind == 'plain' else 'resnet'}{depth}_cifar"
    return RowSpec(f"{kind}-{depth}", model, "cifar10", seeds=3, metric=_GRADIENT_GROWTH)


_DEPTHS = (20, 32, 44, 56, 110)
_ALL_PLAIN = tuple(f"plain-{depth}" for depth in _DEPTHS)
_ALL_RESIDUAL = tuple(f"residual-{depth}" for depth in _DEPTHS)
_PANELS = (FigurePanel("plain networks", _ALL_PLAIN), FigurePanel("residual networks", _ALL_RESIDUAL))

HE2015: tuple[Study, ...] = (
    Study(
        name="he2015/degradation",
        title="Plain networks get worse with depth, residual ones do not",
        reference=f"{PAPER}, Figs. 1 and 6, Table 6",
        rows=(*map(_plain_row, _FIG6), *map(_residual_row, _TABLE6)),
        presets=cifar_presets(1),
        claims=(
            higher_train_error("plain-56", "plain-20"),
            higher_test_error("plain-56", "plain-20"),
            higher_train_error("plain-32", "plain-20"),
            higher_train_error("plain-44", "plain-32"),
            higher_train_error("plain-56", "plain-44"),
            lower_train_error("residual-56", "residual-20"),
            lower_test_error("residual-56", "residual-20"),
            lower_train_error("residual-56", "plain-56"),
            lower_test_error("residual-56", "plain-56"),
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
        analyses=(AnalysisRequest("gradients", weights="init"),),
        figures=(
            FigureSpec(
                "error_curves",
                "Error against iterations",
                (FigurePanel("plain networks", _PLAIN_ROWS), FigurePanel("residual networks", _RESIDUAL_ROWS)),
                location="Fig. 6",
            ),
            FigureSpec(
                "train_then_test",
                "20 and 56 plain layers",
                (FigurePanel("plain", (_PLAIN_ROWS[0], _PLAIN_ROWS[-1])),),
                "Fig. 1",
            ),
            FigureSpec(
                "lines",
                "Test error against depth",
                (
                    FigurePanel("plain", _PLAIN_ROWS, tuple(_FIG6)),
                    FigurePanel("residual", _RESIDUAL_ROWS, tuple(_TABLE6)),
                ),
                x_label="layers",
                metric="test_error",
            ),
            FigureSpec(
                "gradients",
                "Gradient at each unit before training",
                (FigurePanel("plain networks", _PLAIN_ROWS), FigurePanel("residual networks", _RESIDUAL_ROWS)),
                analysis="gradients@init",
            ),
        ),
        notes="Runs that others published with 64,000 steps: plain-56 14.22 and residual-56 8.30 % (a public README, "
        "single runs); plain-56 13.07 and residual-56 7.46 % (another repository).",
    ),
    Study(
        name="he2015/table6",
        title="Residual networks of 20 to 1,202 layers on CIFAR-10",
        reference=f"{PAPER}, Table 6 and Fig. 6 (middle and right)",
        rows=(*map(_residual_row, _TABLE6), _RESIDUAL_110, _RESIDUAL_1202),
        presets=cifar_presets(1),
        claims=(
            lower_test_error("residual-32", "residual-20"),
            lower_test_error("residual-44", "residual-32"),
            lower_test_error("residual-56", "residual-44"),
            lower_test_error("residual-110", "residual-56"),
            higher_test_error("residual-1202", "residual-110"),
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
            FigureSpec(
                "error_curves",
                "Error against iterations",
                (
                    FigurePanel("20 to 110 layers", (*_RESIDUAL_ROWS, "residual-110")),
                    FigurePanel("110 and 1,202 layers", ("residual-110", "residual-1202")),
                ),
                location="Fig. 6, middle and right",
            ),
            FigureSpec(
                "lines",
                "Test error against depth",
                (FigurePanel("residual", (*_RESIDUAL_ROWS, "residual-110", "residual-1202"), (*_TABLE6, 110, 1202)),),
                x_label="layers",
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
        reference=f"{PAPER}, Fig. 7",
        rows=tuple(
            replace(row, metric=_RESPONSES, reported=None)
            for row in (_plain_row(20), _plain_row(56), _residual_row(20), _residual_row(56), _RESIDUAL_110)
        ),
        presets=cifar_presets(1),
        claims=(
            Claim("residual-20 responds less than plain-20", "residual-20", "<", "plain-20", _RESPONSES),
            Claim("residual-56 responds less than plain-56", "residual-56", "<", "plain-56", _RESPONSES),
            Claim("residual-56 responds less than residual-20", "residual-56", "<", "residual-20", _RESPONSES),
            Claim("residual-110 responds less than residual-56", "residual-110", "<", "residual-56", _RESPONSES),
        ),
        analyses=(AnalysisRequest("responses"),),
        figures=(
            FigureSpec(
                "responses",
                "Standard deviation of the layers' responses",
                (
                    FigurePanel("plain networks", ("plain-20", "plain-56")),
                    FigurePanel("residual networks", ("residual-20", "residual-56", "residual-110")),
                ),
                location="Fig. 7",
            ),
        ),
        notes="A response is what a 3x3 convolution gives after its BatchNorm, before ReLU or addition.",
    ),
    Study(
        name="he2015/initial",
        title="Gradients and responses at initialisation, 20 to 110 layers",
        reference=f"{PAPER}, Sec. 4.1 (gradients of plain networks) and Fig. 7; the state before training is our addition",
        rows=tuple(_init_row(depth, kind) for kind in ("plain", "residual") for depth in _DEPTHS),
        presets=ScalePresets(
            smoke=ScalePreset(
                "bundled 8x8 digits, widths 4, 8, 16",
                ("model.widths=4,8,16", "model.stem=conv3(4) norm act"),
                data="digits",
                seeds=2,
                analysis_overrides=SMOKE_ANALYSIS_OVERRIDES,
            ),
            short=ScalePreset("nothing is cut: networks at initialisation are cheap", seeds=3),
            full=ScalePreset("nothing is cut: networks at initialisation are cheap", seeds=3),
        ),
        claims=(
            Claim("plain-20's gradients stay within a power of ten", "plain-20", "within", 0.0, _GRADIENT_GROWTH, 1.0),
            Claim("plain-56's gradients stay within a power of ten", "plain-56", "within", 0.0, _GRADIENT_GROWTH, 1.0),
            Claim(
                "residual-56's gradients stay within a power of ten",
                "residual-56",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                1.0,
            ),
            Claim(
                "residual-110's gradients stay within a power of ten",
                "residual-110",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                1.0,
            ),
            Claim(
                "plain-110's gradients grow more than residual-110's",
                "plain-110",
                ">",
                "residual-110",
                _GRADIENT_GROWTH,
            ),
        ),
        analyses=(
            AnalysisRequest("gradients", weights="init"),
            AnalysisRequest("responses", ("statistics=running",), weights="init"),
        ),
        figures=(
            FigureSpec("gradients", "Gradient at each unit", _PANELS, analysis="gradients@init"),
            FigureSpec("responses", "Responses where BatchNorm changes nothing", _PANELS, analysis="responses@init"),
            FigureSpec(
                "lines",
                "Powers of ten by which the gradient grows from the last unit back to the first",
                (
                    FigurePanel("plain", _ALL_PLAIN, tuple(map(float, _DEPTHS))),
                    FigurePanel("residual", _ALL_RESIDUAL, tuple(map(float, _DEPTHS))),
                ),
                x_label="layers",
                metric=_GRADIENT_GROWTH,
            ),
        ),
        notes="The paper writes that the gradients of its plain networks have healthy norms with BatchNorm; it does "
        "not say when they were measured. Here it is at initialisation, over one batch, with its own statistics. So "
        "normalised, every response is 1; the picture of the responses therefore takes the running statistics as they "
        "begin, mean 0 and variance 1, which pass everything on: it shows what the norms have to hold.",
    ),
)
