"""Detectors: outputs and losses against torchvision's, the C4 detector, as data and files, and freezing."""

import json
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision.models.detection as reference
from agreement import images, randomise
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN, _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, RPNHead, _default_anchorgen
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.retinanet import _default_anchorgen as retinanet_anchors
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, roi_pool
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from reslab.analysis.surgery import block_slots, disabled_blocks
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.safetensors_io import read_header, save_weights
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import create_model, list_models, load_model
from reslab.spec.config import to_dict
from reslab.spec.dense import ModelKind
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.dense import DENSE_ARCHS, PUBLISHED_AXES, arch_from_dict

TORCHVISION = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
]
NAMES = [name for name, arch in DENSE_ARCHS.items() if arch.kind is ModelKind.DETECTION]
NUM_CLASSES = 4
# Small images, and few blocks, channels and proposals, so that a test takes seconds.
SIZES = {"min_size": 64, "max_size": 96}
TINY = {
    **SIZES,
    "num_classes": NUM_CLASSES,
    "backbone": "resnet18",
    "depths": (1, 1, 1, 1),
    "pyramid_channels": 32,
    "roi_batch_size": 16,
    "proposals": (40, 30),
}
# Fewer proposals, in torchvision's words and in ours.
THEIR_PROPOSALS = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 30,
    "rpn_batch_size_per_image": 48,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 20,
    "box_nms_thresh": 0.6,
    "box_score_thresh": 0.0,
}
OUR_PROPOSALS = {
    "proposals_before_nms": (60, 50),
    "proposals": (40, 30),
    "rpn_batch_size": 48,
    "roi_batch_size": 16,
    "max_detections": 20,
    "nms_threshold": 0.6,
    "score_threshold": 0.0,
}
THEIR_SELECTION = {"score_thresh": 0.0, "nms_thresh": 0.6, "detections_per_img": 20}
TINY_C4 = {key: value for key, value in TINY.items() if key != "pyramid_channels"}


def build_reference(
    name: str, norm: Callable[..., nn.Module] = nn.BatchNorm2d, score_threshold: float = 0.0
) -> nn.Module:
    """torchvision's detector of this name with one block a stage, from its own parts as its functions have them."""
    extract = partial(_resnet_fpn_extractor, ResNet(Bottleneck, [1, 1, 1, 1], norm_layer=norm), 5)
    is_v2 = name.endswith("v2")
    if name.startswith("retinanet"):
        channels = 2048 if is_v2 else 256
        backbone = extract(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(channels, 256))
        head = RetinaNetHead(256, 9, NUM_CLASSES, norm_layer=partial(nn.GroupNorm, 32) if is_v2 else None)
        head.regression_head._loss_type = "giou" if is_v2 else "l1"
        anchors = retinanet_anchors()
        kwargs = {"anchor_generator": anchors, "head": head, **THEIR_SELECTION}
        return reference.RetinaNet(backbone, NUM_CLASSES, **SIZES, **kwargs)
    kwargs = {**SIZES, **THEIR_PROPOSALS}
    if is_v2:
        backbone = extract(norm_layer=nn.BatchNorm2d)
        kwargs["rpn_anchor_generator"] = _default_anchorgen()
        kwargs["rpn_head"] = RPNHead(256, 3, conv_depth=2)
        kwargs["box_head"] = FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d)
    else:
        backbone = extract()
    if name.startswith("fasterrcnn"):
        return reference.FasterRCNN(backbone, NUM_CLASSES, **kwargs)
    if is_v2:
        kwargs["mask_head"] = MaskRCNNHeads(256, [256] * 4, 1, norm_layer=nn.BatchNorm2d)
    return reference.MaskRCNN(backbone, NUM_CLASSES, **kwargs)


