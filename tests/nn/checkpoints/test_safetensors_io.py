"""Weights with their header: written and read back; damaged and hostile headers are clear errors."""

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.checkpoints.safetensors_io import (
    format_header,
    read_header,
    read_tensors,
    save_weights,
    unwrap_model,
    update_header,
)
from reslab.nn.factory import create_model, load_network
from reslab.nn.network import ResidualNetwork
from reslab.runtime.files import parse_object
from reslab.spec.preprocess import Preprocess


def small() -> ResidualNetwork:
    model = create_model("resnet20_cifar", num_classes=3, in_channels=1, depths=(1, 1, 1), order="full-preact")
    assert isinstance(model, ResidualNetwork)
    model.classes = ("ant", "bee", "wasp")
    model.preprocess = Preprocess(1, "resize(32)", (0.5,), (0.25,))
    return model


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    model = small()
    save_weights(tmp_path / "model.safetensors", model, {"metrics": {"top1": 0.5}})
    loaded = load_network(tmp_path / "model.safetensors")
    assert loaded.arch == model.arch
    assert loaded.classes == model.classes
    assert loaded.preprocess == model.preprocess
    assert not loaded.training
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("length", range(0, 64, 8))
def test_what_was_loaded_computes_to_the_last_digit_what_was_saved(tmp_path: Path, length: int) -> None:
    """Whatever the header's length, which moves the numbers in the file: MKL sums as they lie in memory."""
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", depths=(1, 1, 1)).eval()
    assert isinstance(network, ResidualNetwork)
    network.classes = ("x" * (length + 1), *map(str, range(9)))
    save_weights(tmp_path / "w.safetensors", network, {})
    loaded = load_network(tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    assert {tensor.data_ptr() % 64 for tensor in read_tensors(tmp_path / "w.safetensors").values()} == {0}


def test_the_file_has_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    save_weights(tmp_path / "m.safetensors", small())
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_the_header_alone_describes_the_network(tmp_path: Path) -> None:
    save_weights(tmp_path / "m.safetensors", small(), {"metrics": {"top1": 0.5}, "selection": "best of val"})
    header = read_header(tmp_path / "m.safetensors")
    assert header["arch"]["order"] == "full-preact"
    assert header["classes"] == ["ant", "bee", "wasp"]
    assert header["metrics"] == {"top1": 0.5}
    assert header["selection"] == "best of val"


def test_a_shared_block_is_stored_once_and_restored_shared(tmp_path: Path) -> None:
    model = create_model("book_resdeep")
    save_weights(tmp_path / "m.safetensors", model)
    assert (
        sum(tensor.numel() for name, tensor in load_file(tmp_path / "m.safetensors").items() if "conv" in name) < 20_000
    )
    loaded = load_network(tmp_path / "m.safetensors")
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 75_810


def test_tied_tensors_of_any_module_are_stored_once(tmp_path: Path) -> None:
    block = nn.Linear(4, 4)
    model = nn.Sequential(block, nn.ReLU(), block)
    save_weights(tmp_path / "m.safetensors", model)
    assert set(load_file(tmp_path / "m.safetensors")) == {"0.weight", "0.bias"}
    tensors = read_tensors(tmp_path / "m.safetensors")
    assert set(tensors) == set(model.state_dict())
    assert torch.equal(tensors["2.weight"], block.weight)
    with pytest.raises(ValueError, match="another module"):
        load_network(tmp_path / "m.safetensors")


def test_views_of_one_storage_are_not_treated_as_one_tensor(tmp_path: Path) -> None:
    model = nn.Module()
    storage = torch.arange(8.0)
    model.register_buffer("first", storage[:4])
    model.register_buffer("second", storage[4:])
    save_weights(tmp_path / "m.safetensors", model)
    assert torch.equal(read_tensors(tmp_path / "m.safetensors")["second"], storage[4:])


def test_weights_of_a_compiled_network_have_plain_names(tmp_path: Path) -> None:
    model = small()
    compiled = torch.compile(model)
    assert unwrap_model(compiled) is model
    save_weights(tmp_path / "m.safetensors", compiled)
    assert load_network(tmp_path / "m.safetensors").arch == model.arch


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(path, small())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="complete"):
        load_network(path)


def test_a_strangers_file_is_refused_with_the_next_step(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"pretrained='w\.safetensors'"):
        load_network(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path / "none.safetensors")


def test_an_unknown_field_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(path, small())
    header = read_header(path)
    header["arch"]["ordre"] = header["arch"].pop("order")
    save_file(load_file(path), path, metadata={"reslab": json.dumps(header)})
    with pytest.raises(ValueError, match=r"'ordre'.*'order'"):
        load_network(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(path, small())
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reslab.nn.checkpoints.safetensors_io.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, small())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


