"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1): Tables 2 to 5, on ImageNet."""

from reslab.spec.papers.he2015 import PAPER
from reslab.spec.papers.presets import higher_test_error, higher_train_error, imagenet_presets, lower_test_error
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, Study

_TEN_CROP = "ten-crop(224)"
_MULTI_SCALE = "scales(224,256,384,480,640)"
_VAL_SPLIT = ("val_fraction=0.01",)
_DEPTHS = {18: "2, 2, 2, 2", 34: "3, 4, 6, 3", 50: "3, 4, 6, 3", 101: "3, 4, 23, 3", 152: "3, 8, 36, 3"}
_DIFFERENCES = (
    "1 % of the training images are held out, and the learning rate is divided when their error has not fallen for 5 "
    "epochs; the paper does not say how long it waits, or on which images",
    "images are normalized by a mean and standard deviation per channel; the paper subtracts a mean per pixel",
    "the error is that on the validation images after the last step",
)


def _row(
    name: str, model: str, depth: int, *, tta: str, location: str, top1: float, top5: float | None = None
) -> RowSpec:
    protocol = "10-crop" if tta == _TEN_CROP else "fully convolutional, 5 scales"
    reported = ReportedValue(top1, protocol=protocol, location=f"{PAPER}, {location}", provenance="verified")
    more_reported = (
        ()
        if top5 is None
        else (
            ReportedValue(
                top5,
                protocol=protocol,
                location=f"{PAPER}, {location}",
                provenance="verified",
                metric="test_error_top5",
            ),
        )
    )
    presets = imagenet_presets(_DEPTHS[depth])
    return RowSpec(
        name,
        model,
        "imagenet",
        "he2015-imagenet",
        overrides=_VAL_SPLIT,
        reported=reported,
        more_reported=more_reported,
        tta=tta,
        presets=presets,
    )


_TABLE2 = (
    _row("plain-18", "plain18", 18, tta=_TEN_CROP, location="Table 2", top1=27.94),
    _row("plain-34", "plain34", 34, tta=_TEN_CROP, location="Table 2", top1=28.54),
    _row("residual-18-A", "resnet18_a", 18, tta=_TEN_CROP, location="Table 2", top1=27.88),
    _row("residual-34-A", "resnet34_a", 34, tta=_TEN_CROP, location="Table 2", top1=25.03),
)
_TABLE3 = (
    _row("plain-34", "plain34", 34, tta=_TEN_CROP, location="Table 3", top1=28.54, top5=10.02),
    _row("residual-34-A", "resnet34_a", 34, tta=_TEN_CROP, location="Table 3", top1=25.03, top5=7.76),
    _row("residual-34-B", "resnet34", 34, tta=_TEN_CROP, location="Table 3", top1=24.52, top5=7.46),
    _row("residual-34-C", "resnet34_c", 34, tta=_TEN_CROP, location="Table 3", top1=24.19, top5=7.40),
    _row("residual-50", "resnet50_v1", 50, tta=_TEN_CROP, location="Table 3", top1=22.85, top5=6.71),
    _row("residual-101", "resnet101_v1", 101, tta=_TEN_CROP, location="Table 3", top1=21.75, top5=6.05),
    _row("residual-152", "resnet152_v1", 152, tta=_TEN_CROP, location="Table 3", top1=21.43, top5=5.71),
)
_TABLE4 = (
    _row("residual-34-B", "resnet34", 34, tta=_MULTI_SCALE, location="Table 4", top1=21.84, top5=5.71),
    _row("residual-34-C", "resnet34_c", 34, tta=_MULTI_SCALE, location="Table 4", top1=21.53, top5=5.60),
    _row("residual-50", "resnet50_v1", 50, tta=_MULTI_SCALE, location="Table 4", top1=20.74, top5=5.25),
    _row("residual-101", "resnet101_v1", 101, tta=_MULTI_SCALE, location="Table 4", top1=19.87, top5=4.60),
    _row("residual-152", "resnet152_v1", 152, tta=_MULTI_SCALE, location="Table 4", top1=19.38, top5=4.49),
)


def _ensemble_member(name: str, model: str, depth: int) -> RowSpec:
    """Return a member of the ensemble, for which the paper prints no value of its own."""
    return RowSpec(
        name, model, "imagenet", "he2015-imagenet", overrides=_VAL_SPLIT, metric="test_error_top5", tta=_MULTI_SCALE,
        presets=imagenet_presets(_DEPTHS[depth]),
    )  # fmt: skip


