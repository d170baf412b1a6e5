"""timm's methods and options on our networks, compared with timm's own networks of the same weights."""

import copy

import pytest
import timm
import torch
from agreement import images

from reslab.nn.factory import create_model
from reslab.spec.library_options import with_drop_path
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.resolve import get_arch

# timm's and some other modules do not tell whether blocks have pools.
pytestmark = pytest.mark.filterwarnings("ignore:nothing in the state dict distinguishes")
NAMES = ("resnet18", "resnetv2_18d", "regnetx_002", "convnext_atto")


def pair(name, **axes):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7, **axes).eval()
    ours = create_model(name, num_classes=7, pretrained=theirs.state_dict(), **axes).eval()
    return ours, theirs


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


X = images(2, 3, 64, 64, dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_gives_timms_outputs(name):
    ours, theirs = pair(name)
    for num_classes, pool in ((0, None), (4, None), (3, "max"), (0, ""), (5, "avg")):
        if name == "convnext_atto" and pool == "":
            break
        ours.reset_classifier(num_classes, pool)
        theirs.reset_classifier(num_classes, pool)
        if num_classes:
            ours.get_classifier().weight.copy_(theirs.get_classifier().weight.reshape(num_classes, -1))
            ours.get_classifier().bias.copy_(theirs.get_classifier().bias)
        same(ours(X).reshape(theirs(X).shape), theirs(X))
        assert (ours.num_classes, ours.num_features) == (theirs.num_classes, theirs.num_features)
        rebuilt = create_model(ours.arch).eval()
        rebuilt.load_state_dict(ours.state_dict())
        assert torch.equal(rebuilt(X), ours(X))


def test_reset_classifier_keeps_weights_type_and_mode_and_drops_what_belonged_to_the_classes():
    network = create_model("convnext_atto", num_classes=3).double()
    network.set_metadata(classes=("a", "b", "c"), temperature=2.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.reset_classifier(3)
    after = network.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight"}
    assert after["fc.weight"].dtype is torch.float64
    assert network.training
    assert (network.classes, network.temperature) == (None, None)


def test_the_hidden_layer_of_a_head_stays():
    network = create_model("resnet20_cifar", head="avgpool flatten fc(32) act fc")
    hidden = network.fc[0].weight.clone()
    network.reset_classifier(4)
    assert torch.equal(network.fc[0].weight, hidden)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    with pytest.raises(ValueError, match="one linear layer for num_classes=0"):
        network.reset_classifier(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1,), "num_classes from 0"), ((3, "mean"), "global_pool"), ((3, ""), "num_classes=0 with global_pool=''")],
)
def test_heads_that_cannot_be(arguments, message):
    network = create_model("resnet20_cifar")
    with pytest.raises(ValueError, match=message):
        network.reset_classifier(*arguments)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"num_classes": 0}, (2, 512)),
        ({"num_classes": 0, "global_pool": ""}, (2, 512, 2, 2)),
        ({"num_classes": 7, "global_pool": "max"}, (2, 7)),
        ({"output_stride": 8}, (2, 1000)),
        ({"output_stride": 16, "num_classes": 0, "global_pool": ""}, (2, 512, 4, 4)),
    ],
    ids=str,
)
def test_options_of_create_model_are_timms(options, shape):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", **options).eval()
    ours = create_model("resnet18", **options).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours(X).shape == shape
    # In the first dilated basic block the dilations of timm and torchvision differ; ours are torchvision's.
    if "output_stride" not in options:
        same(ours(X), theirs(X))


