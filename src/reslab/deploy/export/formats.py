"""The export formats: description, suffix, precisions, writer and loader of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reslab.deploy.backends.backend import DetectFn, ForwardFn
from reslab.deploy.export import detector_writers, writers
from reslab.deploy.export.writers import ExportJob


@dataclass(frozen=True)
class DetectorFormat:
    """How a format writes a detector, and loads it in its own runtime."""

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
        """Whether the format holds a graph of any network, rather than the weights of a known one."""
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
            detector=DetectorFormat(writers.write_safetensors, detector_writers.load_safetensors),
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
            detector=DetectorFormat(detector_writers.write_onnx, detector_writers.load_onnx),
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