def batch(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes in [0, 1], with boxes, labels and masks."""
    inputs = [images(3, *size, seed=seed, dtype=dtype).sigmoid() for seed, size in ((1, (64, 80)), (2, (72, 60)))]
    boxes = [[[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 56.0, 44.0]], [[8.0, 8.0, 40.0, 52.0]]]
    targets = []
    for image, corners in zip(inputs, boxes, strict=True):
        masks = torch.zeros(len(corners), *image.shape[1:], dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
        labels = torch.arange(len(corners)) + 1
        targets.append({"boxes": torch.tensor(corners, dtype=dtype), "labels": labels, "masks": masks})
    return inputs, targets


def randomise_detector(model: nn.Module, box_scale: float = 0.05) -> None:
    """Draw every weight and statistic; the offsets of boxes small, so that proposals are many and differ."""
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".bbox_" in name:
                parameter.mul_(box_scale)


def check_equal(ours: nn.Module, theirs: nn.Module) -> None:
    """Detections in eval mode, and losses and gradients in training mode with equal seeds, are equal."""
    inputs, targets = batch()
    with torch.no_grad():
        actual, expected = ours.eval()(inputs), theirs.eval()(inputs)
    assert all(len(result["boxes"]) > 2 for result in expected)
    for result, expected_result in zip(actual, expected, strict=True):
        assert list(result) == list(expected_result)
        assert all(torch.equal(result[key], expected_result[key]) for key in result)
    gradients = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        losses = model.train()(inputs, [dict(target) for target in targets])
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
        gradients.append((losses, {id_: g for id_, g in enumerate(grads) if g is not None}))
    (losses, grads), (expected_losses, expected_grads) = gradients
    assert list(losses) == list(expected_losses)
    assert all(torch.equal(losses[key], expected_losses[key]) and losses[key] > 0 for key in losses)
    assert grads.keys() == expected_grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key], rtol=1e-9, atol=1e-12)


def by_name(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_of_all_entries_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(reference, name)(weights=None, weights_backbone=None)
        ours = create_model(name)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert by_name(ours) == by_name(theirs)
    for attribute in ("score_thresh", "nms_thresh", "detections_per_img", "topk_candidates"):
        assert getattr(ours, attribute, None) == getattr(theirs, attribute, None)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if index == 2 else pytest.mark.soak) for index, name in enumerate(TORCHVISION)],
)
def test_detections_and_losses_are_torchvisions(name: str) -> None:
    theirs = build_reference(name).double()
    randomise_detector(theirs)
    axes = {**SIZES, **OUR_PROPOSALS, "num_classes": NUM_CLASSES, "depths": (1, 1, 1, 1)}
    ours = create_model(name, **axes).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    check_equal(ours, theirs)


def test_frozen_batch_norm_as_in_published_weights() -> None:
    theirs = build_reference("fasterrcnn_resnet50_fpn", partial(FrozenBatchNorm2d, eps=0.0)).double()
    randomise_detector(theirs)
    axes = {**SIZES, **OUR_PROPOSALS, "num_classes": NUM_CLASSES, "depths": (1, 1, 1, 1)}
    ours = create_model("fasterrcnn_resnet50_fpn", **axes, **PUBLISHED_AXES["fasterrcnn_resnet50_fpn"]).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    check_equal(ours, theirs)


def test_published_weights_set_their_axes(monkeypatch) -> None:
    """The file of a tag is read with torchvision's keys; no network is needed here."""
    from reslab.nn.checkpoints.read import unwrap_checkpoint

    with torch.device("meta"):
        theirs = reference.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **SIZES)
    assert PUBLISHED_AXES["fasterrcnn_resnet50_fpn"] == {"norm": "frozen", "norm_eps": 0.0}
    state = {key: torch.zeros_like(value, device="cpu") for key, value in theirs.state_dict().items()}
    # As in the file of 2019, whose keys torchvision's modules rename.
    state = {key.replace("inner_blocks.0.0.", "inner_blocks.0."): value for key, value in state.items()}
    fetched = []

    def fetch(published, key_prefixes):
        fetched.append(published)
        return unwrap_checkpoint(published.tag, state, key_prefixes=key_prefixes)

    monkeypatch.setattr("reslab.nn.dense_factory.fetch_published", fetch)
    network = create_model("fasterrcnn_resnet50_fpn", pretrained="COCO_V1")
    assert fetched[0].url.endswith("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    assert (network.arch.norm, network.arch.backbone.norm_eps) == ("frozen", 0.0)
    assert (len(network.classes), network.classes[0]) == (90, "person")  # without the background
    assert network.preprocess == Preprocess(3, "", (0.0,) * 3, (1.0,) * 3)
    assert network.load_report.is_complete
    assert not network.backbone.fpn.inner_blocks[0][0].weight.any()


@pytest.mark.soak
@pytest.mark.parametrize("name", TORCHVISION)
def test_whole_networks_are_torchvisions(name: str) -> None:
    selection = THEIR_SELECTION if name.startswith("retina") else THEIR_PROPOSALS
    theirs = getattr(reference, name)(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, **SIZES, **selection
    ).double()
    randomise_detector(theirs, 1e-4)  # maps grow with the number of blocks
    ours = create_model(name, num_classes=NUM_CLASSES, **SIZES, **OUR_PROPOSALS).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    check_equal(ours, theirs)


def test_the_head_of_c4_is_the_last_stage() -> None:
    network = create_model("fasterrcnn_resnet50_c4", **{**TINY_C4, "backbone": "resnet50"}).double().eval()
    randomise(network)
    whole = create_model("resnet50", depths=(1, 1, 1, 1), norm="frozen").double().eval()
    head = network.roi_heads.box_head
    whole.load_state_dict({**network.backbone.state_dict(), **head.state_dict()}, strict=False)
    x = images(1, 3, 64, 96)
    with torch.no_grad():
        maps = network.backbone(x)
        assert torch.equal(maps, whole.features(x)["layer3"])
        assert maps.shape[1] == network.rpn.head.conv[0][0].in_channels == network.backbone.out_channels
        assert torch.equal(head(maps), whole.features(x)["layer4"].mean((2, 3), keepdim=True))
        boxes = [torch.tensor([[0.0, 0.0, 63.0, 63.0], [16.0, 0.0, 80.0, 48.0]], dtype=torch.float64)]
        result = network.roi_heads.box_roi_pool({"0": maps}, boxes, [(64, 96)])
    assert torch.equal(result, roi_pool(maps, boxes, 14, 1 / 16))
    assert result.shape == (2, 1024, 14, 14)
    assert {key.split(".")[0] for key in network.backbone.state_dict()} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
    }
    assert {key.split(".")[0] for key in head.state_dict()} == {"layer4"}
    assert all(isinstance(module, FrozenBatchNorm2d) for name, module in network.named_modules() if ".bn" in name)
    assert len(network.rpn.anchor_generator.cell_anchors[0]) == 9


