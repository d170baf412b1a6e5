"""Segmentation networks: against torchvision's and a transcription of the U-Net decoder, as data, files and graphs."""

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision.models.segmentation as reference
from agreement import assert_same, images, randomise
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet

from reslab.analysis.surgery import block_slots, disabled_blocks
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.safetensors_io import read_header, save_weights
from reslab.nn.factory import create_model, list_models, load_model, load_network
from reslab.nn.segmentation import SegmentationNetwork, SegmentationOutput
from reslab.spec.config import to_dict
from reslab.spec.dense import Decoder, ModelKind
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.dense import DENSE_ARCHS, arch_from_dict, register_dense_arch

TORCHVISION = ["fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"]
NAMES = [name for name, arch in DENSE_ARCHS.items() if arch.kind is ModelKind.SEGMENTATION]
SMALL = ["fcn_resnet20_cifar", "deeplabv3_resnet20_cifar", "unet_resnet20_cifar"]


class AsDict(nn.Module):
    """A network with torchvision's form of the outputs, in both modes."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.network.backbone(x)
        result = {"out": self.network(x)}
        if self.network.training:
            output = result["out"]
            return {"out": output.out, "aux": output.aux} if isinstance(output, SegmentationOutput) else result
        if self.network.aux_classifier is not None:
            aux = self.network.aux_classifier(maps["layer3"])
            result["aux"] = F.interpolate(aux, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return result


def build_reference(name: str, depths: list[int], num_classes: int, aux: bool) -> nn.Module:
    """torchvision's network of this name with other numbers of blocks, from its own parts."""
    backbone = ResNet(Bottleneck, depths, replace_stride_with_dilation=[False, True, True])
    module = reference.deeplabv3 if name.startswith("deeplab") else reference.fcn
    build = getattr(module, f"_{name.partition('_')[0]}_resnet")
    return build(backbone, num_classes, aux)


@pytest.mark.soak
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", TORCHVISION)
def test_outputs_of_the_whole_networks_are_torchvisions(name: str, aux: bool) -> None:
    theirs = getattr(reference, name)(weights=None, weights_backbone=None, num_classes=7, aux_loss=aux)
    check_outputs(create_model(name, num_classes=7, aux=aux), theirs)


@pytest.mark.parametrize(("name", "aux"), [("fcn_resnet50", True), ("deeplabv3_resnet50", False)])
def test_outputs_are_torchvisions(name: str, aux: bool) -> None:
    depths = [1, 2, 1, 1]
    ours = create_model(name, num_classes=7, aux=aux, **{"backbone.depths": depths})
    check_outputs(ours, build_reference(name, depths, 7, aux))


def check_outputs(ours: SegmentationNetwork, theirs: nn.Module) -> None:
    ours, theirs = ours.double(), theirs.double()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(1, 3, 40, 56)
    with torch.no_grad():
        result, expected = AsDict(ours.eval())(x), theirs.eval()(x)
        assert list(result) == list(expected)
        assert all(torch.equal(result[key], expected[key]) for key in expected)
        assert torch.equal(ours(x), expected["out"])


def test_training_outputs_gradients_and_statistics_are_torchvisions() -> None:
    theirs = build_reference("fcn_resnet50", [1, 1, 1, 1], 3, True).double()
    randomise(theirs)
    ours = create_model("fcn_resnet50", num_classes=3, depths="1,1,1,1").double()
    ours.load_state_dict(theirs.state_dict(), strict=True)

    class Sum(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            output = self.network(x)
            out, aux = output if isinstance(output, SegmentationOutput) else (output["out"], output["aux"])
            return out + 0.5 * aux

    assert_same(Sum(ours), Sum(theirs), images(2, 3, 32, 40), training=(True,), rng=3)


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_of_all_entries_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(reference, name)(weights=None, weights_backbone=None, aux_loss=True).state_dict()
        ours = create_model(name).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def unet_formula(weights, maps: list[Tensor], training: bool) -> Tensor:
    """The decoder of Ronneberger et al. 2015 with bilinear upsampling, over the weights by name."""

    def layer(prefix: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, weights[f"{prefix}.0.weight"], padding=1)
        mean, variance = weights[f"{prefix}.1.running_mean"], weights[f"{prefix}.1.running_var"]
        if training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return (x * weights[f"{prefix}.1.weight"][:, None, None] + weights[f"{prefix}.1.bias"][:, None, None]).relu()

    x = maps[0]
    for i, skip in enumerate(maps[1:]):
        x = torch.cat((F.interpolate(x, skip.shape[-2:], mode="bilinear"), skip), 1)
        x = layer(f"classifier.blocks.{i}.1", layer(f"classifier.blocks.{i}.0", x))
    return F.conv2d(x, weights["classifier.head.weight"], weights["classifier.head.bias"])


@pytest.mark.parametrize("name", ["unet_resnet20_cifar", "unet_resnet18"])
@pytest.mark.parametrize("training", [True, False])
def test_unet_follows_its_formula(name: str, training: bool) -> None:
    network = create_model(name, num_classes=5, decoder_channels=32).double().train(training)
    randomise(network)
    x = images(2, 3, 36, 44)
    weights = {key: tensor.clone() for key, tensor in network.state_dict(keep_vars=True).items()}
    maps = network.backbone(x)
    expected_logits = unet_formula(weights, [maps[key] for key in network.map_names], training)
    expected = F.interpolate(expected_logits, (36, 44), mode="bilinear")
    loss_weights = images(*expected.shape, seed=4)
    parameters = [p for key, p in network.named_parameters() if key.startswith("classifier")]
    expected_grads = torch.autograd.grad((expected * loss_weights).sum(), parameters)
    randomise(network)  # the statistics of the first run
    result = network(x)
    grads = torch.autograd.grad((result * loss_weights).sum(), parameters)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-8)


