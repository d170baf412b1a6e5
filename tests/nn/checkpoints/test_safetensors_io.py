import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors, save_weights, unwrap_model
from reslab.nn.factory import create_model, load_network
from reslab.nn.network import ResidualNetwork
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
