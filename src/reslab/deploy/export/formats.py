"""The export formats: description, suffix, precisions, writer and loader of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reslab.deploy.backends.backend import ForwardFn
from reslab.deploy.export import writers as graph_files
from reslab.deploy.export import writers as weight_files
from reslab.deploy.export.writers import ExportJob


@dataclass(frozen=True)
class ExportFormat:
    """An export format: `suffix` of the file (empty for a folder), required `extra`, whether batch norms are folded.

    `write(job, path)` writes the file; `load(job, path)` loads it in the format's own runtime, as its users will.
    """

    name: str
    description: str
    suffix: str
    extra: str
    fold_bn: bool
    precisions: tuple[str, ...]
    write: Callable[[ExportJob, Path], None]
    load: Callable[[ExportJob, Path], ForwardFn]


EXPORT_FORMATS: dict[str, ExportFormat] = {
    export_format.name: export_format
    for export_format in (
        ExportFormat(
            "torchvision",
            "a state dict that torchvision's network loads with strict=True",
            ".pth",
            "",
            False,
            ("float32",),
            weight_files.write_torchvision,
            weight_files.load_torchvision,
        ),
        ExportFormat(
            "timm",
            "a folder that timm.create_model('local-dir:FOLDER', pretrained=True) loads",
            "",
            "timm",
            False,
            ("float32",),
            weight_files.write_timm,
            weight_files.load_timm,
        ),
        ExportFormat(
            "safetensors",
            "a folder in the layout of the Hugging Face hub: weights, config.json, model card; reslab loads it",
            "",
            "",
            False,
            ("float32",),
            weight_files.write_safetensors,
            weight_files.load_safetensors,
        ),
        ExportFormat(
            "onnx",
            "an ONNX graph with any batch size; int8 in QDQ format",
            ".onnx",
            "onnx",
            True,
            ("float32", "int8"),
            graph_files.write_onnx,
            graph_files.load_onnx,
        ),
        ExportFormat(
            "torch",
            "a torch.export program with any batch size, runs without reslab",
            ".pt2",
            "",
            True,
            ("float32",),
            graph_files.write_torch,
            graph_files.load_torch,
        ),
        ExportFormat(
            "openvino",
            "OpenVINO's .xml and .bin with any batch size; bf16 stores 16-bit weights",
            ".xml",
            "openvino",
            True,
            ("float32", "bf16"),
            graph_files.write_openvino,
            graph_files.load_openvino,
        ),
    )
}