def test_unet_takes_the_deepest_map_of_each_stride() -> None:
    assert create_model("unet_resnet18").map_names == ("layer4", "layer3", "layer2", "layer1", "stem")
    small = create_model("unet_resnet20_cifar")
    assert small.map_names == ("layer3", "layer2", "layer1")
    assert [block[1][0].out_channels for block in small.classifier.blocks] == [64, 32]


BACKBONES = """
    resnet18 resnet50d resnetv2_50 seresnet50 plain34 wrn16_8_cifar preresnet164_cifar pyramidnet110_cifar
    convnext_tiny regnety_004 resnet20_cifar book_res fixup110_cifar
"""


@pytest.mark.parametrize("backbone", BACKBONES.split())
@pytest.mark.parametrize("decoder", list(Decoder))
def test_any_backbone_of_the_zoo(backbone: str, decoder: Decoder) -> None:
    with torch.device("meta"):
        network = create_model("unet_resnet18", backbone=backbone, decoder=decoder, num_classes=4)
        assert network.eval()(torch.empty(1, 3, 64, 96)).shape == (1, 4, 64, 96)


def test_a_preactivated_backbone_ends_with_its_norm() -> None:
    network = create_model("fcn_resnet50", backbone="resnetv2_50", output_stride=None).eval()
    randomise(network)
    x = images(1, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        last = network.backbone.features(x)["layer4"]
        for name in network.backbone.final_names:
            last = getattr(network.backbone, name)(last)
        assert network.backbone.final_names
        assert torch.equal(network.backbone(x)["layer4"], last)


@pytest.mark.parametrize(
    ("output_stride", "flags"), [(8, (False, True, True)), (16, (False, False, True)), (32, (False, False, False))]
)
def test_output_stride_becomes_dilation(output_stride: int, flags: tuple[bool, ...]) -> None:
    network = create_model("fcn_resnet50", output_stride=output_stride)
    assert network.backbone.arch.replace_stride_with_dilation == flags
    assert network.backbone.strides["layer4"] == output_stride


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"output_stride": 2}, "output_stride=4"),
        ({"decoder": "fnc"}, "nearest: 'fcn'"),
        ({"num_classes": 0}, "num_classes from 1"),
        ({"dims": 3}, "dims=2"),
        ({"atrous_rates": ""}, "atrous_rates"),
        ({"backbone": "resnt18"}, "resnet18"),
        ({"ordr": "x"}, "nearest: 'order'"),
        ({"image_size": "32"}, "image_size"),
        ({"backbone": "book_resdeep"}, "aux=false"),
        ({"backbone": "book_net"}, "stages"),
    ],
)
def test_invalid_values(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("fcn_resnet50", **overrides)


def test_axes_of_the_backbone_and_text_values() -> None:
    arch = create_model(
        "fcn_resnet20_cifar", order="full-preact", in_chans="1", aux="true", output_stride="none", norm="group(4)"
    ).arch
    assert (arch.backbone.order, arch.in_channels, arch.aux, arch.output_stride) == ("full-preact", 1, True, None)
    assert arch.backbone_arch.norm == "group(4)"
    assert create_model("fcn_resnet20_cifar", **{"backbone.depths": "1,1,1"}).arch.backbone.depths == (1, 1, 1)


def test_the_names() -> None:
    assert set(TORCHVISION) < set(NAMES)
    assert list_models(kind="segmentation") == sorted(NAMES)
    assert "fcn_resnet50" in list_models("*resnet50")
    assert "fcn_resnet50" not in list_models(kind="classification")
    assert create_model("FCN-ResNet50").arch.name == "fcn_resnet50"
    with pytest.raises(ValueError, match="segmentation"):
        list_models(kind="segmentaton")


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name: str) -> None:
    arch = DENSE_ARCHS[name]
    assert arch_from_dict(json.loads(json.dumps(to_dict(arch))), "segmentation") == arch
    assert len(arch.reference) > 20


