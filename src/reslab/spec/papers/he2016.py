"""He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027): shortcuts and orders on CIFAR."""

from dataclasses import replace

from reslab.spec.papers.presets import three_stages
from reslab.spec.study import Asked, Claim, Drawing, Panel, Reported, Row, Study

PAPER = "He et al. 2016, arXiv:1603.05027"
DIFFERENCES = ("the paper's tables are medians of 5 runs; here it is the mean, with the standard deviation",)
_BASIC_CUTS = three_stages(2, 6)
_BOTTLENECK_CUTS = three_stages(2, 3)
_FAIL = "fail: above 20 %"


def told(value: float | None, table: str, note: str = "") -> Reported:
    """A value of the paper's: a median of five runs."""
    return Reported(value, "median of 5", where=f"{PAPER}, {table}", note=note, confidence="read")


def _shortcut(name: str, value: float | None, *axes: str, note: str = "") -> Row:
    reported = told(value, "Table 1", note or ("" if value is not None else _FAIL))
    return Row(name, "resnet110_cifar", "cifar10", "he2016-cifar", axes, seeds=5, reported=reported, cuts=_BASIC_CUTS)


def _gated(bias: int) -> Row:
    value = {-6: 8.70, -7: 9.81}.get(bias)
    name, axis = f"exclusive-gate({bias})", f"mix=gate({bias})"
    if bias < -7:
        return replace(_shortcut(name, None, axis, note="searched, not printed"), reported=None)
    return _shortcut(name, value, axis)


_ORIGINAL = _shortcut("original", 6.61)
_TABLE1 = (
    _ORIGINAL,
    _shortcut("constant-0-1", None, "mix=scale(0,1)", note="fail: above 20 %, the plain network"),
    _shortcut("constant-0.5-1", None, "mix=scale(0.5,1)"),
    _shortcut("constant-0.5-0.5", 12.35, "mix=scale(0.5,0.5)", note="frozen gating"),
    *map(_gated, (0, -5, -6, -7)),
    _shortcut("shortcut-gate(0)", 12.86, "mix=shortcut-gate(0)"),
    _shortcut("shortcut-gate(-6)", 6.91, "mix=shortcut-gate(-6)"),
    _shortcut("conv1x1-shortcut", 12.22, "match=conv1x1-all"),
    # Two readings: what is left is divided by 1 - p, as frameworks do, or not ("a scale with an expectation of 0.5").
    _shortcut("dropout-shortcut", None, "mix=dropout(0.5) add"),
    _shortcut("dropout-shortcut-halved", None, "mix=dropout(0.5) scale(0.5,1)"),
)
_SCALED = tuple(row.name for row in _TABLE1 if "gate" not in row.name and "dropout" not in row.name)
_GATED = ("original", *(f"exclusive-gate({bias})" for bias in (0, -6, -7)), "shortcut-gate(0)", "shortcut-gate(-6)")
_BIASES = tuple(range(0, -11, -1))


def _worse(name: str) -> Claim:
    return Claim(f"{name} tests worse than the identity shortcut", name, ">", "original", "test_error")


# Table 2: error with 110 layers (basic units) and 164 (bottlenecks).
_ORDERS = {
    "original": (6.61, 5.93),
    "bn-after-add": (8.17, 6.50),
    "relu-before-add": (7.84, 6.14),
    "relu-preact": (6.71, 5.91),
    "full-preact": (6.37, 5.46),
}


def _order(order: str, depth: int) -> Row:
    value = _ORDERS[order][depth == 164]
    axes = () if order == "original" else (f"order={order}",)
    cuts = _BASIC_CUTS if depth == 110 else _BOTTLENECK_CUTS
    return Row(
        f"{order}-{depth}", f"resnet{depth}_cifar", "cifar10", "he2016-cifar", axes, seeds=5,
        reported=told(value, "Table 2"), cuts=cuts,
    )  # fmt: skip


def _against(order: str, depth: int, relation: str, words: str, metric: str = "test_error") -> Claim:
    return Claim(
        f"{order} {words} than the original, {depth} layers", f"{order}-{depth}", relation, f"original-{depth}", metric
    )


def _pair(left: str, right: str) -> Panel:
    return Panel(left, (right, left))


_BN_AFTER = Panel("BN after addition, 110 layers", ("original-110", "bn-after-add-110"))
_PREACT = Panel("full pre-activation, 164 layers", ("original-164", "full-preact-164"))

