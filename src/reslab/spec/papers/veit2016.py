"""Veit, Wilber and Belongie 2016, Residual Networks Behave Like Ensembles (arXiv:1605.06431)."""

from dataclasses import replace

from reslab.spec.papers.presets import cifar_presets
from reslab.spec.study import AnalysisRequest, Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_PAPER = "Veit et al. 2016, arXiv:1605.06431"
_ONE_BLOCK_DELETED = "lesion.deletions.error.median"
_PERMUTED = "lesion.permutations.error.mean"
_PEAK_PATH_LENGTH = "lesion.paths.contribution.peak"
_ROWS = ("residual-56", "residual-110", "plain-20")

VEIT2016: tuple[Study, ...] = (
    Study(
        name="veit2016/lesion",
        title="Deleting one block barely hurts a residual network and breaks a plain one",
        reference=f"{_PAPER}, Secs. 4 and 5, Figs. 3, 5 and 6",
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
                    location=f"{_PAPER}, Sec. 5 (the whole network)",
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
                (FigurePanel("", _ROWS),),
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
