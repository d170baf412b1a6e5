"""The export formats: description, suffix, precisions, writer and loader of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from reslab.deploy.backends.backend import DetectFn, ForwardFn
from reslab.deploy.backends.graph_backends import open_onnx_detector
from reslab.deploy.export import writers
from reslab.deploy.export.graphs import detector_to_onnx, file_name
from reslab.deploy.export.writers import WEIGHTS_FILE, ExportJob, graph_metadata
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import load_model
from reslab.spec.dense import DetectionArch


def write_detector_onnx(job: ExportJob, path: Path) -> None:
    """Write the graphs of a detector beside each other; the first at `path`."""
    import onnx

    assert isinstance(job.network, DenseNetwork)
    for name, model in detector_to_onnx(job.network, graph_metadata(job.network)).items():
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path.with_name(file_name(path.name, name)))


def load_detector_onnx(job: ExportJob, path: Path) -> DetectFn:
    """Load the graphs in ONNX Runtime."""
    assert isinstance(job.network.arch, DetectionArch)
    return open_onnx_detector(path, job.network.arch, job.num_threads)


def load_detector(job: ExportJob, path: Path) -> DetectFn:
    """Load the weights with reslab."""
    network = load_model(path / WEIGHTS_FILE)
    assert isinstance(network, DenseNetwork)
    return torch_detect(network)


def torch_detect(network: DenseNetwork) -> DetectFn:
    """Return the function of a detector in eval mode."""
    network.eval()

    def detect(x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        with torch.no_grad():
            detections: list[dict[str, torch.Tensor]] = network(list(x))
            return detections

    return detect


@dataclass(frozen=True)
class DetectorFormat:
    """The functions of a format that write a detector and load it in its own runtime."""

    write: Callable[[ExportJob, Path], None]
    load: Callable[[ExportJob, Path], DetectFn]


@dataclass(frozen=True)
class ExportFormat:
    """An export format: `suffix` of the file (empty for a folder), required `extra`, whether batch norms are folded.

    `takes_dense`: the format holds the weights of networks for segmentation and detection, too. `detector` has the
    functions for detectors, if it takes any.
    `write(job, path)` writes the file; `load(job, path)` loads it in the format's own runtime, as its users will.
    """

    name: str
    description: str
    suffix: str
    write: Callable[[ExportJob, Path], None]
    load: Callable[[ExportJob, Path], ForwardFn]
    extra: str = ""
    fold_bn: bool = False
    takes_dense: bool = False
    detector: DetectorFormat | None = None
    precisions: tuple[str, ...] = ("float32",)

    @property
    def is_graph(self) -> bool:
        """True if the format holds a graph of any network, rather than the weights of a known one."""
        return self.fold_bn


EXPORT_FORMATS: dict[str, ExportFormat] = {
    export_format.name: export_format
    for export_format in (
        ExportFormat(
            "torchvision",
            description="a state dict that torchvision's network loads with strict=True",
            suffix=".pth",
            write=writers.write_torchvision,
            load=writers.load_torchvision,
        ),
        ExportFormat(
            "timm",
            description="a folder that timm.create_model('local-dir:FOLDER', pretrained=True) loads",
            suffix="",
            extra="timm",
            write=writers.write_timm,
            load=writers.load_timm,
        ),
        ExportFormat(
            "safetensors",
            description="a folder in the layout of the Hugging Face hub: weights, config.json, model card; "
            "reslab loads it",
            suffix="",
            takes_dense=True,
            write=writers.write_safetensors,
            load=writers.load_safetensors,
            detector=DetectorFormat(writers.write_safetensors, load_detector),
        ),
        ExportFormat(
            "onnx",
            description="an ONNX graph with any batch size; int8 in QDQ format",
            suffix=".onnx",
            extra="onnx",
            fold_bn=True,
            precisions=("float32", "int8"),
            write=writers.write_onnx,
            load=writers.load_onnx,
            detector=DetectorFormat(write_detector_onnx, load_detector_onnx),
        ),
        ExportFormat(
            "torch",
            description="a torch.export program with any batch size, runs without reslab",
            suffix=".pt2",
            fold_bn=True,
            write=writers.write_torch,
            load=writers.load_torch,
        ),
        ExportFormat(
            "openvino",
            description="OpenVINO's .xml and .bin with any batch size; bf16 stores 16-bit weights",
            suffix=".xml",
            extra="openvino",
            fold_bn=True,
            precisions=("float32", "bf16"),
            write=writers.write_openvino,
            load=writers.load_openvino,
        ),
    )
}