def test_a_registered_network() -> None:
    saved = dict(DENSE_ARCHS)
    try:
        arch = register_dense_arch("my-fcn", DENSE_ARCHS["fcn_resnet20_cifar"])
        assert create_model("my-fcn", num_classes=2).arch.name == arch.name == "my-fcn"
        with pytest.raises(ValueError, match="zoo"):
            register_dense_arch("resnet18", arch)
    finally:
        DENSE_ARCHS.clear()
        DENSE_ARCHS.update(saved)
        DENSE_ARCHS.plugin_of.pop("my-fcn", None)


@pytest.mark.parametrize("name", SMALL)
def test_a_file_alone_is_enough(name: str, tmp_path) -> None:
    network = create_model(name, num_classes=3, order="full-preact").eval()
    randomise(network)
    preprocess = Preprocess(3, "", (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    network.set_metadata(classes=["sky", "road", "car"], preprocess=preprocess)
    path = tmp_path / "model.safetensors"
    save_weights(path, network)
    assert read_header(path)["kind"] == "segmentation"
    loaded = load_model(path)
    x = images(2, 3, 32, 48, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    assert (loaded.arch, loaded.classes, loaded.preprocess) == (network.arch, network.classes, preprocess)
    assert not loaded.training
    with pytest.raises(ValueError, match="load_model"):
        load_network(path)
    again = create_model(name, order="full-preact", num_classes=3, pretrained=path)
    assert again.classes == network.classes
    assert again.load_report.is_complete


def test_a_norm_given_as_a_callable(tmp_path) -> None:
    network = create_model("fcn_resnet20_cifar", norm_layer=nn.InstanceNorm2d)
    assert isinstance(network.backbone.bn1, nn.InstanceNorm2d)
    path = tmp_path / "model.safetensors"
    save_weights(path, network)
    with pytest.raises(ValueError, match="norm_layer"):
        load_model(path)


def test_preprocess_keeps_the_size() -> None:
    network = create_model("fcn_resnet20_cifar")
    network.set_metadata(preprocess=Preprocess(3, "", (0.5,) * 3, (0.5,) * 3))
    assert network.preprocess(torch.zeros(3, 40, 50, dtype=torch.uint8)).shape == (1, 3, 40, 50)


def test_a_damaged_kind(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, create_model("fcn_resnet20_cifar"), {"kind": "segments"})
    with pytest.raises(ValueError, match="nearest: 'segmentation'"):
        load_model(path)
    save_weights(path, create_model("fcn_resnet20_cifar"), {"kind": None})
    with pytest.raises(ValueError, match="arch of a network"):
        load_model(path)


def test_weights_of_another_number_of_classes() -> None:
    trained = create_model("fcn_resnet20_cifar", aux=True)
    randomise(trained)
    state = trained.state_dict()
    network = create_model("fcn_resnet20_cifar", aux=True, num_classes=4, pretrained=state)
    assert network.load_report.reinitialized == tuple(
        f"{name}.4.{kind}" for name in ("classifier", "aux_classifier") for kind in ("weight", "bias")
    )
    assert torch.equal(network.classifier[0].weight, trained.classifier[0].weight)
    wrong = {**state, "classifier.4.weight": torch.zeros(4, 16, 1, 1)}
    with pytest.raises(CheckpointError, match=r"classifier\.4\.weight"):
        create_model("fcn_resnet20_cifar", aux=True, pretrained=wrong)
    with pytest.raises(CheckpointError, match=r"aux_classifier\.0\.weight"):
        create_model("fcn_resnet20_cifar", pretrained=state)
    del state["aux_classifier.0.weight"]
    with pytest.raises(CheckpointError, match=r"aux_classifier\.0\.weight"):
        create_model("fcn_resnet20_cifar", aux=True, pretrained=state)
    assert create_model("fcn_resnet20_cifar", aux=True, pretrained=state, strict=False).load_report.missing


def test_weights_of_the_backbone(tmp_path) -> None:
    classifier = create_model("resnet20_cifar", num_classes=10)
    randomise(classifier)
    path = tmp_path / "model.safetensors"
    save_weights(path, classifier)
    for source in (path, classifier.state_dict()):
        network = create_model("fcn_resnet20_cifar", backbone_weights=source)
        state = network.backbone.state_dict()
        assert all(torch.equal(state[key], classifier.state_dict()[key]) for key in state)
        assert network.load_report.messages[-1].endswith("fc.weight, fc.bias")
        assert create_model("fcn_resnet20_cifar", norm="frozen", backbone_weights=source).load_report.is_complete
    with pytest.raises(CheckpointError):
        create_model("fcn_resnet20_cifar", backbone_weights=create_model("resnet56_cifar").state_dict())
    with pytest.raises(ValueError, match="leave one out"):
        create_model("fcn_resnet20_cifar", backbone_weights=path, pretrained=path)
    with pytest.raises(ValueError, match="pretrained="):
        create_model("resnet20_cifar", backbone_weights=path)
    with pytest.raises(CheckpointError, match="backbone_weights"):
        create_model("fcn_resnet20_cifar", pretrained=path)


def test_blocks_are_switched_off_as_in_a_classification_network() -> None:
    network = create_model("fcn_resnet20_cifar", num_classes=3).eval()
    randomise(network)
    x = images(1, 3, 32, 32, dtype=torch.float32)
    names = [slot.name for slot in block_slots(network)]
    assert names == [f"backbone.layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    with torch.no_grad():
        before = network(x)
        with disabled_blocks(network, ["backbone.layer2.1"]):
            of_the_whole = network(x)
        with disabled_blocks(network.residual_network, ["layer2.1"]):
            of_the_backbone = network(x)
        block = network.backbone.layer2[1]
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        assert torch.equal(of_the_whole, network(x))
    assert torch.equal(of_the_whole, of_the_backbone)
    assert not torch.equal(before, of_the_whole)


@pytest.mark.parametrize("name", [pytest.param(SMALL[0], marks=pytest.mark.soak), *SMALL[1:]])
def test_torch_export_with_dynamic_sizes(name: str) -> None:
    network = create_model(name, num_classes=3, depths=(1, 1, 1)).eval()
    randomise(network)
    dims = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = images(2, 3, 32, 48, dtype=torch.float32)
    program = torch.export.export(network, (example,), dynamic_shapes=({**dims},), strict=False)
    fixed = torch.export.export(network, (example,), strict=False)
    with torch.no_grad():
        for shape in ((2, 3, 32, 48), (1, 3, 44, 36)):
            x = images(*shape, dtype=torch.float32)
            torch.testing.assert_close(program.module()(x), network(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fixed.module()(example), network(example), rtol=1e-5, atol=1e-5)


@pytest.mark.soak  # tests/deploy/export/test_export_tasks.py exports one of them to ONNX
@pytest.mark.parametrize("name", SMALL)
def test_onnx_with_dynamic_sizes(name: str, tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = create_model(name, num_classes=3, depths=(1, 1, 1)).eval()
    randomise(network)
    dynamic = torch.export.Dim.DYNAMIC
    path = tmp_path / "model.onnx"
    example = images(2, 3, 32, 48, dtype=torch.float32)
    torch.onnx.export(
        network, (example,), path, dynamo=True, dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},), verbose=False
    )
    session = runtime.InferenceSession(path)
    with torch.no_grad():
        for shape in ((2, 3, 32, 48), (1, 3, 44, 36)):
            x = images(*shape, dtype=torch.float32)
            result = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
            torch.testing.assert_close(torch.from_numpy(result), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing() -> None:
    network = create_model("fcn_resnet20_cifar", num_classes=3).eval()
    randomise(network)
    x = images(1, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(network, x)(x), network(x))


def test_torchvisions_segmentation_models_take_our_backbones() -> None:
    ours = create_model("resnet50", depths=(1, 1, 1, 1), replace_stride_with_dilation=(False, True, True))
    getter = IntermediateLayerGetter(ours, {"layer3": "aux", "layer4": "out"})
    heads = reference.deeplabv3.DeepLabHead(2048, 5), reference.fcn.FCNHead(1024, 5)
    built = reference.DeepLabV3(getter, *heads).double().eval()
    randomise(built)
    theirs = build_reference("deeplabv3_resnet50", [1, 1, 1, 1], 5, True)
    theirs.double().eval().load_state_dict(built.state_dict(), strict=True)
    x = images(1, 3, 32, 40)
    with torch.no_grad():
        result, expected = built(x), theirs(x)
    assert all(torch.equal(result[key], expected[key]) for key in ("out", "aux"))


def test_features_only_is_for_classification_networks() -> None:
    with pytest.raises(ValueError, match="resnet50"):
        create_model("fcn_resnet50", features_only=True)