HE2016: tuple[Study, ...] = (
    Study(
        name="he2016/table1",
        title="Every shortcut but the identity makes 110 layers worse",
        source=f"{PAPER}, Table 1 and Fig. 3",
        rows=_TABLE1,
        cuts=_BASIC_CUTS,
        claims=(
            *(_worse(row.name) for row in _TABLE1[1:]),
            Claim(
                "an exclusive gate that begins at -6 tests better than one at 0",
                "exclusive-gate(-6)",
                "<",
                "exclusive-gate(0)",
                "test_error",
            ),
            Claim(
                "a gate on the shortcut alone that begins open (-6) tests better than at 0",
                "shortcut-gate(-6)",
                "<",
                "shortcut-gate(0)",
                "test_error",
            ),
            Claim(
                "the 1x1 convolution's training loss is higher: it is harder to optimise, though it can represent more",
                "conv1x1-shortcut",
                ">",
                "original",
                "train_loss",
            ),
            Claim(
                "the training loss of a gate on the shortcut alone that begins at 0 is higher, too",
                "shortcut-gate(0)",
                ">",
                "original",
                "train_loss",
            ),
        ),
        asked=(Asked("gradients", at="init"),),
        figures=(
            Drawing(
                "loss_and_error",
                "Training loss and test error against iterations",
                (
                    _pair("constant-0.5-0.5", "original"),
                    _pair("exclusive-gate(-6)", "original"),
                    _pair("shortcut-gate(0)", "original"),
                    _pair("conv1x1-shortcut", "original"),
                ),
                where="Fig. 3",
            ),
            Drawing(
                "gradients",
                "Gradient at each unit before training",
                (
                    Panel("scaled or projected", _SCALED),
                    Panel("gated", _GATED),
                ),
                question="gradients@init",
            ),
        ),
        differences=(
            *DIFFERENCES,
            "the 1x1 convolution of each shortcut carries no BatchNorm: a reading, the paper does not say",
            "dropout on the shortcut is read twice: what is left is divided by 1 - p, as frameworks do, and the signal "
            "grows with each unit; or it is not, and the shortcut has an expectation of 0.5, as the paper says",
            "of the exclusive gate's biases from 0 to -5, which all fail, the first and the last stand here; "
            "he2016/gate-bias has them all",
        ),
    ),
    Study(
        name="he2016/gate-bias",
        title="Exclusive gating stands and falls with the bias it begins from",
        source=f"{PAPER}, Sec. 3.1 (the search over 0, -1, ..., -10) and Table 1",
        rows=(_ORIGINAL, *map(_gated, _BIASES)),
        cuts=_BASIC_CUTS,
        claims=(
            Claim("-6 tests better than 0", "exclusive-gate(-6)", "<", "exclusive-gate(0)", "test_error"),
            Claim("-6 tests better than -5", "exclusive-gate(-6)", "<", "exclusive-gate(-5)", "test_error"),
            Claim("-6 tests better than -7", "exclusive-gate(-6)", "<", "exclusive-gate(-7)", "test_error"),
            Claim(
                "none reaches the identity shortcut: -6 tests worse",
                "exclusive-gate(-6)",
                ">",
                "original",
                "test_error",
            ),
        ),
        figures=(
            Drawing(
                "lines",
                "Test error against the gate's first bias",
                (Panel("exclusive gate", tuple(f"exclusive-gate({bias})" for bias in _BIASES), _BIASES),),
                axis="bias that the gates begin from",
                metric="test_error",
            ),
        ),
        differences=DIFFERENCES,
    ),
    Study(
        name="he2016/table2",
        title="Five orders of convolution, norm and activation",
        source=f"{PAPER}, Table 2 and Fig. 6",
        rows=tuple(_order(order, depth) for depth in (110, 164) for order in _ORDERS),
        cuts=_BASIC_CUTS,
        claims=(
            *(_against(order, 110, ">", "tests worse") for order in ("bn-after-add", "relu-before-add")),
            *(_against(order, 164, ">", "tests worse") for order in ("bn-after-add", "relu-before-add")),
            Claim(
                "relu-preact tests like the original, 110 layers",
                "relu-preact-110",
                "within",
                "original-110",
                "test_error",
                margin=0.5,
            ),
            _against("full-preact", 110, "<", "tests better"),
            _against("full-preact", 164, "<", "tests better"),
            _against("full-preact", 164, ">", "ends at a higher training loss", "train_loss"),
            _against("bn-after-add", 110, ">", "ends at a higher training loss", "train_loss"),
        ),
        figures=(
            Drawing("loss_and_error", "Training loss and test error", (_BN_AFTER, _PREACT), where="Fig. 6"),
            Drawing(
                "error_curves",
                "Error against iterations",
                (
                    Panel("110 layers", tuple(f"{order}-110" for order in _ORDERS)),
                    Panel("164 layers", tuple(f"{order}-164" for order in _ORDERS)),
                ),
            ),
        ),
        differences=(
            *DIFFERENCES,
            "BN after addition has bare projections, and ReLU-only pre-activation a norm after the stem and a ReLU "
            "after the last unit: readings, the paper does not say",
        ),
    ),
    Study(
        name="he2016/fig6",
        title="BN after addition slows the fit; pre-activation fits less and generalises more",
        source=f"{PAPER}, Fig. 6",
        rows=(
            _order("original", 110),
            _order("bn-after-add", 110),
            _order("original", 164),
            _order("full-preact", 164),
        ),
        cuts=_BASIC_CUTS,
        claims=(
            _against("bn-after-add", 110, ">", "ends at a higher training loss", "train_loss"),
            _against("full-preact", 164, ">", "ends at a higher training loss", "train_loss"),
            _against("full-preact", 164, "<", "tests better"),
        ),
        figures=(Drawing("loss_and_error", "Training loss and test error", (_BN_AFTER, _PREACT), where="Fig. 6"),),
        differences=DIFFERENCES,
    ),
)