_MEMBERS = (
    _ensemble_member("residual-34-A", "resnet34_a", 34),
    _ensemble_member("residual-34-B", "resnet34", 34),
    _ensemble_member("residual-34-C", "resnet34_c", 34),
    _ensemble_member("residual-50", "resnet50_v1", 50),
    _ensemble_member("residual-101", "resnet101_v1", 101),
    _ensemble_member("residual-152", "resnet152_v1", 152),
)
_ENSEMBLE_OF_6 = RowSpec(
    "ensemble-of-6",
    members=tuple(row.name for row in _MEMBERS),
    metric="test_error_top5",
    tta=_MULTI_SCALE,
    reported=ReportedValue(
        3.57,
        "one ensemble of six",
        "fully convolutional, 5 scales",
        f"{PAPER}, Table 5",
        note="on the ILSVRC test set, whose labels are not public",
        provenance="verified",
    ),
    presets=imagenet_presets(),
)


HE2015_IMAGENET: tuple[Study, ...] = (
    Study(
        name="he2015/table2",
        title="18 and 34 layers, plain and residual, on ImageNet",
        reference=f"{PAPER}, Table 2 and Fig. 4",
        rows=_TABLE2,
        presets=imagenet_presets(),
        claims=(
            higher_test_error("plain-34", "plain-18"),
            higher_train_error("plain-34", "plain-18"),
            Claim(
                "residual-34 has a lower test error than residual-18",
                "residual-34-A",
                "<",
                "residual-18-A",
                "test_error",
            ),
            Claim("residual-34 has a lower test error than plain-34", "residual-34-A", "<", "plain-34", "test_error"),
            Claim(
                "18 plain and 18 residual layers reach the same test error",
                "residual-18-A",
                "within",
                "plain-18",
                "test_error",
                margin=1.0,
            ),
            Claim(
                "residual-18 reaches a fixed training error in fewer steps than plain-18",
                "residual-18-A",
                "<",
                "plain-18",
                "steps_to_train_error",
            ),
        ),
        figures=(
            FigureSpec(
                "error_curves",
                "Error against iterations",
                (
                    FigurePanel("plain networks", ("plain-18", "plain-34")),
                    FigurePanel("residual networks", ("residual-18-A", "residual-34-A")),
                ),
                location="Fig. 4",
            ),
        ),
        differences=_DIFFERENCES,
    ),
    Study(
        name="he2015/table3",
        title="Shortcuts A, B and C, and 50 to 152 layers, on ImageNet",
        reference=f"{PAPER}, Table 3",
        rows=_TABLE3,
        presets=imagenet_presets(),
        claims=(
            lower_test_error("residual-34-A", "plain-34"),
            lower_test_error("residual-34-B", "residual-34-A"),
            lower_test_error("residual-34-C", "residual-34-B"),
            lower_test_error("residual-50", "residual-34-C"),
            lower_test_error("residual-101", "residual-50"),
            lower_test_error("residual-152", "residual-101"),
        ),
        differences=_DIFFERENCES,
    ),
    Study(
        name="he2015/table4",
        title="Single networks on ImageNet, evaluated at several scales",
        reference=f"{PAPER}, Table 4",
        rows=_TABLE4,
        presets=imagenet_presets(),
        claims=(
            lower_test_error("residual-34-C", "residual-34-B"),
            lower_test_error("residual-50", "residual-34-C"),
            lower_test_error("residual-101", "residual-50"),
            lower_test_error("residual-152", "residual-101"),
        ),
        differences=_DIFFERENCES,
    ),
    Study(
        name="he2015/table5",
        title="An ensemble of six residual networks on ImageNet",
        reference=f"{PAPER}, Table 5",
        rows=(*_MEMBERS, _ENSEMBLE_OF_6),
        presets=imagenet_presets(),
        claims=(
            Claim(
                "the ensemble has a lower test error than its best member",
                "ensemble-of-6",
                "<",
                "residual-152",
                "test_error_top5",
            ),
        ),
        differences=(
            *_DIFFERENCES,
            "the paper does not name the six networks of different depths, two with 152 layers; here they are 34 A, B "
            "and C, 50, 101 and 152",
            "evaluated on the validation images; the paper's 3.57 % is on the test images",
        ),
    ),
)
