"""Weights under the names of others: for torchvision, for timm, and in the layout of the Hugging Face hub.

One export to be carried out.

Files of graphs, written and read again: .onnx, .pt2, .xml with .bin.

What goes with exported weights: `config.json` and a model card, in the layout of the Hugging Face hub.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models import list_models as list_torchvision

from reslab.deploy.backends import onnxruntime_backend as onnx_engine
from reslab.deploy.backends import openvino_backend as openvino_engine
from reslab.deploy.backends.backend import Answer, Wish
from reslab.deploy.export.graphs import FACTS, import_openvino, onnx_model, openvino_model, trace
from reslab.deploy.export.quantization import quantise
from reslab.nn.checkpoints.diagnose import differing_axes
from reslab.nn.checkpoints.match_keys import match_by_name
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.checkpoints.safetensors_io import load_weights, save_weights
from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_int, format_percent
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.grammar import parse_ops
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS


@dataclass(frozen=True)
class Job:
    """What is to be written: `network` (norms folded where the format gains by it), the `header` of the weights it came
    from, the `precision`, and `images` (normalised) for the scales of int8."""

    network: ResidualNetwork
    precision: str = "float32"
    header: Mapping[str, Any] = field(default_factory=dict)
    images: Tensor | None = None

    @property
    def arch(self) -> Arch:
        """The network as data."""
        return self.network.arch

    @property
    def num_threads(self) -> int:
        """Threads that what was written is tried with."""
        return torch.get_num_threads()


def graph_facts(network: ResidualNetwork) -> Mapping[str, Any]:
    """What a graph carries with it: arch, classes, preprocessing, temperature."""
    return {
        "arch": to_dict(network.arch),
        "classes": list(network.classes) if network.classes else None,
        "preprocess": to_dict(network.preprocess),
        "temperature": network.temperature,
    }


def write_onnx(job: Job, path: Path) -> None:
    """The ONNX graph; of int8 the quantised one."""
    import onnx

    model = onnx_model(job.network, graph_facts(job.network))
    if job.precision == "int8":
        assert job.images is not None
        model = quantise(model, job.images, job.network)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def open_onnx(job: Job, path: Path) -> Answer:
    """The file in ONNX Runtime."""
    return onnx_engine.run_graph(path, Wish(job.precision, num_threads=job.num_threads))


def write_torch(job: Job, path: Path) -> None:
    """The program of torch.export, with what belongs to it in the extra file `reslab.json`."""
    extra = {f"{FACTS}.json": json.dumps(graph_facts(job.network))}
    torch.export.save(trace(job.network), path, extra_files=extra)


def open_torch(job: Job, path: Path) -> Answer:
    """The file as torch.export loads it."""
    run = torch.export.load(path).module()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return run(x)

    return answer


def write_openvino(job: Job, path: Path) -> None:
    """The .xml, and beside it the .bin with the weights: in float32, or for bf16 in 16 bits."""
    model = openvino_model(job.network, graph_facts(job.network))
    import_openvino().save_model(model, str(path), compress_to_fp16=job.precision == "bf16")


def open_openvino(job: Job, path: Path) -> Answer:
    """The file in OpenVINO, computing in the precision of the export."""
    return openvino_engine.run_model(path, Wish(job.precision, num_threads=job.num_threads))


def config(network: ResidualNetwork, architecture: str) -> dict[str, Any]:
    """config.json: timm's keys (architecture, num_classes, pretrained_cfg, label_names), transformers' id2label, and
    under `reslab` the whole description."""
    names = list(network.classes or ())
    preprocess = network.preprocess
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
            "preprocess": to_dict(preprocess),
            "temperature": network.temperature,
        },
    }


def pretrained_cfg(network: ResidualNetwork, preprocess: Preprocess) -> dict[str, Any]:
    """The preprocessing as timm tells it: input_size, crop_pct, mean, std, interpolation."""
    height, width = network.arch.image_size
    sizes = {word.name: word.args[0] for word in parse_ops(preprocess.transform) if word.args}
    resized, cropped = sizes.get("resize"), sizes.get("center-crop", height)
    return {
        "input_size": [network.arch.in_channels, height, width],
        "fixed_input_size": network.needs_fixed_size,
        "num_classes": network.arch.num_classes,
        "crop_pct": int(cropped) / int(resized) if resized else 1.0,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "label_names": list(network.classes or ()) or None,
        "first_conv": "conv1",
        "classifier": "fc",
    }


def _num_features(network: ResidualNetwork) -> int | None:
    weight = network.state_dict().get("fc.weight")
    return None if weight is None else int(weight.shape[1])


def model_card(network: ResidualNetwork, header: Mapping[str, Any]) -> str:
    """README.md: what the network is, what it scored, how it is used; its first lines are what the hub reads."""
    arch = network.arch
    scores = header.get("result") or header.get("scores") or {}
    rows = [
        ("Network", f"{arch.name}: {arch.reference}"),
        ("Weighted layers", format_int(arch.depth)),
        ("Parameters", format_int(sum(parameter.numel() for parameter in network.parameters()))),
        ("Input", "x".join(str(side) for side in arch.input_size)),
        ("Classes", f"{arch.num_classes}{': ' + ', '.join(network.classes[:20]) if network.classes else ''}"),
    ]
    if network.preprocess is not None:
        words = network.preprocess.transform or "as it is"
        rows.append(("Preprocessing", f"{words}; mean {network.preprocess.mean}, std {network.preprocess.std}"))
    if scores.get("top1") is not None:
        rows.append(("Accuracy", format_percent(scores["top1"])))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    front = "---\nlibrary_name: reslab\npipeline_tag: image-classification\ntags:\n- image-classification\n---\n"
    return (
        f"{front}\n# {arch.name}\n\n| | |\n| --- | --- |\n{table}\n\n"
        "```python\nimport reslab\n\n"
        'network = reslab.load("model.safetensors")          # in eval mode, with its classes\n'
        'print(reslab.predict(network, "picture.jpg"))\n```\n'
    )


def config_text(facts: Mapping[str, Any]) -> str:
    """The text of config.json."""
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# What may differ from the zoo's network without another program's network of that name being another one.
_FREE = ("name", "reference", "num_classes", "in_channels", "image_size", "init", "last_norm_weight", "norm_momentum")
_INSTEAD = "--to onnx, torch or safetensors take any network"


def write_torchvision(job: Job, path: Path) -> None:
    """The state dict, which bears torchvision's names already."""
    _torchvision_network(job.arch)
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in job.network.state_dict().items()}, path)


