"""A file that declares too much is refused before memory is allocated, and values that are no weights are named."""

import io
import math
import os
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load_report import CheckpointError, allow_nonfinite_weights
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.checkpoints.safetensors_io import format_header, read_header, save_weights
from reslab.nn.factory import create_model, load_network

AXES: dict[str, Any] = {"depths": "1,1,1", "widths": "4,4,4", "stem": "conv3(4) norm act", "num_classes": 3}


class Bomb:
    """Its pickle would make a file when read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def make_network(**axes: Any) -> Any:
    torch.manual_seed(0)
    return create_model("resnet20_cifar", **(AXES | axes))


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def assert_refused(path: Path, match: str, max_seconds: float = 3.0) -> None:
    """Check that the file is refused for a network, soon and without memory."""
    network = make_network()
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(CheckpointError, match=match):
        create_model("resnet20_cifar", **AXES, pretrained=path)
    assert time.process_time() - start < max_seconds
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert network.load_report is None


def test_an_npz_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    num_zeros = 1 << 24
    with (
        zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy_header((num_zeros * 16 // 4,)))
        for _ in range(16):
            file.write(bytes(num_zeros))
    assert_refused(tmp_path / "w.npz", r"unpacks to at most 67,[\d,]+ bytes; got: .*261,\d+ bytes that unpack to 268,")


@pytest.mark.parametrize("shape", [(5 * 10**9,), (-1, 4), (2**62, 2**62), (3,)])
def test_a_shape_that_differs_from_the_bytes_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", npy_header(shape) + bytes(16))
    assert_refused(tmp_path / "w.npz", r"w\.npy declares float32 \[.*\] and has 16 bytes")


@pytest.mark.parametrize("dtype", ["<c8", "<f16", "|V8", "<U4", "<M8[s]"])
def test_an_array_of_another_type_is_named(tmp_path: Path, dtype: str) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", npy_header((1,), dtype) + bytes(np.dtype(dtype).itemsize))
    assert_refused(tmp_path / "w.npz", "whose entry w is of type")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_many_tensor_names_is_refused(tmp_path: Path, zipped: bool) -> None:
    tensor = torch.zeros(1)
    state = {f"n{number}": tensor for number in range(200_000)}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    limits = ReadLimits(max_tensors=1000, max_pickle_bytes=1 << 18)
    with pytest.raises(CheckpointError, match="at most 262,144 bytes of names"):
        read_checkpoint(tmp_path / "w.pth", limits=limits)


def test_a_safetensors_file_of_many_tensor_names_is_refused(tmp_path: Path) -> None:
    for count, message in (
        (5000, r"at most 1,\d+ tensors; got: .* with 5,000"),
        (60_000, r"a header of at most 1,\d+,\d+ b"),
    ):
        save_file({f"n{number}": torch.zeros(0) for number in range(count)}, tmp_path / "w.safetensors")
        assert_refused(tmp_path / "w.safetensors", message)
    with pytest.raises(CheckpointError, match="with 20,000"):
        make_network_from_state({f"n{number}": torch.zeros(0) for number in range(20_000)})


def make_network_from_state(state: dict[str, torch.Tensor]) -> Any:
    return create_model("resnet20_cifar", **AXES, pretrained=state)


def test_a_training_checkpoint_with_optimizer_and_average_is_within_the_limits(tmp_path: Path) -> None:
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {"model": network.state_dict(), "ema": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content | {"history": [0.1] * 50_000}, tmp_path / "w.pth")
    loaded: Any = create_model("resnet20_cifar", **AXES, merge="add", pretrained=tmp_path / "w.pth")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


UNUSUAL = {
    "complex": (lambda tensor: tensor.to(torch.complex64), "'fc.weight' is complex"),
    "sparse": (lambda tensor: tensor.to_sparse(), "'fc.weight' is of the layout sparse_coo"),
    "meta": (lambda tensor: tensor.to("meta"), "'fc.weight' is on the meta device"),
    "integer": (lambda tensor: tensor.to(torch.int64), "fc.weight is int64"),
    "bool": (lambda tensor: tensor.to(torch.bool), "fc.weight is bool"),
    "not a number": (lambda tensor: tensor * math.nan, r"1 of \d+ tensors are not: fc.weight; .*--allow-nonfinite"),
    "infinite": (lambda tensor: tensor.fill_(math.inf), r"1 of \d+ tensors are not: fc.weight"),
    "infinite in 16 bits": (lambda tensor: tensor.half().fill_(-math.inf), r"1 of \d+ tensors are not: fc.weight"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_values_that_are_no_weights_are_named(tmp_path: Path, kind: str) -> None:
    change, message = UNUSUAL[kind]
    state = {name: tensor.clone() for name, tensor in make_network().state_dict().items()}
    state["fc.weight"] = change(state["fc.weight"])
    torch.save(state, tmp_path / "w.pth")
    for source in (tmp_path / "w.pth", state):
        with pytest.raises(CheckpointError, match=message):
            create_model("resnet20_cifar", **AXES, pretrained=source)


def test_nonfinite_weights_are_an_error_unless_allowed(tmp_path: Path) -> None:
    network = make_network()
    with torch.no_grad():
        network.conv1.weight[0, 0, 0, 0] = math.nan
    save_weights(tmp_path / "w.safetensors", network)
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are not: conv1\.weight"):
        load_network(tmp_path / "w.safetensors")
    with allow_nonfinite_weights():
        assert load_network(tmp_path / "w.safetensors").conv1.weight.isnan().sum() == 1
    with pytest.raises(CheckpointError, match="finite numbers"):
        load_network(tmp_path / "w.safetensors")


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_called_what_it_is(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"w": Bomb(tmp_path / "ran")}, protocol))
    with pytest.raises(CheckpointError, match=r"without running code; got: .*a pickle that calls `(posix|nt)\.system`"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps({"w": [1.5, 2.5]}, protocol))
    with pytest.raises(CheckpointError, match=r"a Python pickle that torch\.save did not write"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_is_read_or_named(tmp_path: Path, protocol: int, zipped: bool) -> None:
    path, options = tmp_path / "w.pth", {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save({"w": torch.ones(3)}, path, **options)
    if protocol <= 3:
        assert read_checkpoint(path).tensors["w"].tolist() == [1, 1, 1]
    else:
        with pytest.raises(CheckpointError, match=rf"a pickle of protocol {protocol}.*pickle_protocol=2"):
            read_checkpoint(path)
    torch.save({"w": Bomb(tmp_path / "ran")}, path, **options)
    with pytest.raises(CheckpointError, match=r"`(posix|nt)\.system`, which would run when read"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


ARCHS = {
    "operation of 10^9 parts": (
        {"order": "conv(res2(1000000000)) norm act | conv norm + act"},
        "arch.order with numbers",
    ),
    "groups of 10^9": ({"groups": 10**9}, "arch.groups of at most"),
    "groups of 10^6": ({"groups": 10**6}, "divisible by groups"),
    "image of one side 10^6": ({"image_size": [10**6, 1]}, "image_size"),
    "9000 convolutions a block": ({"convs": [3] * 9000}, "arch.convs of at most 1,000 values"),
    "300 convolutions a block": ({"convs": [3] * 300}, "a network of at most [0-9]+ parameters"),
    "kernel of 10^5": ({"convs": [99999, 99999]}, "a network of at most [0-9,]+ elements"),
    "width of 10^5": ({"widths": "additive(16,100000)"}, "a network of at most [0-9,]+ elements"),
    "expansion of 10^7": ({"expansion": 10**7}, "a network of at most [0-9,]+ elements"),
    "500 linear layers": ({"head": "avgpool flatten " + "fc " * 500}, "a network of at most [0-9]+ parameters"),
    "number of 5000 digits": ({"stem": f"conv3({'9' * 5000})"}, "arch.stem with numbers"),
    "stem of a million characters": ({"stem": "norm " * 200_000}, "arch.stem of at most 10,000 characters"),
}


@pytest.mark.parametrize("case", ARCHS)
def test_an_architecture_of_another_size_than_its_file_is_refused(tmp_path: Path, case: str) -> None:
    axes, message = ARCHS[case]
    path = tmp_path / "w.safetensors"
    save_weights(path, make_network())
    header, tensors = read_header(path), load_file(path)
    header["arch"].update(axes)
    save_file(tensors, path, metadata={"reslab": format_header(header, tensors)})
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        load_network(path)
    assert time.process_time() - start < 4
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
