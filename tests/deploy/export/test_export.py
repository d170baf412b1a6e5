"""Every format is verified on a network trained here; a failed export leaves no files."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reslab.deploy.export.export import ExportError, export
from reslab.deploy.export.formats import EXPORT_FORMATS
from reslab.deploy.export.writers import ExportJob
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model, load_network
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess
from reslab.training.checkpoint import load_run_network
from reslab.training.run import Run

GRAPHS = [
    (line.name, precision)
    for line in EXPORT_FORMATS.values()
    for precision in line.precisions
    if line.name not in ("torchvision", "timm")
]


@pytest.mark.parametrize(("to", "precision"), GRAPHS)
def test_each_format_is_verified(run: Run, tmp_path: Path, to: str, precision: str) -> None:
    made = export(run, to, tmp_path / "out" / "net", precision=precision)
    assert made.path.exists()
    assert (made.format, made.precision) == (to, precision)
    facts = json.loads(made.report_path.read_text())
    assert facts["max_difference"] == made.comparison.max_difference
    assert facts["num_images"] == (256 if precision == "float32" else 359)
    assert (facts["data"], facts["split"]) == ("digits", "test")
    assert facts["num_batch_norms_folded"] == (0 if to == "safetensors" else 7)
    if precision == "float32":
        assert facts["agreement"] == 1.0
        assert facts["max_difference"] <= 1e-4
    else:
        assert facts["max_difference"] > 1e-4  # it does compute in less
        assert facts["metric_drop"] <= 1.0
    note = made.report_path.with_suffix(".md").read_text()
    assert "resnet20_cifar" in note
    assert precision in note
    assert not list(made.path.parent.glob(".*"))


def test_onnx_without_reslab(sound: Path, network: ResidualNetwork, digits: Tensor) -> None:
    """Load the file in ONNX Runtime alone: any batch size, readable names, the network's metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(sound), providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, taken.name, taken.shape) == ("images", ["batch", 1, 8, 8], "logits", ["batch", 10])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["reslab"])
    assert facts["classes"] == [str(digit) for digit in range(10)]
    for batch in (1, 5):
        (result,) = session.run(None, {"images": digits[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(result), network(digits[:batch]).detach(), rtol=1e-4, atol=1e-4)


def test_torch_export_without_reslab(run: Run, network: ResidualNetwork, digits: Tensor, tmp_path: Path) -> None:
    made = export(run, "torch", tmp_path / "net.pt2")
    extra = {"reslab.json": ""}
    program = torch.export.load(made.path, extra_files=extra).module()
    assert json.loads(extra["reslab.json"])["preprocess"]["channels"] == 1
    for batch in (1, 5):
        torch.testing.assert_close(program(digits[:batch]), network(digits[:batch]), rtol=1e-4, atol=1e-4)


def test_openvino_has_both_files_and_the_smaller_ones_in_16_bits(run: Run, tmp_path: Path) -> None:
    whole = export(run, "openvino", tmp_path / "net.xml").path
    half = export(run, "openvino", tmp_path / "half.xml", precision="bf16").path
    sizes = [path.with_suffix(".bin").stat().st_size for path in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]


def test_int8_holds_int8(run: Run, sound: Path, tmp_path: Path) -> None:
    import onnx

    small = export(run, "onnx", tmp_path / "net.onnx", precision="int8").path
    graph = onnx.load(small).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer) >= 8
    kept = {entry.key: entry.value for entry in onnx.load(small).metadata_props}
    assert json.loads(kept["reslab"])["arch"]["name"] == "resnet20_cifar"
    assert small.stat().st_size < 0.7 * sound.stat().st_size


def test_the_layout_of_the_hub(run: Run, network: ResidualNetwork, digits: Tensor, tmp_path: Path) -> None:
    folder = export(run, "safetensors", tmp_path / "hub").path
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["3"] == "3"
    assert config["reslab"]["arch"]["depths"] == [1, 1, 1]
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: reslab")
    again = load_run_network(folder)
    assert torch.equal(again(digits), network(digits))
    assert again.classes == network.classes


def imagenet_like(name: str, folder: Path, **axes: Any) -> Path:
    """A small network of torchvision's or timm's kind with random weights and norms, saved by reslab."""
    from tests.deploy.export.test_bn_folding import lived

    network = lived(name, num_classes=10, image_size=(32, 32), **axes)
    network.classes = tuple(f"thing {label}" for label in range(10))
    network.preprocess = Preprocess(axes.get("in_channels", 3), "", (0.5,) * 3, (0.25,) * 3)
    if axes.get("in_channels") == 1:
        network.preprocess = Preprocess(1, "", (0.5,), (0.25,))
    save_weights(folder / "model.safetensors", network)
    return folder / "model.safetensors"


@pytest.fixture
def photos(tmp_path: Path) -> Any:
    """Forty color images of ten classes, as tensors."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.arange(40) % 10


def test_torchvision_loads_it_strictly(tmp_path: Path, photos: Any) -> None:
    from torchvision.models import resnet18

    source = imagenet_like("resnet18", tmp_path)
    made = export(source, "torchvision", tmp_path / "net.pth", data=photos)
    theirs = resnet18(num_classes=10)
    theirs.load_state_dict(torch.load(made.path, weights_only=True), strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs.eval()(x), load_network(source)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "resnetv2_50"])
def test_timm_loads_the_folder_alone(tmp_path: Path, photos: Any, name: str) -> None:
    import timm
    from timm.data import resolve_model_data_config

    source = imagenet_like(name, tmp_path)
    made = export(source, "timm", tmp_path / "net", data=photos)
    theirs = timm.create_model(f"local-dir:{made.path}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(x), load_network(source)(x), rtol=1e-3, atol=1e-3)
    reported = resolve_model_data_config(theirs)
    assert (list(reported["mean"]), list(reported["std"])) == ([0.5] * 3, [0.25] * 3)
    assert theirs.pretrained_cfg["label_names"][3] == "thing 3"


@pytest.mark.parametrize(
    ("to", "name", "axes", "message"),
    [
        ("torchvision", "resnet20_cifar", {}, "resnet20_cifar, which it lacks"),
        ("torchvision", "resnet18", {"order": "full-preact"}, "resnet18 as torchvision has it"),
        ("torchvision", "resnet18", {"act": "gelu"}, "act='gelu'"),
        ("torchvision", "resnet18", {"depths": (1, 1, 1, 1)}, "depths"),
        ("timm", "resnet20_cifar", {}, "a network that timm has"),
    ],
)
def test_what_a_library_has_not_is_refused(
    tmp_path: Path, photos: Any, to: str, name: str, axes: dict[str, Any], message: str
) -> None:
    source = imagenet_like(name, tmp_path, **axes)
    with pytest.raises(ValueError, match=message):
        export(source, to, tmp_path / "out" / "net", data=photos)
    assert not (tmp_path / "out").exists()


def test_torchvision_reads_color_only(tmp_path: Path) -> None:
    source = imagenet_like("resnet18", tmp_path, in_channels=1)
    grey = torch.randint(256, (20, 1, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
    with pytest.raises(ValueError, match="3 input channels"):
        export(source, "torchvision", tmp_path / "net.pth", data=grey)


@pytest.fixture(scope="session")
def sound(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's network as an ONNX file."""
    return export(run, "onnx", tmp_path_factory.mktemp("sound") / "net.onnx", num_images=16).path


def spoil(path: Path) -> None:
    """Change one weight of an ONNX file."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest).copy()
    values.flat[0] += 0.5
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(model, path)


def test_a_spoilt_file_is_an_error_and_leaves_nothing(
    run: Run, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(job: ExportJob, path: Path) -> None:
        shutil.copy(sound, path)
        if spoilt:
            spoil(path)

    monkeypatch.setitem(EXPORT_FORMATS, "onnx", replace(EXPORT_FORMATS["onnx"], write=write))
    target, spoilt = tmp_path / "new" / "net.onnx", True
    with pytest.raises(ExportError, match=r"outputs differ by .*, at most 0.0001 allowed.*export was deleted"):
        export(run, "onnx", target)
    assert list(tmp_path.iterdir()) == []
    spoilt = False
    export(run, "onnx", target)
    spoilt = True
    with pytest.raises(ExportError):
        export(run, "onnx", target, force=True)
    assert target.read_bytes() == sound.read_bytes()
    beside = {"net.onnx", "net.onnx.report.json", "net.onnx.report.md"}
    assert {path.name for path in target.parent.iterdir()} == beside


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Replace the loader of `onnx`, so that the export returns given outputs."""

    def reported(result: Callable[[Tensor], Tensor]) -> None:
        line = replace(EXPORT_FORMATS["onnx"], write=lambda job, path: path.touch(), load=lambda job, path: result)
        monkeypatch.setitem(EXPORT_FORMATS, "onnx", line)

    return reported


def test_too_much_accuracy_lost_is_an_error(run: Run, tmp_path: Path, answered: Any) -> None:
    answered(lambda x: torch.eye(10)[torch.zeros(len(x), dtype=torch.int64)])
    with pytest.raises(ExportError, match=r"points of accuracy lost, at most 1 allowed"):
        export(run, "onnx", tmp_path / "net.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []
    assert export(run, "onnx", tmp_path / "net.onnx", precision="int8", max_drop=100).path.exists()


def test_outputs_that_are_no_numbers_fail(run: Run, tmp_path: Path, answered: Any) -> None:
    answered(lambda x: torch.full((len(x), 10), float("nan")))
    with pytest.raises(ExportError, match="outputs differ by inf"):
        export(run, "onnx", tmp_path / "net.onnx")


def test_outputs_of_another_shape_fail(run: Run, tmp_path: Path, answered: Any) -> None:
    answered(lambda x: torch.zeros(len(x), 9))
    with pytest.raises(ValueError, match="outputs of shape"):
        export(run, "onnx", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_written_where_the_user_says(run: Run, tmp_path: Path) -> None:
    beside = export(run, "torch", num_images=8)
    assert beside.path == run.path / "export" / "resnet20_cifar.pt2"
    assert beside.comparison.num_images == 8
    with pytest.raises(ValueError, match="which exists"):
        export(run, "torch", num_images=8)
    assert export(run, "torch", num_images=8, force=True).path == beside.path
    assert export(run, "torch", tmp_path, num_images=8).path == tmp_path / "resnet20_cifar.pt2"
    with pytest.raises(ValueError, match=r"ends in \.pt2.*nearest valid: net\.pt2"):
        export(run, "torch", tmp_path / "net.onnx", num_images=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onx"}, "nearest: 'onnx'"),
        ({"to": "torch", "precision": "int8"}, "formats with int8: onnx"),
        ({"to": "onnx", "num_images": 0}, "at least 1 image"),
        ({"to": "onnx", "data": "fashion-mnist"}, ""),
    ],
)
def test_mistakes_are_reported(run: Run, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    if options.get("data"):
        options["data"] = torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 4
        message = "data of 10 classes"
    with pytest.raises(ValueError, match=message):
        export(run, output=tmp_path / "net", **options)


def test_weights_alone_need_data(network: ResidualNetwork, tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", network)
    with pytest.raises(ValueError, match="--data NAME"):
        export(tmp_path / "model.safetensors", "onnx")
    made = export(tmp_path / "model.safetensors", "torch", data="digits", num_images=16)
    assert made.path == tmp_path / "export" / "resnet20_cifar.pt2"


def test_a_network_as_it_stands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", depths=(1, 1, 1), in_channels=1, image_size=(8, 8))
    assert isinstance(network, ResidualNetwork)
    made = export(network, "torch", tmp_path / "net", data="digits", num_images=16)
    assert made.path.name == "net.pt2"


@pytest.mark.parametrize("to", [pytest.param("torch", marks=pytest.mark.soak), "safetensors"])
def test_a_full_disk_ends_in_a_message_and_leaves_nothing(run: Run, tmp_path: Path, to: str) -> None:
    """In a process of its own, which an abort would end."""
    code = f"""
import resource
from reslab.deploy.export import export as module
from reslab.runtime.files import DiskFullError
write = module._write
def limited(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    write(*args)
module._write = limited
try:
    module.export({str(run.path)!r}, {to!r}, {str(tmp_path / "out" / "net")!r})
except DiskFullError as error:
    print("reported:", error)
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert f"reported: no space left to write {tmp_path / 'out' / 'net'}" in ended.stdout
    assert "the unfinished export was deleted; free some space, then run the same command again" in ended.stdout
    assert list(tmp_path.iterdir()) == []
