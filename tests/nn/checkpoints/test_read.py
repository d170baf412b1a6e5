"""Checkpoint files: every format and wrapper; damaged or unknown files and those that would run code are errors."""

import os
import types
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.read import KEY_PREFIXES, WRAPPER_KEYS, read_checkpoint, read_file, unwrap_checkpoint

STATE = {
    "conv1.weight": torch.arange(27.0).reshape(1, 3, 3, 3),
    "fc.weight": torch.ones(2, 4),
    "fc.bias": torch.ones(2),
}


def legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def npz(state, path):
    with path.open("wb") as file:
        np.savez(file, **{key: tensor.numpy() for key, tensor in state.items()})


WRITERS = {".safetensors": save_file, ".npz": npz, ".pth": torch.save, ".tar": legacy}


def write(ending, path, state=None):
    WRITERS[ending](STATE if state is None else state, path)
    return path


class Bomb:
    """Its pickle would make a file when read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("named", [".same", ".th", ".weights"])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_is_read_whatever_its_name(tmp_path, ending, named):
    path = write(ending, tmp_path / ("w" + (ending if named == ".same" else named)))
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.tensors) == set(STATE)
    assert all(torch.equal(checkpoint.tensors[key], tensor) for key, tensor in STATE.items())
    assert checkpoint.ordered == (ending != ".safetensors")
    assert not checkpoint.ordered or list(checkpoint.tensors) == list(STATE)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, protocol):
    path, tensors = tmp_path / "weights.safetensors", {"fc.weight": torch.eye(3)}
    length = protocol << 8 | 0x80  # the bytes 80 02 ..., as a pickle begins
    for padding in range(length):
        save_file(tensors, path, {"note": "x" * padding})
        size = int.from_bytes(path.read_bytes()[:8], "little")
        if size >= length:
            break
    assert path.read_bytes()[:2] == bytes([0x80, protocol])
    assert torch.equal(read_checkpoint(path).tensors["fc.weight"], tensors["fc.weight"])


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path, ending):
    whole = write(ending, tmp_path / f"w{ending}").read_bytes()
    cut = tmp_path / f"cut{ending}"
    for length in (0, 1, 5, 9, 40, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(
            CheckpointError, match=r"required: .*got: .*cut.*(truncated or damaged|0 bytes|beginning with)"
        ) as error:
            read_file(cut)
        assert "weights_only" not in str(error.value)


def test_a_zip_entry_marked_as_a_folder_is_refused(tmp_path):
    """torch returns whatever its memory holds for such a tensor; no checksum covers the mark."""
    path = write(".pth", tmp_path / "w.pth")
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"w/data/0"))
    path.write_bytes(content[: entry + 38] + bytes([content[entry + 38] ^ 0x10]) + content[entry + 39 :])
    with pytest.raises(CheckpointError, match=r"w\.pth.*damaged \(w/data/0 is marked as a folder\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("writer", [torch.save, legacy])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, writer):
    writer({"state_dict": STATE, "more": Bomb(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"without running code; got: .*w.pth, which contains `(posix|nt).system`"
    ):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_arrays_of_objects_are_refused_and_do_not_run(tmp_path):
    np.savez(tmp_path / "w.npz", weight=np.array([Bomb(tmp_path / "ran")], dtype=object))
    with pytest.raises(CheckpointError, match=r"without running code; got: .*Python objects"):
        read_checkpoint(tmp_path / "w.npz")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused_by_its_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*save model\.state_dict\(\) alone"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.jit\.load"):
        read_checkpoint(tmp_path / "w.pt")


STRANGERS = {
    b"<!DOCTYPE html><html>not found</html>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:1": "git lfs pull",
    b"\x89HDF\r\n\x1a\n": "Keras",
    b"\x1f\x8b\x08\x00": "gzip",
    b"epoch,loss\n1,2.3\n": "beginning with b'epoch,lo'",
    b"PK\x03\x04": "truncated or damaged",
    b"\x80\x02}q\x00.": "a Python pickle that torch.save did not write",
    b"\x80\x02}q\x00": "truncated or damaged",
}


@pytest.mark.parametrize("content", STRANGERS)
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=STRANGERS[content]):
        read_checkpoint(tmp_path / "w.pth")


def test_a_missing_file_names_its_neighbours_and_a_folder_is_none(tmp_path):
    write(".pth", tmp_path / "resnet18.pth")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nearest there: resnet18\.pth"):
        read_checkpoint(tmp_path / "resnet81.pth")
    with pytest.raises(FileNotFoundError, match="a folder, not a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "nowhere" / "w.pth")


def test_harmless_values_next_to_the_weights_are_read(tmp_path):
    beside = {"args": Namespace(lr=0.1), "best": np.float64(0.9), "epoch": np.int64(3)}
    torch.save({"state_dict": STATE, **beside}, tmp_path / "w.pth")
    content = read_file(tmp_path / "w.pth").value
    assert isinstance(content["args"], types.SimpleNamespace)
    assert content["args"].lr == 0.1
    assert content["best"] == 0.9
    assert set(read_checkpoint(tmp_path / "w.pth").tensors) == set(STATE)


@pytest.mark.parametrize("wrapper", WRAPPER_KEYS)
def test_every_wrapper_is_taken_off(wrapper):
    checkpoint = unwrap_checkpoint("w.pth", {"epoch": 3, "optimizer": {"state": {}}, wrapper: STATE})
    assert dict(checkpoint.tensors) == STATE


def test_nested_wrappers_are_removed_and_a_pickle_that_contains_itself_is_an_error():
    assert dict(unwrap_checkpoint("w.pth", {"state_dict": {"model": STATE}}).tensors) == STATE
    loop: dict = {"epoch": 1}
    loop["model"] = loop
    with pytest.raises(CheckpointError, match="a mapping of names to tensors"):
        unwrap_checkpoint("w.pth", loop)


def test_the_plain_weights_are_taken_before_the_averaged_ones_and_it_is_reported():
    averaged = {key: tensor * 0 for key, tensor in STATE.items()}
    checkpoint = unwrap_checkpoint("w.pth", {"model_ema": averaged, "model": STATE})
    assert dict(checkpoint.tensors) == STATE
    assert checkpoint.messages == ("loaded 'model'; the file also contains 'model_ema'",)
    chosen = unwrap_checkpoint("w.pth", {"model_ema": averaged, "model": STATE}, entry="model_ema")
    assert dict(chosen.tensors) == averaged
    with pytest.raises(ValueError, match=r"unknown entry of the file 'model_em'.*'model_ema'"):
        unwrap_checkpoint("w.pth", {"model_ema": averaged, "model": STATE}, entry="model_em")


@pytest.mark.parametrize("prefix", [*KEY_PREFIXES, "model.backbone.", "student.base_model.module."])
def test_every_prefix_is_taken_off(prefix):
    checkpoint = unwrap_checkpoint("w.pth", {prefix + key: tensor for key, tensor in STATE.items()})
    assert dict(checkpoint.tensors) == STATE
    assert "".join(checkpoint.prefixes) == prefix


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_modules_that_wrap_others_are_taken_off_anywhere(wrapper):
    wrapped = {f"module.{wrapper}layer1.{wrapper}0.conv1.weight": torch.ones(1), f"{wrapper}fc.bias": torch.ones(1)}
    checkpoint = unwrap_checkpoint("w.pth", wrapped)
    assert set(checkpoint.tensors) == {"layer1.0.conv1.weight", "fc.bias"}
    assert checkpoint.prefixes == ("module.",)


@pytest.mark.parametrize(("kept", "dropped"), [("teacher", "student"), ("model", "ema_model")])
def test_of_two_copies_of_a_network_one_is_loaded_and_named(kept, dropped):
    both = {f"net.{kept}.{key}": tensor for key, tensor in STATE.items()}
    both |= {f"net.{dropped}.{key}": tensor + 1 for key, tensor in STATE.items()}
    checkpoint = unwrap_checkpoint("w.pth", both)
    assert dict(checkpoint.tensors) == STATE
    assert checkpoint.messages == (f"loaded {kept!r}; the file also contains {dropped!r}",)


def test_a_prefix_that_would_make_two_keys_one_stays():
    doubled = {**STATE, **{f"module.{key}": tensor for key, tensor in STATE.items()}}
    assert set(unwrap_checkpoint("w.pth", doubled).tensors) == set(doubled)


def test_counters_and_plain_values_are_left_out():
    beside = {"n_averaged": torch.tensor(3), "conv1.total_ops": torch.zeros(1), "version": 2, 7: torch.zeros(1)}
    assert dict(unwrap_checkpoint("w.pth", STATE | beside).tensors) == STATE


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"optimizer": {0: torch.zeros(1)}}])
def test_a_file_without_named_tensors_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"required: a mapping of names to tensors .*got: w\.pth with "):
        read_checkpoint(tmp_path / "w.pth")


def test_arrays_of_other_byte_order_are_read_and_of_text_refused(tmp_path):
    np.savez(tmp_path / "big.npz", weight=np.arange(3, dtype=">f4"))
    assert read_checkpoint(tmp_path / "big.npz").tensors["weight"].tolist() == [0, 1, 2]
    np.savez(tmp_path / "text.npz", weight=np.array(["a"]))
    with pytest.raises(CheckpointError, match="entry weight is of type"):
        read_checkpoint(tmp_path / "text.npz")
