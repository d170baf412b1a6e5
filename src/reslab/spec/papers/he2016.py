"""He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027): shortcuts and layouts on CIFAR."""

from dataclasses import replace

from reslab.spec.papers.he2016_deep import DIFFERENCES, PAPER, median_of_5
from reslab.spec.papers.presets import cifar_presets
from reslab.spec.study import AnalysisRequest, Claim, FigurePanel, FigureSpec, RowSpec, Study

_BASIC_PRESETS = cifar_presets(2, 6)
_BOTTLENECK_PRESETS = cifar_presets(2, 3)
_FAIL = "fail: above 20 %"


def _shortcut_row(name: str, value: float | None, *arch_overrides: str, note: str = "") -> RowSpec:
    reported = median_of_5(value, "Table 1", note or ("" if value is not None else _FAIL))
    return RowSpec(
        name,
        "resnet110_cifar",
        "cifar10",
        "he2016-cifar",
        arch_overrides,
        seeds=5,
        reported=reported,
        presets=_BASIC_PRESETS,
    )


def _gate_row(bias: int) -> RowSpec:
    value = {-6: 8.70, -7: 9.81}.get(bias)
    name, override = f"exclusive-gate({bias})", f"merge=gate({bias})"
    if bias < -7:
        return replace(_shortcut_row(name, None, override, note="part of the search, not printed"), reported=None)
    return _shortcut_row(name, value, override)


_ORIGINAL = _shortcut_row("original", 6.61)
_TABLE1 = (
    _ORIGINAL,
    _shortcut_row("constant-0-1", None, "merge=scale(0,1)", note="fail: above 20 %; the plain network"),
    _shortcut_row("constant-0.5-1", None, "merge=scale(0.5,1)"),
    _shortcut_row("constant-0.5-0.5", 12.35, "merge=scale(0.5,0.5)", note="frozen gating"),
    *map(_gate_row, (0, -5, -6, -7)),
    _shortcut_row("shortcut-gate(0)", 12.86, "merge=shortcut-gate(0)"),
    _shortcut_row("shortcut-gate(-6)", 6.91, "merge=shortcut-gate(-6)"),
    _shortcut_row("conv1x1-shortcut", 12.22, "shortcut=conv1x1-all"),
    # Two readings: kept elements are divided by 1 - p, as in frameworks, or not ("a scale with an expectation of 0.5").
    _shortcut_row("dropout-shortcut", None, "merge=dropout(0.5) add"),
    _shortcut_row("dropout-shortcut-halved", None, "merge=dropout(0.5) scale(0.5,1)"),
)
_SCALED_ROWS = tuple(row.name for row in _TABLE1 if "gate" not in row.name and "dropout" not in row.name)
_GATED_ROWS = (
    "original",
    *(f"exclusive-gate({bias})" for bias in (0, -6, -7)),
    "shortcut-gate(0)",
    "shortcut-gate(-6)",
)
_GATE_BIASES = tuple(range(0, -11, -1))


def _worse_than_identity(name: str) -> Claim:
    return Claim(f"{name} has a higher test error than the identity shortcut", name, ">", "original", "test_error")


# Table 2: test error with 110 layers (basic blocks) and 164 (bottlenecks).
_TABLE2 = {
    "original": (6.61, 5.93),
    "bn-after-add": (8.17, 6.50),
    "relu-before-add": (7.84, 6.14),
    "relu-preact": (6.71, 5.91),
    "full-preact": (6.37, 5.46),
}


def _order_row(order: str, depth: int) -> RowSpec:
    value = _TABLE2[order][depth == 164]
    arch_overrides = () if order == "original" else (f"order={order}",)
    presets = _BASIC_PRESETS if depth == 110 else _BOTTLENECK_PRESETS
    return RowSpec(
        f"{order}-{depth}", f"resnet{depth}_cifar", "cifar10", "he2016-cifar", arch_overrides, seeds=5,
        reported=median_of_5(value, "Table 2"), presets=presets,
    )  # fmt: skip


def _compare_with_original(order: str, depth: int, relation: str, comparison: str, metric: str = "test_error") -> Claim:
    return Claim(
        f"{order} {comparison} than the original order, {depth} layers",
        f"{order}-{depth}",
        relation,
        f"original-{depth}",
        metric,
    )


def _pair_panel(left: str, right: str) -> FigurePanel:
    return FigurePanel(left, (right, left))


_BN_AFTER_ADD_PANEL = FigurePanel("BN after addition, 110 layers", ("original-110", "bn-after-add-110"))
_PREACT_PANEL = FigurePanel("full pre-activation, 164 layers", ("original-164", "full-preact-164"))

