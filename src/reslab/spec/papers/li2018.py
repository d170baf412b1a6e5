"""Li et al. 2018, Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913)."""

from reslab.spec.papers.presets import cifar_presets, higher_test_error, lower_test_error
from reslab.spec.study import AnalysisRequest, Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_PAPER = "Li et al. 2018, arXiv:1712.09913v3"
_300_EPOCHS = (
    "duration=300 epochs",
    "schedule.milestones=150 epochs,225 epochs,275 epochs",
    "schedule.gamma=0.1",
    "train_transform=pad(4) crop(32) flip",
)
_LOW_LR = ("optimizer.lr=0.01",)
_SMOKE_DEPTHS = {20: 1, 56: 2, 110: 3}
_ERRORS = {(20, True): 7.37, (56, True): 5.89, (110, True): 5.79}
_ERRORS |= {(20, False): 8.18, (56, False): 13.31, (110, False): 16.44}


def _row(depth: int, shortcuts: bool) -> RowSpec:
    name = f"resnet-{depth}" if shortcuts else f"noshort-{depth}"
    model = f"{'resnet' if shortcuts else 'plain'}{depth}_cifar"
    overrides = _300_EPOCHS if shortcuts or depth == 20 else _300_EPOCHS + _LOW_LR
    reported = ReportedValue(_ERRORS[depth, shortcuts], location=f"{_PAPER}, Figs. 5 and 6", provenance="verified")
    return RowSpec(
        name,
        model,
        "cifar10",
        "wrn-cifar",
        overrides=overrides,
        reported=reported,
        presets=cifar_presets(_SMOKE_DEPTHS[depth], duration="300 epochs"),
    )


_WITH_SHORTCUTS = tuple(_row(depth, True) for depth in (20, 56, 110))
_WITHOUT_SHORTCUTS = tuple(_row(depth, False) for depth in (20, 56, 110))
_ROW_NAMES = tuple(row.name for row in (*_WITH_SHORTCUTS, *_WITHOUT_SHORTCUTS))

LI2018: tuple[Study, ...] = (
    Study(
        name="li2018/landscape",
        title="Shortcuts keep the loss surface of deep networks smooth",
        reference=f"{_PAPER}, Figs. 1, 5 and 7, and its table of errors",
        rows=(*_WITH_SHORTCUTS, *_WITHOUT_SHORTCUTS),
        presets=cifar_presets(2),
        claims=(
            higher_test_error("noshort-56", "noshort-20"),
            higher_test_error("noshort-110", "noshort-56"),
            lower_test_error("resnet-56", "noshort-56"),
            Claim(
                "the loss surface is non-convex in more places around noshort-56 than around resnet-56",
                "noshort-56",
                ">",
                "resnet-56",
                "landscape.non_convex_fraction",
            ),
            Claim(
                "the loss surface is non-convex in more places around noshort-110 than around resnet-110",
                "noshort-110",
                ">",
                "resnet-110",
                "landscape.non_convex_fraction",
            ),
            lower_test_error("resnet-110", "noshort-110"),
        ),
        analyses=(AnalysisRequest("landscape", num_images=512),),
        figures=(
            FigureSpec(
                "analysis",
                "The loss around the trained weights",
                (FigurePanel("", _ROW_NAMES),),
                location="Figs. 1, 5 and 7",
                analysis="landscape",
            ),
        ),
        differences=(
            "shortcuts pad with zeros (option A of He et al. 2015)",
            "a smaller grid and fewer images: the paper has 51 x 51 points and all training images",
        ),
    ),
)
