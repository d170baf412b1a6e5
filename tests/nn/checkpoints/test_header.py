"""Damaged and hostile headers: each is a clear error, and nothing is allocated for a size that the file lacks."""

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.checkpoints.safetensors_io import format_header, read_header, read_tensors, save_weights, update_header
from reslab.nn.factory import create_model, load_network
from reslab.runtime.files import parse_object
from reslab.spec.preprocess import Preprocess

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
