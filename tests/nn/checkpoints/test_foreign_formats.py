"""Files of Lasagne, BiT, detectron2, Caffe and Keras load to equal outputs; damaged and dangerous ones are refused."""

import os
import pickle
import sys
import warnings
from collections import OrderedDict

import foreign_files as files
import numpy as np
import pytest
import torch
from agreement import assert_close, images, randomise
from safetensors.torch import save_file

from reslab.nn.checkpoints.foreign_formats import CONTAINERS, name_arrays
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.match_keys import norms_after_convs
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.factory import create_model

SMALL = {"depths": (1, 2, 1, 1), "widths": (4, 8, 16, 32), "stem": "conv7/2(8) norm act maxpool3/2", "num_classes": 5}
CAFFE = SMALL | {"depths": (3, 1, 2, 1), "stem": "conv7/2(8) norm act maxpool3/2(ceil)"}


def random_network(name, **axes):
    network = create_model(name, **axes).eval()
    randomise(network)
    return network


def assert_loads(network, path, scheme, name=None, **axes):
    """The file gives a network like this one.

    A warning is an error, except those of matching by order and of other networks of the zoo with the same weights.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the state dict uses no known|.*matched by order|nothing in .* distinguishes")
        ours = create_model(name or network.arch.name, pretrained=path, **axes).eval()
    assert ours.load_report.is_complete
    assert ours.load_report.key_scheme == scheme
    x = images(2, network.arch.in_channels, *((64, 64) if network.total_stride > 8 else (32, 32)), dtype=torch.float32)
    with torch.inference_mode():
        assert_close(ours(x), network(x), scheme)
    return ours


def test_bare_arrays_are_layers_in_the_order_of_their_numbers(tmp_path):
    axes = {"depths": (1, 2, 1), "widths": (8, 16, 32), "stem": "conv3(8) norm act", "shortcut": "project"}
    network = random_network("resnet20_cifar", **axes)
    files.bare_npz(network, tmp_path / "w.npz")
    assert_loads(network, tmp_path / "w.npz", "unknown", **axes)


def test_a_bias_ahead_of_a_norm_is_reported_from_the_norm_by_the_number_of_vectors():
    arrays = [torch.randn(4, 3, 3, 3), *(torch.rand(4) for _ in range(5)), torch.randn(4, 4), torch.rand(4)]
    named = name_arrays({f"arr_{i}": array for i, array in enumerate(arrays)}, "w.npz")
    leaves = ["arr_0.weight", "arr_0.bias", "arr_2.bias", "arr_2.weight", "arr_2.running_mean", "arr_2.inv_std"]
    assert list(named) == [*leaves, "arr_6.weight", "arr_6.bias"]
    assert torch.equal(named["arr_6.weight"], arrays[6].T)
    assert torch.equal(named["arr_2.inv_std"], arrays[5])
    with pytest.raises(CheckpointError, match=r"arr_0 has shape \[4, 3, 3, 3\] with 3 vectors after it"):
        name_arrays({f"arr_{i}": array for i, array in enumerate(arrays[:4])}, "w.npz")


def test_bit(tmp_path):
    axes = {"depths": (1, 2, 1, 1), "widths": (8, 16, 32, 64), "norm": "group(8)", "num_classes": 5}
    axes |= {"stem": "conv7/2(8) maxpool3/2(zero)"}
    network = random_network("resnetv2_50x1_bit", **axes)
    files.bit_npz(network, tmp_path / "w.npz")
    assert_loads(network, tmp_path / "w.npz", "bit", **axes)


@pytest.mark.parametrize(("prefix", "protocol"), [("", 2), ("", 5), ("backbone.bottom_up.", 4)])
def test_detectron2(tmp_path, protocol, prefix):
    network = random_network("resnet50", **SMALL)
    files.detectron2_pkl(network, tmp_path / "w.pkl", protocol, prefix)
    assert_loads(network, tmp_path / "w.pkl", "detectron2", **SMALL)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_a_function_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"w": np.ones(2)}, "more": Bomb(tmp_path / "ran")}))
    with pytest.raises(
        CheckpointError, match=r"without running code; got: .*w.pkl, which contains .*`(posix|nt).system`"
    ):
        read_checkpoint(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


class Reduced:
    """Pickles as a call of `function` with these arguments, followed by this state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.zeros(1).__reduce__()[0]
