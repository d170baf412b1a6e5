"""The writers and loaders of the export formats: graph files, torchvision's and timm's weights, the hub's layout."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models import list_models as list_torchvision

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.backends.graph_backends import onnx_forward, openvino_forward
from reslab.deploy.export.graphs import METADATA_KEY, import_openvino, network_program, to_onnx, to_openvino
from reslab.deploy.export.quantization import quantize
from reslab.nn.checkpoints.diagnose import differing_axes
from reslab.nn.checkpoints.match_keys import match_by_name
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.checkpoints.safetensors_io import write_safetensors as save_safetensors
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import load_model
from reslab.nn.graph_file import load_program
from reslab.nn.module_network import AnyNetwork, ModuleNetwork
from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_int, format_metric
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.plugins import required_plugins
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task
from reslab.spec.transform_grammar import bind_args, parse_transforms
from reslab.spec.zoo import ARCHS


@dataclass(frozen=True)
class ExportJob:
    """An export to write: the `network` (batch norms folded if the format does so), the `header` of its weights, the
    `precision`, and normalized `calibration_images` for int8."""

    network: AnyNetwork
    precision: str = "float32"
    header: Mapping[str, Any] = field(default_factory=dict)
    calibration_images: Tensor | None = None

    @property
    def zoo_network(self) -> ResidualNetwork:
        """The network, which is one of the zoo in the formats of weights."""
        assert isinstance(self.network, ResidualNetwork)  # checked by `export`
        return self.network

    @property
    def own_network(self) -> ResidualNetwork | DenseNetwork:
        """The network, which is one of reslab in the format of its own weights."""
        assert isinstance(self.network, ResidualNetwork | DenseNetwork)  # checked by `export`
        return self.network

    @property
    def arch(self) -> Arch:
        """The arch of a network of the zoo."""
        return self.zoo_network.arch

    @property
    def num_threads(self) -> int:
        """The number of threads for the verification."""
        return torch.get_num_threads()


def graph_metadata(network: AnyNetwork) -> Mapping[str, Any]:
    """Return the metadata of a graph: arch, plugins of its parts, classes, preprocessing, temperature, task."""
    arch = None if isinstance(network, ModuleNetwork) else to_dict(network.arch)
    return {
        "arch": arch,
        "plugins": required_plugins(arch),
        "classes": list(network.classes) if network.classes else None,
        "preprocess": None if network.preprocess is None else to_dict(network.preprocess),
        "temperature": network.temperature,
        "task": network.task,
    }


def write_onnx(job: ExportJob, path: Path) -> None:
    """Write the ONNX graph, quantized for int8."""
    import onnx

    model = to_onnx(job.network, graph_metadata(job.network))
    if job.precision == "int8":
        assert job.calibration_images is not None
        model = quantize(model, job.calibration_images, job.network)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def load_onnx(job: ExportJob, path: Path) -> ForwardFn:
    """Load the file in ONNX Runtime."""
    return onnx_forward(path, BackendOptions(job.precision, num_threads=job.num_threads))


def write_torch(job: ExportJob, path: Path) -> None:
    """Write the torch.export program, with the metadata in the extra file `reslab.json`."""
    extra_files = {f"{METADATA_KEY}.json": json.dumps(graph_metadata(job.network))}
    buffer = io.BytesIO()
    torch.export.save(network_program(job.network), buffer, extra_files=extra_files)
    # By Python: torch's own writer of files ends the process when the disk is full.
    path.write_bytes(buffer.getbuffer())


def load_torch(job: ExportJob, path: Path) -> ForwardFn:
    """Load the file with torch.export."""
    return load_program(path)


def write_openvino(job: ExportJob, path: Path) -> None:
    """Write the .xml and the .bin with the weights, in float32 or, for bf16, in 16 bits."""
    model = to_openvino(job.network, graph_metadata(job.network))
    import_openvino().save_model(model, str(path), compress_to_fp16=job.precision == "bf16")


def load_openvino(job: ExportJob, path: Path) -> ForwardFn:
    """Load the file in OpenVINO, which computes in the precision of the export."""
    return openvino_forward(path, BackendOptions(job.precision, num_threads=job.num_threads))


def hub_config(network: ResidualNetwork | DenseNetwork, architecture: str) -> dict[str, Any]:
    """Return config.json: timm's keys (architecture, num_classes, pretrained_cfg, label_names), transformers' id2label,
    and reslab's own description under `reslab`."""
    names = list(network.classes or ())
    preprocess = network.preprocess
    kind = {"kind": str(network.arch.kind)} if isinstance(network.arch, DenseArch) else {}
    return {
        "architecture": architecture,
        "num_classes": network.arch.num_classes,
        "num_features": _num_features(network),
        "label_names": names,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "pretrained_cfg": pretrained_cfg(network, preprocess) if preprocess else {},
        "reslab": {
            "arch": to_dict(network.arch),
            **kind,
            "preprocess": to_dict(preprocess),
            "temperature": network.temperature,
            "task": network.task,
        },
    }