@pytest.mark.parametrize("pool", ["max", "align"])
def test_the_c4_detector_trains_and_detects(pool: str) -> None:
    torch.manual_seed(0)
    network = create_model("fasterrcnn_resnet50_c4", roi_pool=pool, score_threshold=0.0, **TINY_C4)
    inputs, targets = batch(torch.float32)
    losses = network(inputs, targets)
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    sum(losses.values()).backward()
    assert network.roi_heads.box_head.layer4[0].conv1.weight.grad.any()
    assert network.backbone.conv1.weight.grad.any()
    with torch.no_grad():
        detections = network.eval()(inputs)
    assert all(len(result["boxes"]) for result in detections)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet18_fpn_320", "retinanet_resnet18_fpn_320", "maskrcnn_resnet18_fpn_320"]
)
def test_small_detectors_have_small_anchors(name: str) -> None:
    network = create_model(name, depths=(1, 1, 1, 1), num_classes=3)
    assert network.arch.level_sizes[0][0] == 12
    assert network.transform.min_size == (320,)
    inputs, targets = batch(torch.float32)
    losses = network(inputs, targets)
    assert all(loss.isfinite() for loss in losses.values())


BACKBONES = "resnet18 resnet50d resnetv2_50 wrn16_8_cifar convnext_tiny regnety_004 resnet20_cifar seresnet50"


@pytest.mark.parametrize("backbone", BACKBONES.split())
def test_any_backbone_of_the_zoo(backbone: str) -> None:
    with torch.device("meta"):
        stages = len(create_model(backbone).arch.depths)
        axes = {"backbone": backbone, "pyramid_stages": tuple(range(1, stages + 1)), "pyramid_channels": 16}
        axes["anchor_sizes"] = tuple(8 << level for level in range(stages + 1))
        network = create_model("fasterrcnn_resnet50_fpn", **axes)
        maps = network.backbone(torch.empty(1, 3, 64, 96))
        assert list(maps) == [*map(str, range(stages)), "pool"]
        assert {value.shape[1] for value in maps.values()} == {16}
        c4 = create_model("fasterrcnn_resnet50_c4", backbone=backbone)
        head = c4.roi_heads.box_head(torch.empty(5, c4.backbone.out_channels, 14, 14))
        assert head.shape == (5, c4.roi_heads.box_predictor.cls_score.in_features, 1, 1)


def test_fewer_stages_of_the_backbone() -> None:
    network = create_model("retinanet_resnet50_fpn", **TINY, pyramid_stages="1,2,3")
    assert not [key for key in network.state_dict() if "layer4" in key]
    assert list(network.backbone(torch.zeros(1, 3, 64, 64))) == ["0", "1", "2", "p6", "p7"]


