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
# Residual networks: printed in Table 6. Plain networks: read off Fig. 6 (left), to about a percentage point.
_FIG6 = {20: 9.0, 32: 10.0, 44: 11.0, 56: 13.5}
_TABLE6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97}
# Blocks per stage on the digits.
_SMOKE_DEPTHS = {20: 1, 32: 2, 44: 3, 56: 4, 110: 5, 1202: 6}
_PLAIN_ROWS = tuple(f"plain-{depth}" for depth in _FIG6)
_RESIDUAL_ROWS = tuple(f"residual-{depth}" for depth in _TABLE6)


def _plain_row(depth: int) -> RowSpec:
    reported = ReportedValue(
        _FIG6[depth], location=f"{PAPER}, Fig. 6 (left), read off the curve to about a percentage point"
    )
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
    """Return the row of a network at initialization, on images of CIFAR-10."""
    model = f"{'plain' if kind == 'plain' else 'resnet'}{depth}_cifar"
    return RowSpec(f"{kind}-{depth}", model, "cifar10", seeds=3, metric=_GRADIENT_GROWTH)


_DEPTHS = (20, 32, 44, 56, 110)
_ALL_PLAIN = tuple(f"plain-{depth}" for depth in _DEPTHS)
_ALL_RESIDUAL = tuple(f"residual-{depth}" for depth in _DEPTHS)
_PANELS = (FigurePanel("plain networks", _ALL_PLAIN), FigurePanel("residual networks", _ALL_RESIDUAL))

HE2015: tuple[Study, ...] = (
    Study(
        name="he2015/degradation",
        title="Plain networks get worse with depth; residual networks do not",
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
                "36 more layers raise the training error of plain networks more than that of residual ones",
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
                "Gradient norm at each block before training",
                (FigurePanel("plain networks", _PLAIN_ROWS), FigurePanel("residual networks", _RESIDUAL_ROWS)),
                analysis="gradients@init",
            ),
        ),
        notes="Test errors that others published for 64,000 steps: plain-56 14.22 % and residual-56 8.30 % (a public "
        "README, single runs); plain-56 13.07 % and residual-56 7.46 % (another repository).",
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
                "residual-1202 and residual-110 reach the same training error",
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
            "1,202 layers start at a learning rate of 0.01, like 110 layers; the paper says they are trained alike",
        ),
    ),
    Study(
        name="he2015/fig7",
        title="Residual networks have small responses, and smaller ones the deeper they are",
        reference=f"{PAPER}, Fig. 7",
        rows=tuple(
            replace(row, metric=_RESPONSES, reported=None)
            for row in (_plain_row(20), _plain_row(56), _residual_row(20), _residual_row(56), _RESIDUAL_110)
        ),
        presets=cifar_presets(1),
        claims=(
            Claim("residual-20 has smaller responses than plain-20", "residual-20", "<", "plain-20", _RESPONSES),
            Claim("residual-56 has smaller responses than plain-56", "residual-56", "<", "plain-56", _RESPONSES),
            Claim("residual-56 has smaller responses than residual-20", "residual-56", "<", "residual-20", _RESPONSES),
            Claim(
                "residual-110 has smaller responses than residual-56", "residual-110", "<", "residual-56", _RESPONSES
            ),
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
        notes="A response is the output of a 3x3 convolution after its BatchNorm, before ReLU or addition.",
    ),
    Study(
        name="he2015/initial",
        title="Gradients and responses at initialization, 20 to 110 layers",
        reference=f"{PAPER}, Sec. 4.1 (gradients of plain networks) and Fig. 7; at initialization: our addition",
        rows=tuple(_init_row(depth, kind) for kind in ("plain", "residual") for depth in _DEPTHS),
        presets=ScalePresets(
            smoke=ScalePreset(
                "the bundled 8x8 digits, widths 4, 8 and 16",
                ("model.widths=4,8,16", "model.stem=conv3(4) norm act"),
                data="digits",
                seeds=2,
                analysis_overrides=SMOKE_ANALYSIS_OVERRIDES,
            ),
            short=ScalePreset("the paper's networks: measurements at initialization are cheap", seeds=3),
            full=ScalePreset("the paper's networks: measurements at initialization are cheap", seeds=3),
        ),
        claims=(
            Claim(
                "the gradient norms of plain-20 stay within a factor of ten",
                "plain-20",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                margin=1.0,
                is_ours=True,
            ),
            Claim(
                "the gradient norms of plain-56 stay within a factor of ten",
                "plain-56",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                margin=1.0,
                is_ours=True,
            ),
            Claim(
                "the gradient norms of residual-56 stay within a factor of ten",
                "residual-56",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                margin=1.0,
                is_ours=True,
            ),
            Claim(
                "the gradient norms of residual-110 stay within a factor of ten",
                "residual-110",
                "within",
                0.0,
                _GRADIENT_GROWTH,
                margin=1.0,
                is_ours=True,
            ),
            Claim(
                "gradient norms grow more in plain-110 than in residual-110",
                "plain-110",
                ">",
                "residual-110",
                _GRADIENT_GROWTH,
                is_ours=True,
            ),
        ),
        analyses=(
            AnalysisRequest("gradients", weights="init"),
            AnalysisRequest("responses", ("statistics=running",), weights="init"),
        ),
        figures=(
            FigureSpec("gradients", "Gradient norm at each block", _PANELS, analysis="gradients@init"),
            FigureSpec("responses", "Responses with BatchNorm as the identity", _PANELS, analysis="responses@init"),
            FigureSpec(
                "lines",
                "Growth of the gradient norm from the last block to the first, in powers of ten",
                (
                    FigurePanel("plain", _ALL_PLAIN, tuple(map(float, _DEPTHS))),
                    FigurePanel("residual", _ALL_RESIDUAL, tuple(map(float, _DEPTHS))),
                ),
                x_label="layers",
                metric=_GRADIENT_GROWTH,
            ),
        ),
        notes="The paper says that the gradients of its plain networks have healthy norms with BatchNorm, but not when "
        "they were measured. Here gradients are measured at initialization over one batch, which BatchNorm normalizes "
        "with its own statistics. Every response would then have standard deviation 1, so the responses are measured "
        "with the initial running statistics (mean 0, variance 1), which make BatchNorm the identity: the figure shows "
        "the sizes that the norms have to correct.",
    ),
)