def open_torchvision(job: Job, path: Path) -> Answer:
    """torchvision's own network with the file loaded strictly."""
    network = _torchvision_network(job.arch)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return _answer(network)


def write_timm(job: Job, path: Path) -> None:
    """A folder for timm: weights under timm's names, and its config.json."""
    name = namesake(job.arch, _timm_names(), "timm")
    state = _named_as(_timm_network(name, job.arch), job.network)
    _write_folder(path, config(job.network, name), model_card(job.network, job.header))
    save_file(state, path / WEIGHTS, metadata={"format": "pt"})


def open_timm(job: Job, path: Path) -> Answer:
    """The network that timm makes of the folder alone."""
    import timm

    network = timm.create_model(f"local-dir:{path}", pretrained=True)
    network.load_state_dict(load_file(path / WEIGHTS), strict=True)
    return _answer(network)


def write_safetensors(job: Job, path: Path) -> None:
    """model.safetensors with its header, config.json and README.md, the model card."""
    _write_folder(path, config(job.network, job.arch.name), model_card(job.network, job.header))
    known = ("arch", "classes", "preprocess", "aliases")
    save_weights(path / WEIGHTS, job.network, {key: job.header[key] for key in job.header if key not in known})


def open_safetensors(job: Job, path: Path) -> Answer:
    """The network that reslab makes of the weights alone."""
    return _answer(load_weights(path / WEIGHTS))


def _write_folder(path: Path, facts: Mapping[str, Any], card: str) -> None:
    path.mkdir()
    (path / CONFIG).write_text(config_text(facts), encoding="utf-8")
    (path / CARD).write_text(card, encoding="utf-8")


def namesake(arch: Arch, known: list[str], owner: str) -> str:
    """The name under which `owner` has a network that computes as this one; ValueError with the reason where none."""
    candidates = [name for name in dict.fromkeys((arch.name, *ARCHS)) if name in known and name in ARCHS]
    for name in candidates:
        if not _differing(arch, ARCHS[name]):
            return name
    if arch.name in candidates:
        axes = ", ".join(f"{axis}={getattr(arch, axis)!r}" for axis in _differing(arch, ARCHS[arch.name]))
        raise invalid(f"{arch.name} as {owner} has it", f"one with {axes}", next_step=_INSTEAD)
    raise invalid(f"a network that {owner} has", f"{arch.name}, which is ours alone", next_step=_INSTEAD)


def _differing(arch: Arch, known: Arch) -> list[str]:
    """The axes that make another network of it."""
    alike = replace(known, **{axis: getattr(arch, axis) for axis in _FREE})
    functional = differing_axes(arch, alike)
    written = ("depths", "widths", "convs", "expansion", "groups", "width_per_group", "norm", "bias", "stem_bias")
    shaped = [axis for axis in (*written, "head", "se_ratio") if getattr(arch, axis) != getattr(alike, axis)]
    dilated = [axis for axis in ("replace_stride_with_dilation",) if any(getattr(arch, axis))]
    return [*functional, *shaped, *dilated]


def _torchvision_network(arch: Arch) -> nn.Module:
    name = namesake(arch, list_torchvision(), "torchvision")
    if arch.in_channels != 3:
        raise invalid("pictures of 3 channels, as torchvision's networks read", arch.in_channels, next_step=_INSTEAD)
    return get_model(name, weights=None, num_classes=arch.num_classes)


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm_network(name: str, arch: Arch) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=arch.num_classes, in_chans=arch.in_channels)


def _named_as(theirs: nn.Module, network: ResidualNetwork) -> dict[str, Tensor]:
    """Our weights under the names of `theirs`; ValueError where one of them has no counterpart of its shape."""
    own = network.state_dict()
    wanted = theirs.state_dict()
    found = match_by_name(Checkpoint("timm", dict(wanted)), own)
    entries = {} if found is None else found.entries
    named = {entry.file_key: own[name] for name, entry in entries.items() if name in own}
    lacking = [name for name, tensor in wanted.items() if name not in named or named[name].numel() != tensor.numel()]
    if lacking or len(named) != len(own):
        raise invalid("a network whose weights timm's has one for one", f"no counterpart of {', '.join(lacking[:3])}")
    return {
        name: named[name].detach().cpu().reshape(tensor.shape).contiguous().clone() for name, tensor in wanted.items()
    }


def _answer(network: nn.Module) -> Answer:
    network.eval()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    return answer