AXES = {"depths": "1,1,1", "widths": "4,4,4", "stem": "conv3(4) norm act", "num_classes": 3, "in_channels": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of weights of a small network with classes and preprocessing."""
    torch.manual_seed(0)
    network: Any = create_model("resnet20_cifar", **AXES)
    network.classes, network.preprocess = ("a", "b", "c"), Preprocess(1, "", (0.5,), (0.25,))
    save_weights(tmp_path / "m.safetensors", network)
    return tmp_path / "m.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header and write it with the right checksums, as an attacker would."""
    header, tensors = read_header(path), load_file(path)
    change(header)
    save_file(tensors, path, metadata={"reslab": format_header(header, tensors)})


def test_a_flipped_byte_anywhere_is_reported_or_changes_nothing(path: Path) -> None:
    whole, header, tensors = path.read_bytes(), read_header(path), read_tensors(path)
    num_reported = 0
    for index in range(0, len(whole), 101):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x11]) + whole[index + 1 :])
        try:
            result = read_tensors(path)
        except ValueError:
            num_reported += 1
            with pytest.raises(ValueError):
                read_checkpoint(path) if b'"reslab"' in path.read_bytes() else read_header(path)
        else:
            assert read_header(path) == header
            assert result.keys() == tensors.keys()
            assert all(torch.equal(result[name], tensors[name]) for name in tensors)
    assert num_reported > 50


def test_a_damaged_tensor_is_named_and_not_given_a_new_checksum(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"tensor '[\w.]+' is damaged"):
        load_network(path)
    with pytest.raises(ValueError, match="is damaged"):
        update_header(path, temperature={"value": 1.5})
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)
    assert path.read_bytes() == whole


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "classes too few": (lambda header: header.update(classes=["a"]), "each of the 3 outputs"),
    "classes a text": (lambda header: header.update(classes="abc"), "classes as list"),
    "classes of numbers": (lambda header: header.update(classes=[1, 2, 3]), "list of strings"),
    "no arch": (lambda header: header.pop("arch"), "the key arch"),
    "arch a list": (lambda header: header.update(arch=[1]), "arch as dict"),
    "arch without depths": (lambda header: header["arch"].pop("depths"), "arch of a network"),
    "depths a text": (lambda header: header["arch"].update(depths="x"), "depths as"),
    "no aliases": (lambda header: header.pop("aliases"), "the key aliases"),
    "alias of nothing": (lambda header: header.update(aliases={"a": "b"}), "a tensor of the file"),
    "preprocess a number": (lambda header: header.update(preprocess=3), "preprocess as dict"),
    "preprocess empty": (lambda header: header.update(preprocess={}), "preprocess of a network"),
    "temperature NaN": (lambda header: header.update(temperature={"value": math.nan}), "above 0"),
    "temperature 0": (lambda header: header.update(temperature={"value": 0}), "above 0"),
    "temperature infinite": (lambda header: header.update(temperature={"value": math.inf}), "above 0"),
    "temperature a text": (lambda header: header.update(temperature={"value": "2"}), "above 0"),
    "temperature true": (lambda header: header.update(temperature={"value": True}), "above 0"),
    "temperature a list": (lambda header: header.update(temperature=[2]), "above 0"),
    "temperature without value": (lambda header: header.update(temperature={}), "above 0"),
    "image of 10^12 pixels": (lambda header: header["arch"].update(image_size=[10**6, 10**6]), "image_size"),
    "depths of 10^9": (lambda header: header["arch"].update(depths=[10**9, 1, 1]), "arch.depths of at most 10,000,000"),
    "depths of 10^6": (lambda header: header["arch"].update(depths=[10**6, 1, 1]), "no more blocks"),
    "depths below 0": (lambda header: header["arch"].update(depths=[-1, 1, 1]), "no more blocks"),
    "no depths": (lambda header: header["arch"].update(depths=[]), "required"),
    "widths of 10^9": (lambda header: header["arch"].update(widths=[10**9, 4, 4]), "required"),
    "channels of 10^9": (lambda header: header["arch"].update(in_channels=10**9), "required"),
    "more outputs": (lambda header: header.update(classes=None) or header["arch"].update(num_classes=4), "'fc"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_header_that_fits_nothing_is_a_clear_error(name: str, path: Path) -> None:
    change, message = CASES[name]
    rewrite(path, change)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        load_network(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["[1]", "null", '"text"', "3", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_that_is_no_object_is_a_clear_error(text: str, path: Path) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        parse_object(text, "it")
    save_file(load_file(path), path, metadata={"reslab": text})
    with pytest.raises(ValueError, match="JSON object"):
        load_network(path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_header_without_checksums_or_of_other_tensors_is_refused(path: Path) -> None:
    header, tensors = read_header(path), load_file(path)
    save_file(tensors, path, metadata={"reslab": json.dumps(header)})
    with pytest.raises(ValueError, match="as it was written"):
        read_header(path)
    text = format_header(header, tensors)
    del tensors[min(tensors)]
    save_file(tensors, path, metadata={"reslab": text})
    with pytest.raises(ValueError, match="the tensors that were written"):
        read_header(path)


def test_a_flipped_byte_of_a_foreign_torch_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.ones(64)}, path)
    whole = path.read_bytes()
    index = whole.index(torch.ones(2).numpy().tobytes())
    path.write_bytes(whole[:index] + b"\x01" + whole[index + 1 :])
    with pytest.raises(CheckpointError, match=r"checksum of .*data/0 differs"):
        read_checkpoint(path)