def pretrained_cfg(network: ResidualNetwork | DenseNetwork, preprocess: Preprocess) -> dict[str, Any]:
    """Return the preprocessing in timm's format: input_size, crop_pct, mean, std, interpolation.

    Of a network for segmentation or detection, input_size is the size it is described for: it takes any.
    """
    height, width = network.arch.image_size
    values = {call.name: bind_args(call) for call in parse_transforms(preprocess.transform)}
    resize_size, squash_width, interpolation = values.get("resize", (0, 0, "bilinear"))
    (crop_size,) = values.get("center-crop", (height,))
    return {
        "input_size": [network.arch.in_channels, height, width],
        "fixed_input_size": isinstance(network, ResidualNetwork) and network.needs_fixed_size,
        "num_classes": network.arch.num_classes,
        "crop_pct": int(crop_size) / int(resize_size) if resize_size else 1.0,
        "crop_mode": "squash" if squash_width else "center",
        "interpolation": interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "label_names": list(network.classes or ()) or None,
        **({"first_conv": "conv1", "classifier": "fc"} if isinstance(network, ResidualNetwork) else {}),
    }


def _num_features(network: ResidualNetwork | DenseNetwork) -> int | None:
    weight = network.state_dict().get("fc.weight")
    return None if weight is None else int(weight.shape[1])


HUB_TAGS = {
    TargetKind.CLASS: "image-classification",
    TargetKind.MULTI_HOT: "image-classification",
    TargetKind.MASK: "image-segmentation",
    TargetKind.BOXES: "object-detection",
}
"""The names of the tasks on the Hugging Face hub; it has none for numbers."""


def model_card(network: ResidualNetwork | DenseNetwork, header: Mapping[str, Any]) -> str:
    """Return README.md: the network, its task, its metric and its use; the front matter is read by the hub."""
    arch = network.arch
    metrics = header.get("result") or header.get("metrics") or {}
    rows = [
        ("Network", f"{arch.name}: {arch.reference}"),
        ("Weighted layers", format_int(arch.depth) + " in the backbone" * isinstance(arch, DenseArch)),
        ("Parameters", format_int(sum(parameter.numel() for parameter in network.parameters()))),
        ("Input", "x".join(str(size) for size in arch.input_size)),
        ("Classes", f"{arch.num_classes}{': ' + ', '.join(network.classes[:20]) if network.classes else ''}"),
    ]
    if network.preprocess is not None:
        transform = network.preprocess.transform or "none"
        values = f"mean {network.preprocess.mean}, std {network.preprocess.std}"
        rows.append(("Preprocessing", f"{transform}; {network.preprocess.channel_order}; {values}"))
    task = find_task((network.task or {}).get("name", DEFAULT_TASK))
    rows.append(("Task", f"{task.name}: {task.reference}"))
    if metrics.get(task.selection_metric.name) is not None:
        metric = task.selection_metric
        rows.append((metric.title[:1].upper() + metric.title[1:], format_metric(metric, metrics[metric.name])))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    tag = HUB_TAGS.get(task.target, "image-feature-extraction")
    front_matter = f"---\nlibrary_name: reslab\npipeline_tag: {tag}\ntags:\n- {tag}\n---\n"
    return (
        f"{front_matter}\n# {arch.name}\n\n| | |\n| --- | --- |\n{table}\n\n"
        "```python\nimport reslab\n\n"
        'network = reslab.load("model.safetensors")          # in eval mode, with its classes\n'
        'print(reslab.predict(network, "image.jpg"))\n```\n'
    )


def format_hub_config(config: Mapping[str, Any]) -> str:
    """Return the text of config.json."""
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


WEIGHTS_FILE, CONFIG_FILE, MODEL_CARD_FILE = "model.safetensors", "config.json", "README.md"
# Axes that do not decide whether another library's network of this name is equivalent.
_IGNORED_AXES = (
    "name",
    "reference",
    "num_classes",
    "in_channels",
    "image_size",
    "init",
    "last_norm_weight",
    "norm_momentum",
)
_OTHER_FORMATS_STEP = "--to onnx, torch or safetensors take any network"


def write_torchvision(job: ExportJob, path: Path) -> None:
    """Write the state dict, whose keys are torchvision's already."""
    _torchvision_network(job.arch)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in job.network.state_dict().items()}, buffer)
    path.write_bytes(buffer.getbuffer())  # as in `write_torch`


def load_torchvision(job: ExportJob, path: Path) -> ForwardFn:
    """Load the file into torchvision's own network, strictly."""
    network = _torchvision_network(job.arch)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return _make_forward(network)


