"""Weights that fit several networks: every group of the zoo, the warning, and what makes it unnecessary."""

import json
import warnings
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
import torchvision
from agreement import images, randomise

from reslab.nn.checkpoints.alternatives import networks_with_tensors, networks_with_tensors_of
from reslab.nn.checkpoints.diagnose import differing_axes, find_alternatives
from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES
from reslab.nn.checkpoints.load_report import CheckpointError, CheckpointWarning
from reslab.nn.checkpoints.published import find_published_weights
from reslab.nn.factory import create_model
from reslab.nn.init import SkipInit
from reslab.nn.network import ResidualNetwork
from reslab.spec.zoo import ARCHS

TORCHVISION = next(scheme for scheme in KEY_SCHEMES if scheme.name == "torchvision")
GROUPS = """
    resnet18 resnetblur18
    resnet50 resnet50_v1 resnet50_keras resnet50_caffe resnetblur50 resnetaa50
    resnet101 resnet101_v1 resnet101_keras resnet101_caffe
    resnet152 resnet152_v1 resnet152_keras resnet152_caffe
    resnet18_a plain18
    resnet34_a plain34
    resnet34d resnetaa34d
    resnet50d resnetblur50d resnetaa50d
    resnet101d resnetblur101d resnetaa101d
    seresnet50 legacy_seresnet50
    seresnet101 legacy_seresnet101
    seresnet152 legacy_seresnet152
    seresnext50_32x4d legacy_seresnext50_32x4d
    seresnext101_32x4d legacy_seresnext101_32x4d
    seresnext101d_32x8d seresnextaa101d_32x8d
    senet154 legacy_senet154
    convnext_tiny convnext_tiny_hnf
    resnet20_cifar plain20_cifar
    resnet32_cifar plain32_cifar
    resnet44_cifar plain44_cifar
    resnet56_cifar plain56_cifar
    resnet110_cifar plain110_cifar resnet110_sd_cifar
"""
MEMBERS = [line.split() for line in GROUPS.strip().splitlines()]


def shapes(arch):
    with torch.device("meta"), SkipInit():
        state = ResidualNetwork(arch).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("members", MEMBERS, ids=lambda members: members[0])
def test_every_member_of_a_group_names_the_others(members):
    for name in members:
        assert set(find_alternatives(ARCHS[name], TORCHVISION, ResidualNetwork)) == set(members) - {name}
        assert {arch.name for arch in networks_with_tensors_of(ARCHS[name], ResidualNetwork)} == set(members) - {name}


@pytest.mark.soak
def test_the_groups_are_those_of_networks_built_in_full():
    groups = defaultdict(list)
    for name, arch in ARCHS.items():
        if arch.num_blocks <= 200:
            sizes = {"num_classes": 1000, "in_channels": 3}
            groups[frozenset(shapes(replace(arch, **sizes)).items())].append(name)
    result = {tuple(names) for names in groups.values() if len(names) > 1}
    assert result - {tuple(members) for members in MEMBERS} <= {
        ("book_depth", "book_res"),
        ("book_width", "book_dropout"),
    }
    assert {tuple(members) for members in MEMBERS} <= result


@pytest.mark.parametrize("name", ["resnet50", "seresnet50", "resnet20_cifar", "convnext_tiny", "resnetv2_50"])
def test_a_file_names_the_networks_it_fits_exactly(name):
    arch = ARCHS[name]
    expected = {other.name for other in networks_with_tensors_of(arch, ResidualNetwork)} | {name}
    sizes = {"num_classes": arch.num_classes, "in_channels": arch.in_channels}
    assert set(networks_with_tensors(shapes(arch), sizes, ResidualNetwork)) == expected


SMALL = {"depths": (1, 1, 1, 1), "num_classes": 3}


