"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1): Tables 2 to 5 and 7 to 8.

Classification on ImageNet, and detection by networks that were trained on it first.
"""

from dataclasses import replace

from reslab.spec.papers.he2015 import PAPER
from reslab.spec.papers.presets import higher_test_error, higher_train_error, imagenet_presets, lower_test_error
from reslab.spec.recipes.defaults import MUON
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, ScalePreset, ScalePresets, Study

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


_RECIPE = "he2015-detection"
_VOC_STEPS = ("batch_size=2", "optimizer.lr=0.001", "duration=80k steps", "schedule.milestones=60k steps")
_PRETRAINED = ("pretrained=true",)
_OWN_STEPS = ("pretrained=false", f"optimizer.lr={MUON.lr}", "schedule.milestones=")

_DETECTION_SMOKE = ScalePreset(
    "16 of the drawn shapes, one block per stage with widths 4, 8, 8 and 8, 12 steps of 2",
    (
        *("model.depths=1,1,1,1", "model.widths=4,8,8,8", "model.stem=conv3/2(4) norm act"),
        *("model.min_size=64", "model.max_size=64", "model.roi_batch_size=16", "model.proposals=32,16"),
        *("batch_size=2", "duration=12 steps", "precision=float32", *_OWN_STEPS),
    ),
    data="drawn-shapes",
    num_images=16,
    seeds=2,
    recipe="detection-small",
)
_DETECTION_SHORT = ScalePreset(
    "BCCD in place of VOC, a shorter side of at most 160 pixels, 10 epochs of batches of 8, random initial weights",
    ("model.min_size=160", "model.max_size=160", "batch_size=8", "duration=10 epochs", *_OWN_STEPS),
    data="bccd",
    seeds=3,
    recipe="detection-small",
)
_DETECTION_PRESETS = ScalePresets(_DETECTION_SMOKE, _DETECTION_SHORT)
_C4 = "fasterrcnn_resnet18_c4_320"
_C4_PRESETS = ScalePresets(
    replace(_DETECTION_SMOKE, model=_C4),
    replace(
        _DETECTION_SHORT,
        description=f"ResNet-18 with 32 regions of 7x7 an image, {_DETECTION_SHORT.description}",
        model=_C4,
        overrides=(*_DETECTION_SHORT.overrides, "model.roi_size=7", "model.roi_batch_size=32"),
    ),
)


def _reported_ap(value: float, table: int, metric: str = "") -> ReportedValue:
    location = f"{PAPER}, Table {table}"
    return ReportedValue(value, location=location, provenance="verified", metric=metric)


_DETECTION_ROWS = (
    RowSpec(
        "residual-101-voc07", "fasterrcnn_resnet101_c4", "voc07+12", _RECIPE, overrides=(*_VOC_STEPS, *_PRETRAINED),
        metric="test_voc_map", reported=_reported_ap(76.4, 7), presets=_C4_PRESETS, note="VGG-16: 73.2 %",
    ),
    RowSpec(
        "residual-101-voc12", "fasterrcnn_resnet101_c4", "voc07++12", _RECIPE, overrides=(*_VOC_STEPS, *_PRETRAINED),
        metric="test_voc_map", reported=_reported_ap(73.8, 7), presets=_C4_PRESETS, note="VGG-16: 70.4 %",
    ),
    RowSpec(
        "residual-101-coco", "fasterrcnn_resnet101_c4", "coco2014", _RECIPE, overrides=_PRETRAINED, metric="test_ap50",
        reported=_reported_ap(48.4, 8), more_reported=(_reported_ap(27.2, 8, "test_ap"),), presets=_C4_PRESETS,
        note="VGG-16: 41.5 % and 21.2 %",
    ),
    RowSpec(
        "plain-18", "fasterrcnn_resnet18_fpn_320", "voc07+12", "detection-small", ("backbone=plain18",), seeds=3,
        metric="test_voc_map",
    ),
    RowSpec(
        "residual-18", "fasterrcnn_resnet18_fpn_320", "voc07+12", "detection-small", seeds=3, metric="test_voc_map"
    ),
)  # fmt: skip

HE2015_DETECTION: tuple[Study, ...] = (
    Study(
        name="he2015/detection",
        title="Residual backbones for object detection, on PASCAL VOC and COCO",
        reference=f"{PAPER}, Tables 7 and 8",
        rows=_DETECTION_ROWS,
        presets=_DETECTION_PRESETS,
        claims=(
            Claim(
                "a detector on ResNet-18 has a higher mAP than one on its plain twin",
                "residual-18",
                ">",
                "plain-18",
                "test_voc_map",
                is_ours=True,
            ),
            Claim(
                "a detector on ResNet-18 has a higher AP than one on its plain twin",
                "residual-18",
                ">",
                "plain-18",
                "test_ap",
                is_ours=True,
            ),
        ),
        differences=(
            "the paper compares ResNet-101 with VGG-16, which is no residual network and is not trained here: the rows "
            "of 18 layers, which the paper does not have, compare a residual backbone with its plain twin from random "
            "weights",
            "proposals and classes are trained jointly; the paper alternates between the two",
            "the steps, rates and batches are from memory, not read in the paper",
            "mAP is the area under the curve; VOC 2007 takes the mean of 11 points. VOC 2012 is evaluated on its "
            "validation images, because the annotations of its test images are not public",
        ),
    ),
)