def test_features_from_published_weights_need_no_head():
    source = create_model("resnet18", num_classes=5)
    network = create_model("resnet18", num_classes=0, pretrained=source.state_dict())
    assert torch.equal(network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert network.load_report.is_complete
    assert network(X).shape == (2, 512)
    maps = create_model("resnet18", num_classes=0, global_pool="", pretrained=source.state_dict())
    assert maps(X).shape == (2, 512, 2, 2)
    pooled = create_model("resnet18", num_classes=5, global_pool="max", pretrained=source.state_dict())
    assert torch.equal(pooled.fc.weight, source.fc.weight)


@pytest.mark.parametrize("name", ["resnet50", "regnetx_002", "convnext_atto", "nf_resnet50", "resnetv2_50"])
def test_drop_path_rates_are_timms_per_block(name):
    def rates(model):
        result = [(n, m) for n, m in model.named_modules() if type(m).__name__ == "DropPath"]
        return [getattr(m, "drop_prob", getattr(m, "rate", None)) for _, m in result if getattr(m, "rate", 1)]

    with torch.device("meta"):
        ours, theirs = (library(name, drop_path_rate=0.1) for library in (create_model, timm.create_model))
    assert rates(ours) == pytest.approx(rates(theirs), abs=1e-7)


def test_drop_path_replaces_that_of_the_network():
    arch = with_drop_path(get_arch("resnet18"), 0.2)
    assert with_drop_path(arch, 0.3).merge == "drop-path(0.3) add"
    assert with_drop_path(arch, 0).merge == "add"
    assert with_drop_path(get_arch("rezero56_cifar"), 0.1).merge == "drop-path(0.1) rezero add"


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_feature_info_and_intermediates_are_timms(name):
    ours, theirs = pair(name)
    if name != "convnext_atto":  # which lists its four stages alone
        theirs_info = theirs.feature_info
        ours_info = [{key: info[key] for key in ("num_chs", "reduction")} for info in ours.feature_info]
        assert ours_info == [{key: info[key] for key in ("num_chs", "reduction")} for info in theirs_info]
    last = 3 if name == "convnext_atto" else 4
    end, maps = ours.forward_intermediates(X, indices=2)
    their_end, their_maps = theirs.forward_intermediates(X, indices=2)
    assert len(maps) == len(their_maps) == 2
    for our_map, their_map in zip(maps, their_maps, strict=True):
        same(our_map, their_map)
    same(end, their_end)
    (early,) = ours.forward_intermediates(X, indices=[1], stop_early=True, intermediates_only=True)
    (their_early,) = theirs.forward_intermediates(X, indices=[last - 3], stop_early=True, intermediates_only=True)
    same(early, their_early)
    for module, feature in zip(ours.feature_info.module_name(), ours.features(X).values(), strict=True):
        outputs = []
        handle = ours.get_submodule(module).register_forward_hook(
            lambda m, i, output, into=outputs: into.append(output)
        )
        ours(X)
        handle.remove()
        assert torch.equal(outputs[0], feature)


@pytest.mark.parametrize("indices", [0, 6, [5], [-6], []])
def test_intermediates_that_are_not_there(indices):
    with pytest.raises(ValueError, match="indices from 0 to 4"):
        create_model("resnet18").forward_intermediates(X, indices=indices)


def test_the_configuration_is_what_timm_records():
    ours, theirs = pair("resnet18")
    ours.preprocess = Preprocess(
        3, "resize(235,bicubic) center-crop(224)", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    cfg = ours.pretrained_cfg
    for key in ("input_size", "first_conv", "classifier", "mean", "std", "interpolation", "crop_mode"):
        assert cfg[key] == theirs.pretrained_cfg[key], key
    assert cfg["num_classes"] == 7
    assert cfg == ours.default_cfg
    data = timm.data.resolve_model_data_config(ours)
    assert str(timm.data.create_transform(**data)) == str(
        timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    )
    assert create_model("resnet50d", depths=(1, 1, 1, 1)).pretrained_cfg["first_conv"] == "conv1.0"
    ours.reset_classifier(0)
    assert (ours.pretrained_cfg["num_classes"], ours.pretrained_cfg["classifier"]) == (0, None)


def test_grad_checkpointing_changes_no_gradient_or_statistic_and_survives_a_copy():
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", depths=(2, 1, 1))
    recomputed = copy.deepcopy(network)
    recomputed.set_grad_checkpointing()
    recomputed = copy.deepcopy(recomputed)
    calls = []
    recomputed.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, 3, 16, 16)
    for model in (network, recomputed):
        model(x).square().sum().backward()
    assert len(calls) == 2
    for ours, theirs in zip(recomputed.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert all(map(torch.equal, recomputed.state_dict().values(), network.state_dict().values()))
    recomputed.set_grad_checkpointing(False)
    recomputed(x).sum().backward()
    assert len(calls) == 3