@pytest.mark.parametrize(
    ("name", "other"),
    [("resnet50", "resnet50_v1"), ("resnet50", "resnetblur50"), ("resnet18_a", "plain18")],
)
def test_the_axes_that_differ_change_the_outputs(name, other):
    axes = differing_axes(ARCHS[name], ARCHS[other])
    first = create_model(name, **SMALL).double().eval()
    randomise(first)
    second, third = create_model(other, **SMALL).double().eval(), create_model(name, **SMALL, **axes).double().eval()
    for network in (second, third):
        network.load_state_dict(first.state_dict())
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        assert (first(x) - second(x)).abs().max() > 1e-6
        assert torch.equal(second(x), third(x))


@pytest.fixture
def weights(tmp_path):
    torch.save(create_model("resnet50", **SMALL).state_dict(), tmp_path / "best.pth")
    return tmp_path / "best.pth"


def test_a_file_that_fits_several_networks_warns_and_names_them(weights):
    with pytest.warns(CheckpointWarning, match="nothing in best.pth distinguishes resnet50 from") as seen:
        ours = create_model("resnet50", pretrained=weights, **SMALL)
    text = str(seen[0].message)
    for part in (
        "resnet50_v1, ",
        "resnetblur50, resnetaa50",
        "stride_conv=1",
        "--model resnet50_v1",
        "--set model.order=",
    ):
        assert part in text
    assert ours.load_report.is_complete
    assert ours.load_report.warnings == (text,)


def test_a_state_dict_in_memory_that_fits_several_networks_warns_as_a_file_does():
    state = create_model("resnet50", **SMALL).state_dict()
    with pytest.warns(CheckpointWarning, match="nothing in the state dict distinguishes resnet50 from") as seen:
        ours = create_model("resnet50", pretrained=state, **SMALL)
    text = str(seen[0].message)
    assert "from resnet50_v1, resnet50_keras, resnet50_caffe: " in text
    assert "create_model('resnet50_v1')" in text
    assert ours.load_report.warnings == (text,)
    with pytest.warns(CheckpointWarning, match="resnetblur50"):  # tensors alone do not tell whether blocks have pools
        create_model("resnet50", pretrained=dict(state), **SMALL)
    axes = {"stride_conv": 0, "norm_eps": 1e-5, "stem": ARCHS["resnet50"].stem}
    assert silent("resnet50", state, **axes).load_report.is_complete
    assert silent("resnet50", dict(state), order="original", **axes).load_report.is_complete


def test_the_modules_of_a_state_dict_distinguish_networks():
    """torch's state dicts name modules without weights, too."""
    small = {"num_classes": 3}
    for theirs in (torchvision.models.resnet18(**small), create_model("resnet18", **small)):
        assert create_model("resnet18", pretrained=theirs.state_dict(), **small).load_report.warnings == ()
    theirs = torchvision.models.resnet18(**small)
    with pytest.warns(CheckpointWarning, match="nothing in the state dict distinguishes resnetblur18 from resnet18"):
        create_model("resnetblur18", pretrained=theirs.state_dict(), **small)
    blurred = create_model("resnetblur18", **small).state_dict()
    assert list(blurred) == list(theirs.state_dict())
    with pytest.warns(CheckpointWarning, match="nothing in the state dict distinguishes resnet18 from resnetblur18"):
        create_model("resnet18", pretrained=blurred, **small)