HE2016: tuple[Study, ...] = (
    Study(
        name="he2016/table1",
        title="110 layers do best with identity shortcuts",
        reference=f"{PAPER}, Table 1 and Fig. 3",
        rows=_TABLE1,
        presets=_BASIC_PRESETS,
        claims=(
            *(_worse_than_identity(row.name) for row in _TABLE1[1:]),
            Claim(
                "an exclusive gate with an initial bias of -6 has a lower test error than with 0",
                "exclusive-gate(-6)",
                "<",
                "exclusive-gate(0)",
                "test_error",
            ),
            Claim(
                "a shortcut-only gate with an initial bias of -6 (open) has a lower test error than with 0",
                "shortcut-gate(-6)",
                "<",
                "shortcut-gate(0)",
                "test_error",
            ),
            Claim(
                "1x1 convolutions on the shortcuts raise the training loss, though they can represent more",
                "conv1x1-shortcut",
                ">",
                "original",
                "train_loss",
            ),
            Claim(
                "a shortcut-only gate with an initial bias of 0 raises the training loss",
                "shortcut-gate(0)",
                ">",
                "original",
                "train_loss",
            ),
        ),
        analyses=(AnalysisRequest("gradients", weights="init"),),
        figures=(
            FigureSpec(
                "loss_and_error",
                "Training loss and test error against iterations",
                (
                    _pair_panel("constant-0.5-0.5", "original"),
                    _pair_panel("exclusive-gate(-6)", "original"),
                    _pair_panel("shortcut-gate(0)", "original"),
                    _pair_panel("conv1x1-shortcut", "original"),
                ),
                location="Fig. 3",
            ),
            FigureSpec(
                "gradients",
                "Gradient norm at each block before training",
                (
                    FigurePanel("scaled or projected", _SCALED_ROWS),
                    FigurePanel("gated", _GATED_ROWS),
                ),
                analysis="gradients@init",
            ),
        ),
        differences=(
            *DIFFERENCES,
            "the 1x1 convolution of each shortcut has no BatchNorm; the paper does not say (our reading)",
            "dropout on the shortcut in two readings: kept elements are divided by 1 - p, as in frameworks, and the "
            "signal grows with each block; or they are not, and the shortcut has an expectation of 0.5, as the "
            "paper says",
            "of the exclusive gate's biases from 0 to -5, which all fail, only the first and the last are here; "
            "he2016/gate-bias has them all",
        ),
    ),
    Study(
        name="he2016/gate-bias",
        title="Exclusive gating depends on its initial bias",
        reference=f"{PAPER}, Sec. 3.1 (the search over 0, -1, ..., -10) and Table 1",
        rows=(_ORIGINAL, *map(_gate_row, _GATE_BIASES)),
        presets=_BASIC_PRESETS,
        claims=(
            Claim(
                "a bias of -6 has a lower test error than 0",
                "exclusive-gate(-6)",
                "<",
                "exclusive-gate(0)",
                "test_error",
            ),
            Claim(
                "a bias of -6 has a lower test error than -5",
                "exclusive-gate(-6)",
                "<",
                "exclusive-gate(-5)",
                "test_error",
            ),
            Claim(
                "a bias of -6 has a lower test error than -7",
                "exclusive-gate(-6)",
                "<",
                "exclusive-gate(-7)",
                "test_error",
            ),
            Claim(
                "no bias reaches the identity shortcut: -6 has a higher test error",
                "exclusive-gate(-6)",
                ">",
                "original",
                "test_error",
            ),
        ),
        figures=(
            FigureSpec(
                "lines",
                "Test error against the gate's initial bias",
                (
                    FigurePanel(
                        "exclusive gate", tuple(f"exclusive-gate({bias})" for bias in _GATE_BIASES), _GATE_BIASES
                    ),
                ),
                x_label="initial bias of the gates",
                metric="test_error",
            ),
        ),
        differences=DIFFERENCES,
    ),
    Study(
        name="he2016/table2",
        title="Five orders of convolution, norm and activation",
        reference=f"{PAPER}, Table 2 and Fig. 6",
        rows=tuple(_order_row(order, depth) for depth in (110, 164) for order in _TABLE2),
        presets=_BASIC_PRESETS,
        claims=(
            *(
                _compare_with_original(order, 110, ">", "has a higher test error")
                for order in ("bn-after-add", "relu-before-add")
            ),
            *(
                _compare_with_original(order, 164, ">", "has a higher test error")
                for order in ("bn-after-add", "relu-before-add")
            ),
            Claim(
                "relu-preact has the test error of the original order, 110 layers",
                "relu-preact-110",
                "within",
                "original-110",
                "test_error",
                margin=0.5,
            ),
            _compare_with_original("full-preact", 110, "<", "has a lower test error"),
            _compare_with_original("full-preact", 164, "<", "has a lower test error"),
            _compare_with_original("full-preact", 164, ">", "ends with a higher training loss", "train_loss"),
            _compare_with_original("bn-after-add", 110, ">", "ends with a higher training loss", "train_loss"),
        ),
        figures=(
            FigureSpec(
                "loss_and_error",
                "Training loss and test error",
                (_BN_AFTER_ADD_PANEL, _PREACT_PANEL),
                location="Fig. 6",
            ),
            FigureSpec(
                "error_curves",
                "Error against iterations",
                (
                    FigurePanel("110 layers", tuple(f"{order}-110" for order in _TABLE2)),
                    FigurePanel("164 layers", tuple(f"{order}-164" for order in _TABLE2)),
                ),
            ),
        ),
        differences=(
            *DIFFERENCES,
            "with BN after addition, projections have no norm; with ReLU-only pre-activation, a norm follows the stem "
            "and a ReLU the last block; the paper does not say (our reading)",
        ),
    ),
    Study(
        name="he2016/fig6",
        title="BN after addition fits more slowly; pre-activation fits less and generalizes better",
        reference=f"{PAPER}, Fig. 6",
        rows=(
            _order_row("original", 110),
            _order_row("bn-after-add", 110),
            _order_row("original", 164),
            _order_row("full-preact", 164),
        ),
        presets=_BASIC_PRESETS,
        claims=(
            _compare_with_original("bn-after-add", 110, ">", "ends with a higher training loss", "train_loss"),
            _compare_with_original("full-preact", 164, ">", "ends with a higher training loss", "train_loss"),
            _compare_with_original("full-preact", 164, "<", "has a lower test error"),
        ),
        figures=(
            FigureSpec(
                "loss_and_error",
                "Training loss and test error",
                (_BN_AFTER_ADD_PANEL, _PREACT_PANEL),
                location="Fig. 6",
            ),
        ),
        differences=DIFFERENCES,
    ),
)
