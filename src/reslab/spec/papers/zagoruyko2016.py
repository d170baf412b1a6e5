"""Zagoruyko and Komodakis 2016, Wide Residual Networks (arXiv:1605.07146)."""

from dataclasses import replace

from reslab.spec.papers.he2016_deep import deep_row
from reslab.spec.papers.presets import tests_better, three_stages
from reslab.spec.study import Cuts, Reported, Row, Study

_PAPER = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_TABLE5 = {
    "WRN-40-4": ("wrn40_4_cifar", 4.53, 21.18),
    "WRN-16-8": ("wrn16_8_cifar", 4.27, 20.43),
    "WRN-28-10": ("wrn28_10_cifar", 4.00, 19.25),
}
# Units a stage on the digits, and a quarter of the widths at short scale: 16 and 32 and 40 on the first stage.
_SMOKE = {"WRN-40-4": 3, "WRN-16-8": 1, "WRN-28-10": 2}
_QUARTER = {"WRN-40-4": "16,32,64", "WRN-16-8": "32,64,128", "WRN-28-10": "40,80,160"}


def _cuts(name: str) -> Cuts:
    cuts = three_stages(_SMOKE[name], length="200 epochs")
    settings = (*cuts.short.settings, f"model.widths={_QUARTER[name]}")
    return replace(
        cuts, short=replace(cuts.short, words=f"a quarter of the widths, {cuts.short.words}", settings=settings)
    )


def _row(name: str, data: str) -> Row:
    model, on_10, on_100 = _TABLE5[name]
    value = on_10 if data == "cifar10" else on_100
    told = Reported(value, "median of 5", where=f"{_PAPER}, Table 5", confidence="read")
    label = name if data == "cifar10" else f"{name}-c100"
    return Row(label, model, data, "wrn-cifar", seeds=5, reported=told, cuts=_cuts(name))


def _table(data: str) -> tuple[Row, ...]:
    """The thin networks of He et al. 2016, as their own paper has them, then the wide ones."""
    thin = (deep_row("preact", depth, data, "Table 4") for depth in ("164", "1001"))
    return (*thin, *(_row(name, data) for name in _TABLE5))


WRN2016: tuple[Study, ...] = (
    Study(
        name="wrn2016/table5",
        title="Wide and shallow beats thin and deep",
        source=f"{_PAPER}, Table 5",
        rows=(*_table("cifar10"), *_table("cifar100")),
        cuts=three_stages(2),
        claims=(
            tests_better("WRN-28-10", "preact-164"),
            tests_better("WRN-28-10", "preact-1001"),
            tests_better("WRN-28-10", "WRN-40-4"),
            tests_better("WRN-16-8", "WRN-40-4"),
            tests_better("WRN-28-10-c100", "preact-164-c100"),
            tests_better("WRN-28-10-c100", "preact-1001-c100"),
            tests_better("WRN-28-10-c100", "WRN-40-4-c100"),
        ),
        differences=("the paper's table has medians of 5 runs; here it is the mean, with the standard deviation",),
        notes="The paper's own table gives ResNet-1202 10.2 M parameters and puts CIFAR-100 errors of 164 and 1,001 "
        "layers in the rows of 110 and 1,202; the thin networks here are taken from He et al. 2016.",
    ),
)