def silent(name, weights, **axes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return create_model(name, pretrained=weights, **SMALL, **axes)


@pytest.mark.parametrize("stem", ["resnet50-0676ba61", "resnet50_a1_0-14fe96d1", "resnet50.a1_in1k", "resnet50"])
def test_torchvisions_and_timms_names_of_a_file_imply_its_network(weights, stem):
    path = weights.rename(weights.with_name(f"{stem}.pth"))
    assert silent("resnet50", path).load_report.is_complete
    with pytest.warns(CheckpointWarning, match=r"weights of resnet50, which implies .*order='original'"):
        create_model("resnetblur50", pretrained=path, **SMALL)


def test_the_axes_that_distinguish_the_networks_can_be_chosen(weights):
    axes = {"order": "original", "stem": ARCHS["resnet50"].stem, "stride_conv": 0, "norm_eps": 1e-5}
    assert silent("resnet50", weights, **axes).load_report.is_complete
    with pytest.warns(CheckpointWarning, match="from resnet50_v1, resnet50_keras:"):
        create_model("resnet50", pretrained=weights, order="original", stem=axes["stem"], **SMALL)


def test_a_config_next_to_the_weights_names_the_network(weights):
    folder = weights.parent / "repo"
    folder.mkdir()
    path = weights.rename(folder / "pytorch_model.bin")
    facts = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = {"architecture": "resnet50", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": facts}
    (folder / "config.json").write_text(json.dumps(config))
    assert silent("resnet50", path).classes == ("a", "b", "c")
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "resnetblur50.bt_in1k"}))
    with pytest.warns(CheckpointWarning, match="has weights of resnetblur50, which implies"):
        create_model("resnet50", pretrained=path, **SMALL)
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "vit_base_patch16_224"}))
    with pytest.raises(CheckpointError, match="of vit_base_patch16_224"):
        create_model("resnet50", pretrained=path, **SMALL)


def test_a_config_of_transformers_gives_the_conv_with_the_stride(weights):
    folder = weights.parent / "repo"
    folder.mkdir()
    path = weights.rename(folder / "pytorch_model.bin")
    config = {"model_type": "resnet", "layer_type": "bottleneck", "depths": [3, 4, 6, 3], "id2label": {"0": "a"}}
    (folder / "config.json").write_text(json.dumps(config | {"downsample_in_bottleneck": False}))
    assert silent("resnet50", path).load_report.is_complete
    (folder / "config.json").write_text(json.dumps(config | {"downsample_in_bottleneck": True}))
    with pytest.warns(CheckpointWarning, match="has weights of resnet50_v1, which implies stride_conv=1"):
        create_model("resnet50", pretrained=path, **SMALL)


def test_keys_that_only_one_network_has_are_warned_of_in_another(tmp_path):
    import timm

    torch.save(timm.create_model("legacy_seresnet18", num_classes=3).state_dict(), tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("legacy_seresnet18", pretrained=tmp_path / "w.pth", num_classes=3)
    scheme = next(scheme for scheme in KEY_SCHEMES if scheme.name == "timm legacy senet")
    assert set(find_alternatives(ARCHS["seresnet50"], scheme, ResidualNetwork)) == {"legacy_seresnet50"}
    assert find_alternatives(ARCHS["legacy_seresnet50"], scheme, ResidualNetwork) == {}


def test_networks_that_the_key_scheme_rules_out_are_no_alternatives():
    kuangliu = next(scheme for scheme in KEY_SCHEMES if scheme.name == "kuangliu")
    assert find_alternatives(ARCHS["resnet50"], kuangliu, ResidualNetwork) == {}


def test_torchvisions_enums_of_regnets_and_convnexts_are_resolved():
    from torchvision.models import ConvNeXt_Tiny_Weights, RegNet_Y_400MF_Weights, RegNet_Y_800MF_Weights

    result = find_published_weights("regnety_004", RegNet_Y_400MF_Weights.IMAGENET1K_V2)
    assert (result.arch, result.url) == ("regnety_004", RegNet_Y_400MF_Weights.IMAGENET1K_V2.url)
    assert find_published_weights("convnext_tiny").url == ConvNeXt_Tiny_Weights.DEFAULT.url
    with pytest.raises(ValueError, match="weights of regnety_004: RegNet_Y_400MF_Weights"):
        find_published_weights("regnety_004", RegNet_Y_800MF_Weights.DEFAULT)
    with pytest.raises(ValueError, match="mmpretrain publishes these weights"):
        find_published_weights("resnet50", "8xb32_in1k")