HUGE = Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (10**12,), np.dtype("f8"), False, b"12345678"))
OBJECTS = np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize("content", [HUGE, OBJECTS, np.array(["text"])], ids=["huge", "objects", "text"])
def test_an_array_of_other_values_or_more_than_the_file_holds_is_refused(tmp_path, content):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"w": content}}))
    with pytest.raises(CheckpointError, match=r"truncated or damaged|a mapping of names to tensors"):
        read_checkpoint(tmp_path / "w.pkl")


def test_dictionaries_that_repeat_each_other_are_read_once(tmp_path):
    nested = {"w": np.ones(2, ">f4")}
    for _ in range(40):
        nested = OrderedDict(a=nested, b=nested)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"w": np.arange(3, dtype=">f4")}, "more": nested}))
    assert read_checkpoint(tmp_path / "w.pkl").tensors["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("factor", [1.0, 998.25])
def test_caffe(tmp_path, factor):
    pytest.importorskip("google.protobuf")
    network = random_network("resnet50_caffe", **CAFFE)
    files.caffemodel(network, tmp_path / "w.caffemodel", factor)
    assert_loads(network, tmp_path / "w.caffemodel", "caffe", **CAFFE)


def test_caffes_first_convolution_has_a_bias_that_goes_into_the_norm(tmp_path):
    pytest.importorskip("google.protobuf")
    network = random_network("resnet50_caffe", **CAFFE)
    bias = torch.randn(8)
    files.caffemodel(network, tmp_path / "w.caffemodel", stem_bias=bias.numpy())
    network.bn1.running_mean -= bias
    ours = assert_loads(network, tmp_path / "w.caffemodel", "caffe", **CAFFE)
    assert "subtracted the biases of 1 convolutions" in ours.load_report.messages[0]


def test_caffes_first_generation_of_layers_has_four_dimensions(tmp_path):
    pytest.importorskip("google.protobuf")
    net = files.caffe_messages()(name="old")
    for name, kind, shape in (("conv1", 4, (2, 3, 1, 1)), ("fc", 14, (1, 1, 5, 2))):
        layer = net.layers.add(name=name, type=kind)
        for dims in (shape, (1, 1, 1, shape[0] if kind == 4 else shape[2])):
            blob = layer.blobs.add(**dict(zip(("num", "channels", "height", "width"), dims, strict=True)))
            blob.data.extend(range(int(np.prod(dims))))
    (tmp_path / "w.caffemodel").write_bytes(net.SerializeToString())
    shapes = {key: tuple(tensor.shape) for key, tensor in read_checkpoint(tmp_path / "w.caffemodel").tensors.items()}
    assert shapes == {"conv1.weight": (2, 3, 1, 1), "conv1.bias": (2,), "fc.weight": (5, 2), "fc.bias": (5,)}


def test_a_caffemodel_cut_short_is_refused_wherever_it_ends(tmp_path):
    pytest.importorskip("google.protobuf")
    network = random_network("resnet50_caffe", **CAFFE)
    files.caffemodel(network, tmp_path / "w.caffemodel")
    whole = (tmp_path / "w.caffemodel").read_bytes()
    for length in (1, 5, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.caffemodel").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_checkpoint(tmp_path / "cut.caffemodel")


KERAS_ENDS = (
    (r"^conv1\.", "conv1_conv."),
    (r"^bn1\.", "conv1_bn."),
    (r"^norm\.", "post_bn."),
    (r"^fc\.", "predictions."),
)
KERAS_V1 = (
    *KERAS_ENDS,
    *((rf"^layer{k}\.{b}\.", f"conv{k + 1}_block{b + 1}_") for k in range(1, 5) for b in range(3)),
    (r"_conv(\d)\.", r"_\1_conv."),
    (r"_bn(\d)\.", r"_\1_bn."),
    (r"_downsample\.0\.", "_0_conv."),
    (r"_downsample\.1\.", "_0_bn."),
)
V2_DEPTHS = {"resnet50v2_keras": (3, 4, 6, 3), "resnet101v2_keras": (3, 4, 23, 3), "resnet152v2_keras": (3, 8, 36, 3)}


def keras_v2_rules(depths):
    """The strided block is the last of a stage in Keras, and a stage of its own here."""
    names = {
        f"layer{2 * k - 1 + is_last}.{0 if is_last else b}": f"conv{k + 1}_block{b + 1}_"
        for k, depth in enumerate(depths, 1)
        for b in range(depth)
        for is_last in [k < 4 and b == depth - 1]
    }
    blocks = tuple((rf"^{ours}\.", theirs) for ours, theirs in names.items())
    inner = ((r"_conv(\d)\.", r"_\1_conv."), (r"_bn1\.", "_preact_bn."), (r"_bn2\.", "_1_bn."), (r"_bn3\.", "_2_bn."))
    return (*KERAS_ENDS, *blocks, *inner, (r"_downsample\.0\.", "_0_conv."))


KERAS_WRITERS = {
    "model.h5": files.keras_h5,
    "keras3.h5": lambda layers, path: files.keras_h5(layers, path, suffix=""),
    "weights.h5": lambda layers, path: files.keras_h5(layers, path, is_model=False),
    "named.keras": files.keras_archive,
    "unnamed.keras": lambda layers, path: files.keras_archive(layers, path, with_names=False),
}


@pytest.mark.parametrize("written", KERAS_WRITERS)
def test_keras_resnet50_with_biases_ahead_of_its_norms(tmp_path, written):
    pytest.importorskip("h5py")
    network = random_network("resnet50_keras", bias=True, stem_bias=True, **SMALL)
    KERAS_WRITERS[written](files.keras_layers(network, KERAS_V1), tmp_path / written)
    ours = assert_loads(network, tmp_path / written, "keras", **SMALL)
    num_convs = sum(isinstance(module, torch.nn.Conv2d) for module in ours.modules())
    assert f"subtracted the biases of {num_convs} convolutions" in ours.load_report.messages[0]
    assert ours.arch.norm_eps == 1.001e-5


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("resnet50v2_keras", "model.h5"),
        ("resnet50v2_keras", "unnamed.keras"),
        ("resnet101v2_keras", "model.h5"),
        pytest.param("resnet152v2_keras", "named.keras", marks=pytest.mark.soak),
    ],
)
def test_keras_resnet_v2(tmp_path, name, written):
    pytest.importorskip("h5py")
    axes = {"widths": (4, 4, 8, 8, 8, 8, 8), "stem": "conv7/2(8) maxpool3/2(zero)", "num_classes": 5}
    network = random_network(name, **axes)
    for block_name, block in network.blocks():  # without a bias in Keras
        assert isinstance(block.conv1, torch.nn.Conv2d), block_name
        torch.nn.init.zeros_(block.conv1.bias)
        torch.nn.init.zeros_(block.conv2.bias)
    layers = files.keras_layers(network, keras_v2_rules(V2_DEPTHS[name]), is_v2=True)
    KERAS_WRITERS[written](layers, tmp_path / written)
    assert_loads(network, tmp_path / written, f"keras v2 {name.partition('v')[0].removeprefix('resnet')}", **axes)