@pytest.mark.parametrize(("trainable", "frozen"), [(3, 2), (5, 0), (0, 5), (4, 1), (None, 0)])
def test_layers_that_are_not_trained(trainable: int | None, frozen: int) -> None:
    theirs = _resnet_fpn_extractor(ResNet(Bottleneck, [1, 1, 1, 1]), 5 if trainable is None else trainable)
    network = create_model("fasterrcnn_resnet50_fpn", depths=(1, 1, 1, 1), trainable_layers=trainable)
    ours = {name: p.requires_grad for name, p in network.backbone.named_parameters()}
    assert ours == {name: p.requires_grad for name, p in theirs.named_parameters()}
    tops = {name.split(".")[1] for name, is_trained in ours.items() if not is_trained}
    assert len(tops - {"bn1"}) == frozen
    c4 = create_model("fasterrcnn_resnet50_c4", trainable_layers=trainable, **TINY_C4)
    tops = {name.split(".")[-4] for name, p in c4.named_parameters() if not p.requires_grad and ".layer" in name}
    assert {key for key in tops if key.startswith("layer")} == {f"layer{i + 1}" for i in range(max(frozen - 1, 0))}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"detector": "fast-rcnn"}, "nearest: 'faster-rcnn'"),
        ({"backbone": "resnet20_cifar"}, "pyramid_stages=1,2,3"),
        ({"anchor_sizes": (32, 64)}, "anchor_sizes with 5"),
        ({"pyramid_stages": (2, 1)}, "in order"),
        ({"trainable_layers": 6}, "from 0 to 5"),
        ({"max_size": 100}, "max_size from"),
        ({"in_channels": 1}, "image_mean=0.5 image_std=0.5"),
        ({"roi_pool": "max"}, "roi_pool=align"),
        ({"extra_levels": "p8"}, "p5"),
        ({"head_norm": "btch"}, "batch"),
        ({"anchor_ratios": ()}, "anchor_ratios"),
        ({"box_loss": "iou"}, "giou"),
        ({"score_treshold": 1}, "score_threshold"),
    ],
)
def test_invalid_values(overrides: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_model("fasterrcnn_resnet50_fpn_v2", **overrides)


def test_values_as_text() -> None:
    arch = create_model(
        "fasterrcnn_resnet50_fpn", **TINY, anchor_sizes="8,16,32,64,128", anchor_ratios="0.5,2", score_threshold="0.2"
    ).arch
    assert (arch.anchor_sizes, arch.anchor_ratios, arch.score_threshold) == ((8, 16, 32, 64, 128), (0.5, 2.0), 0.2)


def test_the_names() -> None:
    assert set(TORCHVISION) < set(NAMES)
    assert list_models(kind="detection") == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name: str) -> None:
    arch = DENSE_ARCHS[name]
    assert arch_from_dict(json.loads(json.dumps(to_dict(arch))), "detection") == arch
    assert len(arch.reference) > 20


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_c4"])
def test_a_file_alone_is_enough(name: str, tmp_path) -> None:
    axes = TINY_C4 if name.endswith("c4") else TINY
    torch.manual_seed(0)
    network = create_model(name, **axes, score_threshold=0.0, trainable_layers=3).eval()
    network.set_metadata(classes=["cat", "dog", "bird"], preprocess=Preprocess(3, "", (0,) * 3, (1,) * 3))
    path = tmp_path / "model.safetensors"
    save_weights(path, network)
    assert read_header(path)["kind"] == "detection"
    loaded = load_model(path)
    assert (loaded.arch, loaded.classes, loaded.preprocess) == (network.arch, network.classes, network.preprocess)
    inputs, _ = batch(torch.float32)
    with torch.no_grad():
        for result, expected in zip(loaded(inputs), network(inputs), strict=True):
            assert len(expected["boxes"])
            assert all(torch.equal(result[key], expected[key]) for key in expected)
    trained = {key: p.requires_grad for key, p in network.named_parameters()}
    assert {key: p.requires_grad for key, p in loaded.named_parameters()} == trained
    again = create_model(name, **{**axes, "num_classes": 3}, pretrained=path)
    assert {key.rpartition(".")[0] for key in again.load_report.reinitialized} == set(network.class_layers)
    with pytest.raises(CheckpointError, match="network for segmentation"):
        create_model("fcn_resnet20_cifar", pretrained=path)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_c4"])
