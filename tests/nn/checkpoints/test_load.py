"""Loading: every entry accounted for, nothing changed on refusal, heads and first convolutions adapted, unknown names
by order.
"""

import logging

import pytest
import torch
from agreement import randomise
from safetensors.torch import save_file
from torch import nn

from reslab.nn.checkpoints.diagnose import suggest_overrides
from reslab.nn.checkpoints.load import adapt_channels, adapt_preprocess, load_checkpoint
from reslab.nn.checkpoints.load_report import CheckpointError, CheckpointWarning
from reslab.nn.checkpoints.match_keys import count_assignments, earliest_assignment
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS

SMALL = {"depths": (1, 1, 1), "widths": (8, 16, 32), "stem": "conv3(8) norm act"}
COUNTER = "num_batches_tracked"


def small(**axes):
    model = create_model("resnet20_cifar", **SMALL | axes)
    randomise(model)
    return model


def state(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def load(given, **axes):
    # Without the merge, the tensors could be those of plain20_cifar.
    return create_model("resnet20_cifar", pretrained=given, **SMALL | {"merge": "add"} | axes)


def same_but(ours, theirs, *left_out):
    """Return True if all entries are equal but those named, which differ or are not there."""
    other = {key for key, tensor in ours.items() if key not in theirs or not torch.equal(tensor, theirs[key])}
    assert other == set(left_out)


def test_a_whole_checkpoint_matches_every_key_and_warns_of_nothing(caplog):
    theirs = state(small())
    ours = load(theirs)
    same_but(state(ours), theirs)
    assert ours.load_report.is_complete
    assert dict(ours.load_report.matched) == {key: key for key in theirs}
    counted = f"{len(theirs)} of {len(theirs)} entries of the state dict matched"
    assert ours.load_report.summary == f"resnet20_cifar: {counted} (by name, key scheme torchvision)"
    assert not caplog.records


def test_a_half_checkpoint_is_refused_key_by_key_and_changes_nothing():
    theirs = state(small())
    theirs["extra.weight"] = theirs.pop("layer2.0.conv1.weight")
    theirs["layer1.0.bn1.weight"] = torch.ones(9)
    ours = small(order="original")
    before = state(ours)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(ours, unwrap_checkpoint("half.pth", theirs))
    same_but(state(ours), before)
    assert ours.load_report is None
    report = error.value.report
    assert report.missing == ("layer2.0.conv1.weight",)
    assert report.unexpected == ("extra.weight",)
    assert report.shape_mismatch == (("layer1.0.bn1.weight", (9,), (8,)),)
    for part in ("missing in the file (1)", "unexpected in the file (1)", "(file [9], network [8])", "strict=False"):
        assert part in str(error.value)


def test_strict_false_loads_a_part_and_warns():
    theirs = state(small())
    del theirs["layer2.0.conv1.weight"]
    theirs["layer1.0.bn1.weight"] = torch.ones(9)
    with pytest.warns(CheckpointWarning, match=r"partially loaded \(strict=False\)"):
        ours = load(theirs, strict=False)
    same_but(state(ours), theirs, "layer2.0.conv1.weight", "layer1.0.bn1.weight")
    assert not ours.load_report.is_complete


def test_a_checkpoint_with_nothing_in_common_is_refused_even_half_loaded():
    with pytest.raises(CheckpointError):
        load({"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}, strict=False)


def test_counters_may_be_missing_or_too_many():
    theirs = state(small())
    ours = load({key: tensor for key, tensor in theirs.items() if not key.endswith(COUNTER)})
    assert ours.load_report.is_complete
    assert load(theirs, norm="frozen").load_report.is_complete


def test_weights_of_half_precision_become_the_networks_own():
    theirs = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state(small()).items()}
    ours = load(theirs)
    assert ours.fc.weight.dtype == torch.float32
    assert torch.equal(ours.fc.weight, theirs["fc.weight"].float())


def test_a_network_on_the_meta_device_takes_the_tensors_themselves():
    theirs = state(small())
    with torch.device("meta"):
        ours = load(theirs)
    assert not any(tensor.is_meta for tensor in ours.state_dict().values())
    same_but(state(ours), theirs)


def test_a_new_number_of_classes_leaves_the_head_at_random_values_with_a_message(caplog):
    theirs = state(small(num_classes=100))
    ours = load(theirs, num_classes=7)
    same_but(state(ours), theirs, "fc.weight", "fc.bias")
    assert ours.load_report.reinitialized == ("fc.weight", "fc.bias")
    assert ours(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "fc.weight, fc.bias keep their random initial values: the network has 7 classes" in record.getMessage()


def test_implicit_classes_of_another_number_are_an_error_with_both_remedies():
    with pytest.raises(
        CheckpointError,
        match=r"num_classes=100 \(--set model.num_classes=100\) keeps the file's head, num_classes=10 given",
    ):
        load(state(small(num_classes=100)))
    ours = load(state(small(num_classes=100)), num_classes=10)
    assert ours.load_report.reinitialized == ("fc.weight", "fc.bias")


def test_as_many_classes_as_the_file_has_keep_its_head():
    theirs = state(small(num_classes=100))
    assert load(theirs, num_classes=100).load_report.reinitialized == ()


def test_a_file_without_a_head_fits_where_classes_are_new_or_no_head_is_needed():
    theirs = {key: tensor for key, tensor in state(small()).items() if not key.startswith("fc.")}
    assert load(theirs, num_classes=10).load_report.reinitialized == ("fc.weight", "fc.bias")
    with pytest.raises(CheckpointError, match=r"missing in the file \(2\): fc.weight, fc.bias"):
        load(theirs)
    features = load(theirs, features_only=True)
    assert torch.equal(features.state_dict()["network.conv1.weight"], theirs["conv1.weight"])


def test_one_input_channel_sums_the_first_convolution_so_that_grey_images_give_the_same(caplog):
    colour = small().eval()
    grey = load(state(colour), in_channels=1).eval()
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert "conv1.weight summed over its input channels: the network has 1, the file 3" in caplog.text
    assert grey.load_report.reinitialized == ()


@pytest.mark.parametrize(("theirs", "ours"), [(3, 6), (1, 3), (3, 9), (1, 4)])
def test_more_input_channels_repeat_and_rescale(theirs, ours):
    first = small(in_channels=theirs).eval()
    wider = load(state(first), in_channels=ours).eval()
    x = torch.rand(2, theirs, 32, 32)
    torch.testing.assert_close(wider(x.repeat(1, ours // theirs, 1, 1)), first(x), rtol=1e-4, atol=1e-4)


def test_channels_that_do_not_divide_are_repeated_as_timm_does():
    weight = torch.randn(4, 3, 3, 3)
    assert torch.equal(adapt_channels(weight, 4), torch.cat([weight, weight[:, :1]], 1) * 0.75)
    assert torch.equal(adapt_channels(weight, 2), weight[:, :2] * 1.5)


def test_implicit_channels_of_another_number_are_an_error_with_both_remedies():
    with pytest.raises(
        CheckpointError, match=r"in_channels=1 \(.*\) keeps the first convolution, in_channels=3 given explicitly"
    ):
        load(state(small(in_channels=1)))


def test_the_deep_stems_first_convolution_is_adapted_too():
    axes = {"depths": (1, 1, 1, 1), "num_classes": 4}
    theirs = create_model("resnet18d", **axes).state_dict()
    ours = create_model("resnet18d", pretrained=theirs, in_chans=1, **axes)
    assert torch.equal(ours.conv1[0].weight, theirs["conv1.0.weight"].sum(1, keepdim=True))


def test_preprocessing_follows_the_channels():
    colour = Preprocess(3, "resize(32)", (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    grey = adapt_preprocess(colour, 1)
    assert (grey.channels, grey.transform) == (1, "resize(32)")
    assert (grey.mean, grey.std) == (pytest.approx((0.5,)), pytest.approx((0.2,)))
    assert adapt_preprocess(colour, 4).mean == (0.4, 0.5, 0.6, 0.4)
    assert adapt_preprocess(colour, 3) is colour


HINTS = {
    "more blocks": ({"depths": (2, 1, 1)}, {}, r"depths=\(2, 1, 1\) and 2 convolutions per block"),
    "a network of the zoo": ({"depths": (9, 9, 9)}, {}, r"as resnet56_cifar"),
    "bottlenecks": ({"convs": (1, 3, 1), "expansion": 4}, {}, "3 convolutions per block"),
    "projections": ({"shortcut": "project"}, {}, "shortcut='project'"),
    "bare projections": ({"shortcut": "conv1x1"}, {}, "shortcut='conv1x1'"),
    "no projections": (
        {},
        {"shortcut": "project"},
        "shortcut='pad' .--set model.shortcut=pad. or shortcut='pad-split'",
    ),
    "biases": (
        {"bias": True, "order": "bn-after-add"},
        {"order": "bn-after-add"},
        r"bias=True \(--set model.bias=true\)",
    ),
    "pre-activation": ({"order": "full-preact"}, {}, "order='full-preact'"),
    "another stem": (
        {"stem": "conv7/2(8) norm act"},
        {},
        r"kernel \[7, 7\] in the file, \[3, 3\] in the network: stem='conv7/2\(8\) .*--set model.stem='conv7",
    ),
    "a deep stem": (
        {"stem": "conv3/2(4) norm act conv3(8) norm act"},
        {},
        r"2 convolutions in the file, 1 in the network: stem='conv3/2\(4\) norm act conv3\(8\) norm act",
    ),
    "a narrower stem": ({"stem": "conv3(4) norm act"}, {}, r"stem has width \[4\] in the file, \[8\] in the network"),
    "attention": (
        {"order": "se"},
        {},
        r"attention \(se\): order='conv norm act \| conv norm se \+ act' \(--set model.order='",
    ),
    "no attention": ({}, {"order": "se"}, r"no attention \(se\): order='original' \(--set model.order=original\)"),
    "group norm": (
        {"norm": "group(4)"},
        {},
        r"no running statistics: norm='group\(32\)' \(--set model.norm='group\(32\)'\)",
    ),
    "batch norm": ({}, {"norm": "group(4)"}, r"running statistics: norm='batch' \(--set model.norm=batch\)"),
    "no norm": ({"norm": "none"}, {}, r"no entries: norm='none' \(--set model.norm=none\)"),
    "pre-activation of bottlenecks": (
        {"order": "full-preact", "convs": (1, 3, 1), "expansion": 4},
        {"convs": (1, 3, 1), "expansion": 4},
        r"order='full-preact' \(--set model.order=full-preact\)",
    ),
}


@pytest.mark.parametrize("case", HINTS)
def test_a_checkpoint_of_another_network_is_refused_by_its_name(case):
    theirs, ours, message = HINTS[case]
    with pytest.raises(CheckpointError, match=message):
        load(state(small(**theirs)), **ours)


def test_hints_name_the_networks_that_have_exactly_the_files_tensors():
    with torch.device("meta"):
        theirs, ours = (
            {key: tuple(tensor.shape) for key, tensor in create_model(name).state_dict().items()}
            for name in ("seresnet50", "resnet50")
        )
    hints = suggest_overrides(ARCHS["resnet50"], theirs, ours, ResidualNetwork)
    assert hints[0].startswith("the file has exactly the tensors of seresnet50, legacy_seresnet50: create_model")
    assert "--model seresnet50" in hints[0]


class Unknown(nn.Module):
    """A residual network whose keys follow no known scheme; the order of definition is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.a = self.block(8, 8)
        self.b = self.block(8, 16)
        self.c = self.block(16, 32)
        self.out = nn.Linear(32, 10)

    def block(self, inner, out):
        first, second = nn.Conv2d(inner, out, 3, bias=False), nn.Conv2d(out, out, 3, bias=False)
        return nn.ModuleList([first, nn.BatchNorm2d(out), second, nn.BatchNorm2d(out)])


def test_unknown_keys_are_matched_by_order_and_shape_with_a_warning():
    theirs = Unknown()
    randomise(theirs)
    with pytest.warns(CheckpointWarning, match="matched by order and shape"):
        ours = load(theirs.state_dict())
    assert ours.load_report.by_order
    assert ours.load_report.is_complete
    assert "by order and shape" in ours.load_report.summary
    assert ("b.2.weight", "layer2.0.conv2.weight") in ours.load_report.matched
    assert torch.equal(ours.layer3[0].bn2.running_var, theirs.c[3].running_var)
    assert torch.equal(ours.fc.bias, theirs.out.bias)
    values = list(theirs.state_dict().values())
    assert all(torch.equal(one, two) for one, two in zip(state(ours).values(), values, strict=True))


def test_other_names_of_a_norms_numbers_are_known():
    other = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    theirs = {}
    for key, tensor in Unknown().state_dict().items():
        path, _, leaf = key.rpartition(".")
        is_norm = tensor.ndim == 1 and path != "out"
        theirs[f"{path}.{other.get(leaf, leaf)}" if is_norm else key] = tensor
    with pytest.warns(CheckpointWarning, match="matched by order and shape"):
        assert load(theirs).load_report.is_complete


def test_order_alone_adapts_the_head_and_the_first_convolution():
    with pytest.warns(CheckpointWarning, match="matched by order and shape"):
        ours = load(Unknown().state_dict(), num_classes=4, in_channels=1)
    assert ours.load_report.reinitialized == ("fc.weight", "fc.bias")


def test_an_order_that_no_assignment_keeps_is_an_error_with_the_position():
    state = Unknown().state_dict()
    swapped = {"c.0.weight": state["b.0.weight"], "b.0.weight": state["c.0.weight"]}
    with pytest.raises(CheckpointError, match=r"no assignment keeps the order of its convolutions .*number 4 is b.0"):
        load({key: swapped.get(key, tensor) for key, tensor in state.items()})


def test_an_order_that_several_assignments_keep_is_refused_with_their_number():
    theirs = Unknown().state_dict() | {"aux.weight": torch.zeros(32, 32, 3, 3)}
    with pytest.raises(CheckpointError, match="2 assignments keep the order of its convolutions"):
        load(theirs)


def test_a_layer_too_many_with_one_assignment_is_unexpected():
    theirs = Unknown().state_dict() | {"aux.weight": torch.zeros(5, 5, 5, 5)}
    with pytest.raises(CheckpointError, match=r"unexpected in the file \(1\): aux.weight"):
        load(theirs)


class Skipping(nn.Module):
    """A block whose shortcut's norm is defined between those of its branch, with the same shape."""

    def __init__(self, inner, out, skip):
        super().__init__()
        self.one, self.one_norm = nn.Conv2d(inner, out, 3, bias=False), nn.BatchNorm2d(out)
        self.add_module(f"{skip}_norm", nn.BatchNorm2d(out))
        self.two, self.two_norm = nn.Conv2d(out, out, 3, bias=False), nn.BatchNorm2d(out)
        self.add_module(skip, nn.Conv2d(inner, out, 1, bias=False))


@pytest.mark.parametrize("skip", ["skip", "my_shortcut", "convdim"])
def test_unknown_keys_whose_norm_order_is_ambiguous_are_rejected(skip):
    theirs = Unknown()
    theirs.b, theirs.c = Skipping(8, 16, skip), Skipping(16, 32, skip)
    with pytest.raises(CheckpointError, match=r"no assignment keeps the order of its norms .*_norm"):
        load(theirs.state_dict(), shortcut="project")


def test_safetensors_with_unknown_keys_are_refused_because_they_keep_no_order(tmp_path):
    save_file(Unknown().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="does not keep the order of its entries"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("few", "many", "num_assignments", "places"),
    [
        ("ab", "ab", 1, [0, 1]),
        ("ab", "aab", 2, [0, 2]),
        ("ab", "ba", 0, None),
        ("", "ab", 1, []),
        ("aa", "aaaa", 6, [0, 1]),
    ],
)
def test_assignments_are_counted(few, many, num_assignments, places):
    def agree(i, j):
        return few[i] == many[j]

    assert count_assignments(len(few), len(many), agree) == num_assignments
    if places is not None:
        assert earliest_assignment(len(few), len(many), agree) == places


def test_a_run_of_ours_is_read_with_its_classes_and_preprocessing(tmp_path):
    theirs = small(num_classes=2)
    theirs.classes, theirs.preprocess = ("ant", "bee"), Preprocess(3, "", (0.5,) * 3, (0.2,) * 3)
    save_weights(tmp_path / "model.safetensors", theirs)
    ours = load(tmp_path, num_classes=2)
    same_but(state(ours), state(theirs))
    assert (ours.classes, ours.preprocess) == (theirs.classes, theirs.preprocess)
    other = load(tmp_path / "model.safetensors", num_classes=5, in_channels=1)
    assert other.classes is None
    assert other.preprocess == Preprocess(1, "", (0.5,), (0.2,))


def test_a_run_of_ours_of_another_description_is_warned_of(tmp_path):
    save_weights(tmp_path / "model.safetensors", small(shortcut="pad-split"))
    with pytest.warns(CheckpointWarning, match="shortcut='pad-split'"):
        load(tmp_path)


def test_shared_blocks_of_ours_come_back_shared(tmp_path):
    theirs = create_model("book_resdeep", depths=(3,))
    save_weights(tmp_path / "model.safetensors", theirs)
    ours = create_model("book_resdeep", depths=(3,), pretrained=tmp_path)
    same_but(state(ours), state(theirs))