def write_timm(job: ExportJob, path: Path) -> None:
    """Write a folder for timm: weights with timm's keys, and config.json."""
    name = find_equivalent_name(job.arch, _timm_model_names(), "timm")
    state_dict = _renamed_state_dict(_timm_network(name, job.arch), job.zoo_network)
    _write_folder(path, hub_config(job.zoo_network, name), model_card(job.zoo_network, job.header))
    save_safetensors(path / WEIGHTS_FILE, state_dict, {"format": "pt"})


def load_timm(job: ExportJob, path: Path) -> ForwardFn:
    """Load the folder with timm."""
    import timm

    network = timm.create_model(f"local-dir:{path}", pretrained=True)
    network.load_state_dict(load_file(path / WEIGHTS_FILE), strict=True)
    return _make_forward(network)


def write_safetensors(job: ExportJob, path: Path) -> None:
    """Write model.safetensors with its header, config.json and the model card README.md."""
    network = job.own_network
    _write_folder(path, hub_config(network, network.arch.name), model_card(network, job.header))
    reserved_keys = ("arch", "classes", "preprocess", "aliases")
    save_weights(path / WEIGHTS_FILE, network, {key: job.header[key] for key in job.header if key not in reserved_keys})


def load_safetensors(job: ExportJob, path: Path) -> ForwardFn:
    """Load the weights with reslab."""
    return _make_forward(load_model(path / WEIGHTS_FILE))


def _write_folder(path: Path, config: Mapping[str, Any], card: str) -> None:
    path.mkdir()
    (path / CONFIG_FILE).write_text(format_hub_config(config), encoding="utf-8")
    (path / MODEL_CARD_FILE).write_text(card, encoding="utf-8")


def find_equivalent_name(arch: Arch, known_names: list[str], library: str) -> str:
    """Return the name of the library's equivalent network; ValueError with the reason if there is none."""
    candidates = [name for name in dict.fromkeys((arch.name, *ARCHS)) if name in known_names and name in ARCHS]
    candidates = [name for name in candidates if ARCHS[name].dims == arch.dims]
    for name in candidates:
        if not _architecture_differences(arch, ARCHS[name]):
            return name
    if arch.name in candidates:
        axes = ", ".join(
            f"{axis}={getattr(arch, axis)!r}" for axis in _architecture_differences(arch, ARCHS[arch.name])
        )
        raise invalid(f"{arch.name} as {library} has it", f"one with {axes}", next_step=_OTHER_FORMATS_STEP)
    raise invalid(f"a network that {library} has", f"{arch.name}, which it lacks", next_step=_OTHER_FORMATS_STEP)


def _architecture_differences(arch: Arch, reference: Arch) -> list[str]:
    """Return the axes in which the two networks differ."""
    relaxed = replace(reference, **{axis: getattr(arch, axis) for axis in _IGNORED_AXES})
    functional_axes = differing_axes(arch, relaxed)
    size_axes = ("depths", "widths", "convs", "expansion", "groups", "width_per_group", "norm", "bias", "stem_bias")
    changed_size_axes = [
        axis for axis in (*size_axes, "head", "se_ratio") if getattr(arch, axis) != getattr(relaxed, axis)
    ]
    dilation_axes = [axis for axis in ("replace_stride_with_dilation",) if any(getattr(arch, axis))]
    return [*functional_axes, *changed_size_axes, *dilation_axes]


def _torchvision_network(arch: Arch) -> nn.Module:
    name = find_equivalent_name(arch, list_torchvision(), "torchvision")
    if arch.in_channels != 3:
        raise invalid("3 input channels, as in torchvision's networks", arch.in_channels, next_step=_OTHER_FORMATS_STEP)
    return get_model(name, weights=None, num_classes=arch.num_classes)


def _timm_model_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm_network(name: str, arch: Arch) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=arch.num_classes, in_chans=arch.in_channels)


def _renamed_state_dict(target_model: nn.Module, network: ResidualNetwork) -> dict[str, Tensor]:
    """Return the weights with the target model's keys; ValueError if one has no counterpart of its shape."""
    state_dict = network.state_dict()
    target_state = target_model.state_dict()
    matching = match_by_name(Checkpoint("timm", dict(target_state)), state_dict)
    entries = {} if matching is None else matching.entries
    renamed = {entry.file_key: state_dict[name] for name, entry in entries.items() if name in state_dict}
    missing = [
        name for name, tensor in target_state.items() if name not in renamed or renamed[name].numel() != tensor.numel()
    ]
    if missing or len(renamed) != len(state_dict):
        raise invalid("a network whose weights match timm's one to one", f"no counterpart of {', '.join(missing[:3])}")
    return {
        name: renamed[name].detach().cpu().reshape(tensor.shape).contiguous().clone()
        for name, tensor in target_state.items()
    }


def _make_forward(network: nn.Module) -> ForwardFn:
    network.eval()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    return forward