def test_weights_of_the_backbone(name: str) -> None:
    classifier = create_model("resnet18", depths=(1, 1, 1, 1), num_classes=10)
    randomise(classifier)
    state = classifier.state_dict()
    network = create_model(name, **(TINY_C4 if name.endswith("c4") else TINY), backbone_weights=state)
    loaded = {key: value for part in network.backbone_parts for key, value in part.state_dict().items()}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    weights = {key for key in state if not key.endswith("num_batches_tracked")}
    assert weights - set(loaded) == {"fc.weight", "fc.bias"}
    assert network.load_report.messages[-1].endswith("fc.weight, fc.bias")


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_c4"])
def test_blocks_are_switched_off_as_in_a_classification_network(name: str) -> None:
    network: DenseNetwork = create_model(name, **(TINY_C4 if name.endswith("c4") else TINY))
    randomise(network)
    prefix = "backbone" if name.endswith("c4") else "backbone.body"
    last = "roi_heads.box_head.layer4.0" if name.endswith("c4") else f"{prefix}.layer4.0"
    names = [slot.name for slot in block_slots(network)]
    assert sorted(names) == sorted([*(f"{prefix}.layer{stage}.0" for stage in (1, 2, 3)), last])
    x = images(1, 3, 64, 64, dtype=torch.float32)
    body = network.residual_network.eval()
    with torch.no_grad():
        before = body.features(x)["layer3"]
        with disabled_blocks(network, [f"{prefix}.layer2.0"]):
            of_the_whole = body.features(x)["layer3"]
        with disabled_blocks(body, ["layer2.0"]):
            of_the_backbone = body.features(x)["layer3"]
        norm = body.layer2[0].bn2
        norm.weight.zero_()
        norm.bias.zero_()
        norm.running_mean.zero_()
        assert torch.equal(of_the_whole, body.features(x)["layer3"])
    assert torch.equal(of_the_whole, of_the_backbone)
    assert not torch.equal(before, of_the_whole)


def test_torchvisions_parts_take_our_backbones() -> None:
    theirs = _resnet_fpn_extractor(ResNet(Bottleneck, [1, 1, 1, 1]), 5).double().eval()
    randomise(theirs)
    ours = create_model("resnet50", depths=(1, 1, 1, 1))
    layers = {f"layer{stage + 1}": str(stage) for stage in range(4)}
    pyramid = BackboneWithFPN(ours, layers, [256, 512, 1024, 2048], 256).double().eval()
    pyramid.load_state_dict(theirs.state_dict(), strict=True)
    x = images(1, 3, 64, 96)
    with torch.no_grad():
        result, expected = pyramid(x), theirs(x)
        assert list(result) == list(expected)
        assert all(torch.equal(result[key], expected[key]) for key in expected)
        features = create_model("resnet18", features_only=True, out_indices=(2, 3, 4)).double().eval()
        maps = dict(zip(features.feature_info.module_name(), features(x), strict=True))
        levels = FeaturePyramidNetwork(features.feature_info.channels(), 32).double()(maps)
    assert [value.shape[2:] for value in levels.values()] == [(8, 12), (4, 6), (2, 3)]


def test_the_first_image_changes_nothing_for_later_ones() -> None:
    """torchvision sets the scales of the pooled maps by the first image, a low one would halve the strides."""
    torch.manual_seed(0)
    network = create_model("fasterrcnn_resnet50_fpn", **TINY)
    assert isinstance(network, DenseNetwork)
    pool = network.roi_heads.box_roi_pool
    assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert (pool.map_levels.k_min, pool.map_levels.k_max) == (2, 5)
    low, square = torch.rand(3, 40, 100), torch.rand(3, 64, 64)
    with torch.no_grad():
        network.eval()([low])
    assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    theirs = reference.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **SIZES)
    with torch.no_grad():
        theirs.eval()([square])
    assert theirs.roi_heads.box_roi_pool.scales == pool.scales
    assert vars(theirs.roi_heads.box_roi_pool.map_levels) == vars(pool.map_levels)


def test_regions_are_pooled_by_their_maximum_in_bf16() -> None:
    """torchvision's kernel for processors takes float32 alone, which autocast does not pass."""
    from reslab.nn.detection import RoiMaxPool

    features = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    boxes = [torch.tensor([[0.0, 0.0, 31.0, 31.0], [8.0, 4.0, 20.0, 30.0]])]
    pool = RoiMaxPool(4, 2)
    result = pool({"0": features}, boxes, [(32, 32)])
    assert result.dtype == torch.bfloat16
    assert torch.equal(result.float(), pool({"0": features.float()}, boxes, [(32, 32)]))
