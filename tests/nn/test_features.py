"""Feature maps by name: against torchvision's extractor, in list form, by block, with channels and strides."""

import pytest
import torch
import torchvision
from agreement import images
from torchvision.models.feature_extraction import create_feature_extractor

from reslab.nn.factory import create_model
from reslab.nn.timm_methods import list_features
from reslab.spec.zoo import ARCHS


def test_features_are_what_torchvisions_extractor_hands_out():
    theirs = torchvision.models.resnet50().eval()
    ours = create_model("resnet50").eval()
    ours.load_state_dict(theirs.state_dict())
    nodes = {"relu": "stem", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}
    x = images(2, 3, 64, 96, dtype=torch.float32)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, return_nodes=nodes)(x)
        features = ours.features(x)
        assert list(features) == list(nodes.values())
        for name, value in expected.items():
            assert torch.equal(features[name], value)
        assert torch.equal(ours.forward_tail(features["layer4"]), ours(x))


def test_torchvisions_extractor_takes_our_networks():
    model = create_model("resnet20_cifar").eval()
    x = images(1, 3, 32, 32, dtype=torch.float32)
    extracted = create_feature_extractor(model, return_nodes={"layer2": "two", "layer3.0": "block"})(x)
    assert torch.equal(extracted["two"], model.features(x)["layer2"])
    assert torch.equal(extracted["block"], model.features(x, "blocks")["layer3.0"])


def test_features_of_blocks():
    model = create_model("preresnet164_cifar", depths=(2, 3, 1)).eval()
    x = images(1, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        features = model.features(x, "blocks")
        assert list(features) == ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2", "layer3.0"]
        y = features["stem"]
        for name, block in model.blocks():
            y = block(y)
            assert torch.equal(features[name], y)
        assert torch.equal(model.features(x)["layer2"], features["layer2.2"])


VARIED = """
    resnet18 resnet50_v1 resnet26d resnetv2_50 plain34 seresnet50 resnet20_cifar preresnet110_1layer_cifar
    wrn16_8_cifar pyramidnet110_cifar resnext29_8x64d_cifar resnet18_d2l fixup110_cifar book_res book_resdeep book_net
"""


@pytest.mark.parametrize("name", VARIED.split())
def test_names_channels_and_strides_are_those_of_the_maps(name):
    arch = ARCHS[name]
    with torch.device("meta"):
        model = create_model(name)
        for level in ("stages", "blocks"):
            maps = model.eval().features(torch.empty(1, *arch.input_size), level)
            listed = list_features(model.arch, level)
            assert [feature.name for feature in listed] == list(maps)
            for feature, tensor in zip(listed, maps.values(), strict=True):
                assert feature.channels == tensor.shape[1]
                assert tuple(side // feature.stride for side in arch.image_size) == tensor.shape[-2:]


def test_dilation_keeps_the_stride_of_features():
    model = create_model("resnet50", features_only=True, replace_stride_with_dilation=(False, True, True))
    assert model.feature_info.reduction() == [2, 4, 8, 8, 8]


def test_each_run_of_a_shared_block_is_a_feature():
    model = create_model("book_resdeep", depths=(4,)).eval()
    x = images(1, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        features = model.features(x, "blocks")
        assert list(features) == ["stem", *(f"layer1.{i}" for i in range(4))]
        assert torch.equal(features["layer1.3"], model.features(x)["layer1"])


def test_out_indices():
    x = images(2, 3, 64, 64, dtype=torch.float32)
    torch.manual_seed(0)
    all_of_them = create_model("resnet18", features_only=True).eval()
    assert [tuple(y.shape[1:]) for y in all_of_them(x)] == [
        *((64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2))
    ]
    torch.manual_seed(0)
    two = create_model("resnet18", features_only=True, out_indices=(3, 1)).eval()
    assert two.feature_info.module_name() == ["layer3", "layer1"]
    with torch.no_grad():
        expected = all_of_them(x)
        assert torch.equal(two(x)[0], expected[3])
        assert torch.equal(two(x)[1], expected[1])
    assert not [key for key in two.state_dict() if "layer4" in key or "fc" in key]


@pytest.mark.parametrize("wrong", [(5,), (-1,), (), (0, 9)])
def test_out_indices_that_are_not_there(wrong):
    with pytest.raises(ValueError, match="out_indices between 0 and 4"):
        create_model("resnet18", features_only=True, out_indices=wrong)


def test_out_indices_without_features_only():
    with pytest.raises(ValueError, match="features_only=True"):
        create_model("resnet18", out_indices=(1, 2))


def test_an_unknown_level():
    model = create_model("resnet20_cifar")
    with pytest.raises(ValueError, match="blocks"):
        model.features(torch.zeros(1, 3, 32, 32), "block")
    with pytest.raises(ValueError, match="blocks"):
        list_features(model.arch, "block")


@pytest.mark.parametrize(
    ("shape", "listed"),
    [((1, 1, 64, 64), "in_channels=1"), ((3, 64, 64), "N 3 H W"), ((1, 3, 31, 64), "32x32"), ((1, 3, 64, 8), "32x32")],
)
def test_invalid_inputs_are_an_error(shape, listed):
    model = create_model("resnet18")
    for call in (model, model.features):
        with pytest.raises(ValueError, match=listed):
            call(torch.zeros(shape))


def test_the_smallest_input_is_the_total_stride():
    for name in ("resnet18", "resnet20_cifar", "resnetv2_50"):
        model = create_model(name, depths=(1,) * len(ARCHS[name].depths)).eval()
        least = {"resnet20_cifar": 4}.get(name, 32)
        with torch.no_grad():
            assert model(torch.zeros(1, 3, least, least)).isfinite().all()
        with pytest.raises(ValueError, match=f"{least}x{least}"):
            model(torch.zeros(1, 3, least - 1, least))


def test_shallow_features_take_small_inputs():
    shallow = create_model("resnet18", features_only=True, out_indices=(0, 1))
    assert [tuple(result.shape[1:]) for result in shallow(torch.randn(1, 3, 8, 8))] == [(64, 4, 4), (64, 2, 2)]
    with pytest.raises(ValueError, match="at least 4x4"):
        shallow(torch.randn(1, 3, 3, 3))