STAGE = (
    (r"^layer(\d)\.(\d)\.", lambda m: f"features.stage{m[1]}.unit{int(m[2]) + 1}."),
    (r"(unit\d+)\.conv(\d)\.", r"\1.body.conv\2.conv."),
    (r"(unit\d+)\.bn(\d)\.", r"\1.body.conv\2.bn."),
    (r"^fc\.", "output."),
)
PYTORCHCV = (
    (r"^conv1\.", "features.init_block.conv.conv."),
    (r"^bn1\.", "features.init_block.conv.bn."),
    (r"\.downsample\.0\.", ".identity_conv.conv."),
    (r"\.downsample\.1\.", ".identity_conv.bn."),
)
PREACT = ((r"^norm\.", "features.post_activ.bn."), (r"\.downsample\.0\.", ".identity_conv."))
DEEP_STEM = "conv3/2(4) norm act conv3(4) norm act conv3(8) norm act maxpool3/2"
DEEP_ENDS = (("bn1", "3.bn"), ("conv1.0", "1.conv"), ("conv1.1", "1.bn"), ("conv1.3", "2.conv"), ("conv1.4", "2.bn"))
PYTORCHCV_DEEP = (
    *((rf"^{ours}\.", f"features.init_block.conv{theirs}.") for ours, theirs in (*DEEP_ENDS, ("conv1.6", "3.conv"))),
    *PYTORCHCV[2:],
)
MMPRETRAIN = ((r"^conv1\.", "stem."), (r"^bn1\.", "stem.7."), (r"^fc\.", "head.fc."))
MMPRETRAIN_D = (
    *MMPRETRAIN,
    (r"^layer1\.0\.downsample\.1\.", "layer1.0.downsample.0."),
    (r"^layer1\.0\.downsample\.2\.", "layer1.0.downsample.1."),
)
MM_AXES = SMALL | {"stem": DEEP_STEM}
CIFAR_AXES = {"depths": (2, 1, 1), "widths": (8, 16, 32), "stem": "conv3(8) norm act", "shortcut": "project"}
# By key scheme: a network of ours and the rules from our keys to theirs.
RENAMED = {
    "pytorchcv": ("resnet50", SMALL, (*PYTORCHCV, *STAGE)),
    "pytorchcv deep": ("resnet50", MM_AXES, (*PYTORCHCV_DEEP, *STAGE)),
    "pytorchcv preact": (
        "resnet50",
        SMALL | {"order": "full-preact-norm-stem"},
        ((r"^conv1\.", "features.init_block.conv."), (r"^bn1\.", "features.init_block.bn."), *PREACT, *STAGE),
    ),
    "pytorchcv preact cifar": (
        "preresnet110_cifar",
        CIFAR_AXES | {"order": "full-preact-identity"},
        ((r"^conv1\.", "features.init_block."), *PREACT, *STAGE),
    ),
    "mmpretrain v1c": ("resnet50", MM_AXES, MMPRETRAIN),
    "mmpretrain v1d": ("resnet50d", MM_AXES, MMPRETRAIN_D),
    "detectron2": ("resnet50", SMALL, files.D2_RULES),
}


