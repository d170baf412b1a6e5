"""Papers that analyze trained networks: deleted blocks, paths, loss landscapes.

Veit, Wilber and Belongie 2016, Residual Networks Behave Like Ensembles (arXiv:1605.06431).
Li et al. 2018, Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913).
"""

from dataclasses import replace

from reslab.spec.papers.presets import cifar_presets, higher_test_error, lower_test_error
from reslab.spec.study import AnalysisRequest, Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_VEIT = "Veit et al. 2016, arXiv:1605.06431"
_ONE_BLOCK_DELETED = "lesion.deletions.error.median"
_PERMUTED = "lesion.permutations.error.mean"
_PEAK_PATH_LENGTH = "lesion.paths.contribution.peak"
_VEIT_ROWS = ("residual-56", "residual-110", "plain-20")

VEIT2016: tuple[Study, ...] = (
    Study(
        name="veit2016/lesion",
        title="Deleting one block barely hurts a residual network and breaks a plain one",
        reference=f"{_VEIT}, Secs. 4 and 5, Figs. 3, 5 and 6",
        rows=(
            RowSpec("residual-56", "resnet56_cifar", "cifar10", "he2015-cifar", seeds=3, presets=cifar_presets(4)),
            RowSpec(
                "residual-110",
                "resnet110_cifar",
                "cifar10",
                "he2015-cifar-110",
                seeds=3,
                reported=ReportedValue(
                    6.10,
                    location=f"{_VEIT}, Sec. 5 (the whole network)",
                    provenance="verified",
                ),
                presets=cifar_presets(5),
            ),
            replace(
                RowSpec("plain-20", "plain20_cifar", "cifar10", "he2015-cifar", seeds=3, presets=cifar_presets(2)),
                note="in place of the paper's VGG-15",
            ),
        ),
        presets=cifar_presets(4),
        claims=(
            Claim(
                "after deleting one block, residual-56 has a lower error than plain-20",
                "residual-56",
                "<",
                "plain-20",
                _ONE_BLOCK_DELETED,
            ),
            Claim(
                "after deleting one block, residual-110 has a lower error than plain-20",
                "residual-110",
                "<",
                "plain-20",
                _ONE_BLOCK_DELETED,
            ),
            Claim(
                "the more blocks, the less one matters: without one, residual-110 has a lower error than residual-56",
                "residual-110",
                "<",
                "residual-56",
                _ONE_BLOCK_DELETED,
            ),
            *(
                Claim(
                    f"with permuted blocks, residual-{depth} has a lower error than chance",
                    f"residual-{depth}",
                    "<",
                    0.9,
                    _PERMUTED,
                    is_ours=True,
                )
                for depth in (56, 110)
            ),
            *(
                Claim(
                    f"in residual-{depth} the paths with the most gradient are shorter than the mean, {half:g} blocks",
                    f"residual-{depth}",
                    "<",
                    half,
                    _PEAK_PATH_LENGTH,
                )
                for depth, half in ((56, 13.5), (110, 27.0))
            ),
        ),
        analyses=(AnalysisRequest("lesion", num_images=1000),),
        figures=(
            FigureSpec(
                "analysis",
                "Blocks deleted and permuted",
                (FigurePanel("", _VEIT_ROWS),),
                location="Figs. 3, 5 and 6",
                analysis="lesion",
            ),
        ),
        differences=(
            "the plain network is plain-20 in place of VGG-15; one of its blocks is replaced by the identity where its "
            "shapes agree, and is not deleted where they do not",
            "residual networks are trained as in He et al. 2015",
        ),
        notes="In the paper, paths of 5 to 17 of the 54 blocks carry most of the gradient.",
    ),
)


_LI = "Li et al. 2018, arXiv:1712.09913v3"
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


def _landscape_row(depth: int, shortcuts: bool) -> RowSpec:
    name = f"resnet-{depth}" if shortcuts else f"noshort-{depth}"
    model = f"{'resnet' if shortcuts else 'plain'}{depth}_cifar"
    overrides = _300_EPOCHS if shortcuts or depth == 20 else _300_EPOCHS + _LOW_LR
    reported = ReportedValue(_ERRORS[depth, shortcuts], location=f"{_LI}, Figs. 5 and 6", provenance="verified")
    return RowSpec(
        name,
        model,
        "cifar10",
        "wrn-cifar",
        overrides=overrides,
        reported=reported,
        presets=cifar_presets(_SMOKE_DEPTHS[depth], duration="300 epochs"),
    )


_WITH_SHORTCUTS = tuple(_landscape_row(depth, True) for depth in (20, 56, 110))
_WITHOUT_SHORTCUTS = tuple(_landscape_row(depth, False) for depth in (20, 56, 110))
_ROW_NAMES = tuple(row.name for row in (*_WITH_SHORTCUTS, *_WITHOUT_SHORTCUTS))

LI2018: tuple[Study, ...] = (
    Study(
        name="li2018/landscape",
        title="Shortcuts keep the loss surface of deep networks smooth",
        reference=f"{_LI}, Figs. 1, 5 and 7, and its table of errors",
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
