"""Names of other libraries: each resolves to the right network, or the error names it."""

import pytest
import torchvision

from reslab.nn.factory import create_model, named_weights
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import TORCHVISION_NAMES, ModelName, arch_of_file_name, get_arch, parse_model_name

NAMES = {
    "resnet50": ("resnet50", ""),
    "ResNet50": ("resnet50", ""),
    "ResNet-50": ("resnet50", ""),
    "resnet50.a1_in1k": ("resnet50", "a1_in1k"),
    "timm/resnet50.a1_in1k": ("resnet50", "a1_in1k"),
    "hf-hub:timm/resnet50.a1_in1k": ("resnet50", "a1_in1k"),
    "hf_hub:timm/convnext_tiny.fb_in22k": ("convnext_tiny", "fb_in22k"),
    "ResNet50_Weights.IMAGENET1K_V2": ("resnet50", "IMAGENET1K_V2"),
    "microsoft/resnet-50": ("resnet50", "hf-hub:microsoft/resnet-50"),
    "resnet50_8xb32_in1k": ("resnet50", "8xb32_in1k"),
    "resnetv1d101_8xb32_in1k": ("resnet101d", "8xb32_in1k"),
    "resnext50-32x4d_8xb32_in1k": ("resnext50_32x4d", "8xb32_in1k"),
    "regnetx-400mf_8xb128_in1k": ("regnetx_004", "8xb128_in1k"),
    "regnetx-3.2gf_8xb64_in1k": ("regnetx_032", "8xb64_in1k"),
    "convnext-tiny_32xb128_in1k": ("convnext_tiny", "32xb128_in1k"),
    "resnet18_8xb16_cifar10": ("resnet18_cifar", "8xb16_cifar10"),
    "wide_resnet50_2": ("wide_resnet50_2", ""),
    "wrn_50_2": ("wide_resnet50_2", ""),
    "WRN-28-10": ("wrn28_10_cifar", ""),
    "regnet_y_400mf": ("regnety_004", ""),
    "regnet_x_1_6gf": ("regnetx_016", ""),
    "regnet_x_16gf": ("regnetx_160", ""),
    "RegNet_Y_400MF_Weights.IMAGENET1K_V1": ("regnety_004", "IMAGENET1K_V1"),
    "gluon_resnet50_v1d": ("resnet50d", "gluon_in1k"),
    "tv_resnet50": ("resnet50", "tv_in1k"),
    "resnetv2_50x1_bitm": ("resnetv2_50x1_bit", "goog_in21k_ft_in1k"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_libraries_resolve(name):
    assert parse_model_name(name) == ModelName(*NAMES[name])
    assert get_arch(name) is ARCHS[NAMES[name][0]]


def test_a_name_includes_its_weights_unless_others_are_given():
    assert named_weights("resnet50.a1_in1k", True) == "a1_in1k"
    assert named_weights("resnet50.a1_in1k", "IMAGENET1K_V2") == "IMAGENET1K_V2"
    assert named_weights("resnet50.a1_in1k", False) is False
    assert named_weights("resnet50", True) is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20", "nearest: 'resnet20_cifar'; resnet20_cifar is the network of this depth for images of 32 pixels"),
        ("resnet-56", "nearest: 'resnet56_cifar'"),
        ("resnet50_8xb16_cifar10", r"resnet50 with stem='conv3\(64\) norm act', image_size=\(32, 32\)"),
        ("resnt50", "nearest: 'resnet50'"),
        ("convnxt_tiny", "nearest: 'convnext_tiny'"),
    ],
)
def test_an_unknown_name_comes_with_the_right_one(name, message):
    with pytest.raises(ValueError, match=message):
        create_model(name)


def test_torchvisions_regnets_are_ours(monkeypatch):
    """Each of torchvision's has the depths, widths and group widths of the network that its name resolves to."""
    from torchvision.models.regnet import BlockParams

    class FoundParams(Exception):
        """Carries the sizes out of torchvision's builder before it makes the modules."""

    build = BlockParams.from_init_params

    def find(**kwargs):
        raise FoundParams(build(**kwargs))

    monkeypatch.setattr(BlockParams, "from_init_params", staticmethod(find))
    names = [name for name in torchvision.models.list_models() if name.startswith("regnet")]
    assert sorted(TORCHVISION_NAMES.values()) == names
    for name in names:
        with pytest.raises(FoundParams) as result:
            torchvision.models.get_model(name)
        params, arch = result.value.args[0], get_arch(name)
        group_widths = arch.group_width if isinstance(arch.group_width, tuple) else (arch.group_width,) * 4
        assert (arch.depths, arch.widths) == (tuple(params.depths), tuple(params.widths))
        assert group_widths == tuple(params.group_widths)
        assert ("se(" in arch.order) == ("_y_" in name)


@pytest.mark.parametrize(
    ("stem", "arch"),
    [
        ("resnet50-0676ba61", "resnet50"),
        ("resnet50_a1_0-14fe96d1", "resnet50"),
        ("wide_resnet50_2-95faca4d", "wide_resnet50_2"),
        ("regnet_y_400mf-c65dace8", "regnety_004"),
        ("gluon_resnet50_v1b-0ebe02e2", "resnet50"),
        ("resnet50_8xb32_in1k_20210831-ea4938fc", "resnet50"),
        ("resnetblur50-84f4748f", "resnetblur50"),
        ("best", None),
        ("my_resnet50", None),
        ("checkpoint-1234", None),
    ],
)
def test_files_are_named_after_their_network(stem, arch):
    assert arch_of_file_name(stem) == arch