@pytest.mark.parametrize("scheme", RENAMED)
def test_keys_of_another_library_in_safetensors(tmp_path, scheme):
    """The scheme is found by name in a format that keeps no order."""
    name, axes, rules = RENAMED[scheme]
    network = random_network(name, **axes)
    arrays = files.renamed(network, rules)
    assert not set(arrays) & {key for key in network.state_dict() if key.startswith(("conv1.", "fc."))}
    save_file({key: torch.from_numpy(array.copy()) for key, array in arrays.items()}, tmp_path / "w.safetensors")
    assert_loads(network, tmp_path / "w.safetensors", scheme, **axes)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "w.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match=r"the extra keras .*pip install 'reslab\[keras\]'"):
        read_checkpoint(tmp_path / "w.h5")


def test_a_damaged_file_of_keras_is_refused(tmp_path):
    pytest.importorskip("h5py")
    network = random_network("resnet50_keras", **SMALL)
    files.keras_h5(files.keras_layers(network, KERAS_V1), tmp_path / "w.h5")
    whole = (tmp_path / "w.h5").read_bytes()
    for length in (9, 100, len(whole) // 2):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_checkpoint(tmp_path / "cut.h5")


def test_a_convolution_whose_output_has_other_readers_takes_no_bias_into_a_norm():
    preact = create_model("preresnet110_cifar", depths=(1, 1, 1))
    assert norms_after_convs(preact)["layer1.0.conv1"] == "layer1.0.bn2"
    assert "layer1.0.conv2" not in norms_after_convs(preact)
    identity = create_model("preresnet110_cifar", depths=(2, 1, 1), order="full-preact-identity")
    assert "conv1" not in norms_after_convs(identity)  # the first shortcut reads it too
    assert norms_after_convs(preact)["conv1"] == "layer1.0.bn1"


def test_every_suffix_names_a_file_of_weights():
    from reslab.nn.checkpoints.pretrained import is_path

    for container in CONTAINERS:
        assert all(is_path(f"weights{suffix}") for suffix in container.suffixes), container
