"""Li et al. 2018, Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913)."""

from reslab.spec.papers.presets import tests_better, tests_worse, three_stages
from reslab.spec.study import Asked, Claim, Drawing, Panel, Reported, Row, Study

_PAPER = "Li et al. 2018, arXiv:1712.09913v3"
_300 = (
    "length=300 epochs",
    "schedule.milestones=150 epochs,225 epochs,275 epochs",
    "schedule.gamma=0.1",
    "augment=pad(4) crop(32) flip",
)
_SLOW = ("optimizer.lr=0.01",)
_SMOKE = {20: 1, 56: 2, 110: 3}
_ERRORS = {(20, True): 7.37, (56, True): 5.89, (110, True): 5.79}
_ERRORS |= {(20, False): 8.18, (56, False): 13.31, (110, False): 16.44}


def _row(depth: int, shortcuts: bool) -> Row:
    name = f"resnet-{depth}" if shortcuts else f"noshort-{depth}"
    model = f"{'resnet' if shortcuts else 'plain'}{depth}_cifar"
    settings = _300 if shortcuts or depth == 20 else _300 + _SLOW
    told = Reported(_ERRORS[depth, shortcuts], where=f"{_PAPER}, Figs. 5 and 6", confidence="read")
    return Row(
        name,
        model,
        "cifar10",
        "wrn-cifar",
        settings=settings,
        reported=told,
        cuts=three_stages(_SMOKE[depth], length="300 epochs"),
    )


_WITH = tuple(_row(depth, True) for depth in (20, 56, 110))
_WITHOUT = tuple(_row(depth, False) for depth in (20, 56, 110))
_ROWS = tuple(row.name for row in (*_WITH, *_WITHOUT))

LI2018: tuple[Study, ...] = (
    Study(
        name="li2018/landscape",
        title="Shortcuts keep the loss surface of deep networks smooth",
        source=f"{_PAPER}, Figs. 1, 5 and 7, and its table of errors",
        rows=(*_WITH, *_WITHOUT),
        cuts=three_stages(2),
        claims=(
            tests_worse("noshort-56", "noshort-20"),
            tests_worse("noshort-110", "noshort-56"),
            tests_better("resnet-56", "noshort-56"),
            Claim(
                "around noshort-56 less of the surface is near convex than around resnet-56",
                "noshort-56",
                ">",
                "resnet-56",
                "landscape.not_convex",
            ),
            Claim(
                "around noshort-110 less of the surface is near convex than around resnet-110",
                "noshort-110",
                ">",
                "resnet-110",
                "landscape.not_convex",
            ),
            tests_better("resnet-110", "noshort-110"),
        ),
        asked=(Asked("landscape", num_images=512),),
        figures=(
            Drawing(
                "answers",
                "The loss around the trained weights",
                (Panel("", _ROWS),),
                where="Figs. 1, 5 and 7",
                question="landscape",
            ),
        ),
        differences=(
            "shortcuts pad with zeros (option A of He et al. 2015)",
            "a grid and a number of pictures that fit: the paper has 51 x 51 points and all training pictures",
        ),
    ),
)
