"""He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385v1): Tables 7 and 8, detection."""

from dataclasses import replace

from reslab.spec.papers.he2015 import PAPER
from reslab.spec.study import Claim, ReportedValue, RowSpec, ScalePreset, ScalePresets, Study

_RECIPE = "he2015-detection"
_VOC_STEPS = ("batch_size=2", "optimizer.lr=0.001", "duration=80k steps", "schedule.milestones=60k steps")
_PRETRAINED = ("pretrained=true",)
_OWN_STEPS = ("pretrained=false", "optimizer.lr=0.0005", "schedule.milestones=")

_SMOKE = ScalePreset(
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
_SHORT = ScalePreset(
    "BCCD in place of VOC, a shorter side of at most 160 pixels, 10 epochs of batches of 8, random initial weights",
    ("model.min_size=160", "model.max_size=160", "batch_size=8", "duration=10 epochs", *_OWN_STEPS),
    data="bccd",
    seeds=3,
    recipe="detection-small",
)
_PRESETS = ScalePresets(_SMOKE, _SHORT)
_C4 = "fasterrcnn_resnet18_c4_320"
_C4_PRESETS = ScalePresets(
    replace(_SMOKE, model=_C4),
    replace(
        _SHORT,
        description=f"ResNet-18 with 32 regions of 7x7 an image, {_SHORT.description}",
        model=_C4,
        overrides=(*_SHORT.overrides, "model.roi_size=7", "model.roi_batch_size=32"),
    ),
)


def _reported(value: float, table: int, metric: str = "") -> ReportedValue:
    location = f"{PAPER}, Table {table}"
    return ReportedValue(value, location=location, provenance="verified", metric=metric)


_ROWS = (
    RowSpec(
        "residual-101-voc07", "fasterrcnn_resnet101_c4", "voc07+12", _RECIPE, overrides=(*_VOC_STEPS, *_PRETRAINED),
        metric="test_voc_map", reported=_reported(76.4, 7), presets=_C4_PRESETS, note="VGG-16: 73.2 %",
    ),
    RowSpec(
        "residual-101-voc12", "fasterrcnn_resnet101_c4", "voc07++12", _RECIPE, overrides=(*_VOC_STEPS, *_PRETRAINED),
        metric="test_voc_map", reported=_reported(73.8, 7), presets=_C4_PRESETS, note="VGG-16: 70.4 %",
    ),
    RowSpec(
        "residual-101-coco", "fasterrcnn_resnet101_c4", "coco2014", _RECIPE, overrides=_PRETRAINED, metric="test_ap50",
        reported=_reported(48.4, 8), more_reported=(_reported(27.2, 8, "test_ap"),), presets=_C4_PRESETS,
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
        rows=_ROWS,
        presets=_PRESETS,
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
