"""Zagoruyko and Komodakis 2016, Wide Residual Networks (arXiv:1605.07146)."""

from reslab.spec.papers.he2016_deep import deep_row
from reslab.spec.papers.presets import cifar_presets, lower_test_error
from reslab.spec.study import ReportedValue, RowSpec, Study

_PAPER = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_TABLE5 = {
    "WRN-40-4": ("wrn40_4_cifar", 4.53, 21.18),
    "WRN-16-8": ("wrn16_8_cifar", 4.27, 20.43),
    "WRN-28-10": ("wrn28_10_cifar", 4.00, 19.25),
}
# Blocks per stage on the digits, and a quarter of the widths at short scale.
_SMOKE_DEPTHS = {"WRN-40-4": 3, "WRN-16-8": 1, "WRN-28-10": 2}
_QUARTER_WIDTHS = {"WRN-40-4": "16,32,64", "WRN-16-8": "32,64,128", "WRN-28-10": "40,80,160"}


def _row(name: str, data: str) -> RowSpec:
    model, cifar10_error, cifar100_error = _TABLE5[name]
    value = cifar10_error if data == "cifar10" else cifar100_error
    reported = ReportedValue(value, "median of 5", location=f"{_PAPER}, Table 5", provenance="verified")
    row_name = name if data == "cifar10" else f"{name}-c100"
    presets = cifar_presets(_SMOKE_DEPTHS[name], duration="200 epochs", quarter_widths=_QUARTER_WIDTHS[name])
    return RowSpec(row_name, model, data, "wrn-cifar", seeds=5, reported=reported, presets=presets)


def _table5_rows(data: str) -> tuple[RowSpec, ...]:
    """Return the rows of the thin networks, with the values of He et al. 2016, then the wide ones."""
    thin_rows = (deep_row("preact", depth, data, "Table 4") for depth in ("164", "1001"))
    return (*thin_rows, *(_row(name, data) for name in _TABLE5))


ZAGORUYKO2016: tuple[Study, ...] = (
    Study(
        name="wrn2016/table5",
        title="Wide, shallow networks beat thin, deep ones",
        reference=f"{_PAPER}, Table 5",
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
