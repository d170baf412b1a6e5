"""One function for all commands: from what the user named (a run, a file, a name, a factory, a module) to a model."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.nn.checkpoints.pretrained import fetch_from_hub, hub_file
from reslab.nn.checkpoints.published import timm_classes, timm_preprocess
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import create_model, load_model, load_network
from reslab.nn.metadata import ModelMetadata
from reslab.nn.module_network import (
    AnyNetwork,
    GraphModel,
    Model,
    ModuleArch,
    ModuleFactory,
    ModuleNetwork,
    Network,
    as_factory,
)
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.spec.config import from_dict, to_dict
from reslab.spec.dense import DenseArch, DetectionArch, ModelKind
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import find_dense_arch
from reslab.spec.zoo.resolve import HUB_PREFIX
from reslab.training.checkpoint import find_weights_path
from reslab.training.model_forms import GRAPH_SUFFIXES, MODEL_FORMS, unknown_model
from reslab.training.module_loading import open_factory, recorded_arch, recorded_factory, wrap_module
from reslab.training.run import Run

GRAPH_FILE = "model.pt2"
_NO_CODE = "opening a file imports no code"


class GraphFallbackWarning(UserWarning):
    """A run's own module is not built, and its exported graph is used."""


def open_model(
    source: Any,
    *,
    weights: Any = None,
    allow_code: bool = False,
    random_weights: bool = False,
    input_size: tuple[int, ...] | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Return the model that `source` names, in eval mode, with its classes, preprocessing and temperature if known.

    `source` is a run or its folder, a `model.safetensors`, an exported graph (`.onnx`, `.pt2`, `.xml`, with its report
    beside it), a name of the zoo, `timm/NAME`, `torchvision/NAME`, `hf-hub:ORGANIZATION/NAME`, a factory
    (`package.module:function`, or the function), or a module. `weights` are a run, a file or a published tag, for the
    sources that have none; without them a name is an error unless `random_weights`.

    Opening a run or a file imports no code. A run of the user's own module is opened by naming its factory
    (`source`, with the run as `weights`), or with `allow_code`, which imports the factory that the run records; else
    its exported graph is used, with a GraphFallbackWarning. `input_size` (C, H, W) is that of a module whose size
    nothing tells. Raises ValueError for anything else, naming the forms.
    """
    model = _open(source, weights, allow_code=allow_code, random_weights=random_weights, input_size=input_size)
    if model is source or isinstance(model, GraphModel):
        return model  # a network in memory keeps its mode and device
    return model.to(choose_device(device)).eval()


def open_network(source: Any, **options: Any) -> Network:
    """Return what `open_any_network` returns, and raise ValueError for one of segmentation or detection."""
    network = open_any_network(source, **options)
    if isinstance(network, DenseNetwork):
        raise invalid("a network with outputs for the whole image", f"{network.arch.name} for {network.arch.kind}")
    return network


def open_any_network(source: Any, **options: Any) -> AnyNetwork:
    """Return what `open_model` returns, and raise ValueError for a graph, which has no layers to export or analyze."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphFallbackWarning)
        model = open_model(source, **options)
    if isinstance(model, GraphModel):
        raise _needs_module(source, model)
    return model


def _dense_weights_path(source: Run | str | Path) -> Path | None:
    """Return the weights of a run, an exported folder or a file, if they are of a network with a dense head."""
    run = source if isinstance(source, Run) else Run(source) if (Path(source) / "run.json").is_file() else None
    if run is not None and not isinstance(run.arch, DenseArch):
        return None
    path = find_weights_path(run or Path(str(source)))
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    kind = read_header(path).get("kind") or ModelKind.CLASSIFICATION
    return None if kind == ModelKind.CLASSIFICATION else path


def load_dense_network(path: Path) -> DenseNetwork:
    """Return the network for segmentation or detection whose weights are in a file."""
    network = load_model(path)
    assert isinstance(network, DenseNetwork), path
    return network


def load(source: Any, device: str | torch.device = "cpu", *, weights: Any = None, allow_code: bool = False) -> Model:
    """Load a model, in eval mode, with its `classes` and `preprocess`: a run, a file of weights, a name, a module.

    `load("runs/mine")`, `load("resnet50", weights="IMAGENET1K_V2")`, `load(Net(), weights="runs/mine")`; the forms are
    those of `open_model`. A run that has not ended gives its best weights so far, with a warning.
    """
    return open_model(source, weights=weights, allow_code=allow_code, device=device)


def _needs_module(source: Any, model: GraphModel) -> ValueError:
    if model.path.name != GRAPH_FILE:
        step = "name the run or the network that it was exported from"
        return invalid("a network with its layers", f"{model.path}, an exported graph", next_step=step)
    return _own_module_error(Run(model.path.parent).metadata["model"], model.path.parent)


def _open(
    source: Any, weights: Any, *, allow_code: bool, random_weights: bool, input_size: tuple[int, ...] | None
) -> Model:
    if isinstance(source, Path | Run) or (isinstance(source, str) and source not in ARCHS and Path(source).exists()):
        if weights is not None:
            raise invalid("weights for a name or a factory", f"{source}, which has its own", next_step="leave one out")
        return _open_path(source, allow_code)
    if isinstance(source, ResidualNetwork | ModuleNetwork | DenseNetwork | GraphModel) and weights is None:
        return source
    if isinstance(source, nn.Module):
        return wrap_module(source, weights, input_size)
    factory = as_factory(source)
    if factory is not None:
        return open_factory(factory, weights, random_weights, input_size)
    if not isinstance(source, str):
        raise invalid(MODEL_FORMS, f"a {type(source).__name__}")
    if source.startswith(HUB_PREFIX):
        return _open_hub(source)
    return _open_zoo(source, weights, random_weights)


def _open_zoo(name: str, weights: Any, random_weights: bool) -> ResidualNetwork | DenseNetwork:
    base, dot, tag = name.partition(".")
    is_known = name in ARCHS or find_dense_arch(name) is not None
    if not is_known and not (dot and base in ARCHS):
        raise unknown_model(name)
    if not is_known:
        if weights is not None:
            raise invalid("one kind of weights", f"{name} and {weights}", next_step="leave one of them out")
        name, weights = base, tag
    if weights is None and not random_weights:
        step = "a tag of published weights (--weights DEFAULT), a file or a run: --weights FILE"
        raise invalid(f"weights for {name}", "none", next_step=step)
    if isinstance(weights, Run) or (isinstance(weights, str | Path) and Path(weights).is_dir()):
        weights = find_weights_path(weights)
    network = create_model(name, pretrained=weights)
    assert isinstance(network, ResidualNetwork | DenseNetwork)
    return network


def _open_path(source: Run | str | Path, allow_code: bool) -> Model:
    path = source.path if isinstance(source, Run) else Path(source)
    if path.suffix in GRAPH_SUFFIXES and path.is_file():
        return open_graph(path)
    dense_path = _dense_weights_path(source) if path.exists() else None
    if dense_path is not None:
        return load_dense_network(dense_path)
    run = source if isinstance(source, Run) else Run(path) if (path / "run.json").is_file() else None
    if run is not None and run.arch is None:
        return _open_module_run(run, allow_code)
    if path.is_dir() or run is not None:
        return load_network(find_weights_path(run or path))
    if path.suffix != ".safetensors":
        step = f"name its network too: --model NAME --weights {path}"
        raise invalid("weights saved by reslab, with the network in their header", str(path), next_step=step)
    header = read_header(path)
    if header["arch"] is None and header.get("module"):
        return _open_own_module(header["module"], path, path, allow_code)
    return load_network(path)


def _open_module_run(run: Run, allow_code: bool) -> Model:
    """Open a run of a module that is not of the zoo: build it where that is allowed, else use its graph."""
    record, graph_path = run.metadata["model"], run.path / GRAPH_FILE
    factory = recorded_factory(record)
    if (factory is None or not (factory.library or allow_code)) and graph_path.is_file():
        named = f"--model {factory.reference} builds" if factory else "a factory builds"
        text = f"{run.path}: its exported graph {GRAPH_FILE} is used, as {_NO_CODE}; {named} the module"
        warnings.warn(text, GraphFallbackWarning, stacklevel=2)
        return _run_graph(run, graph_path)
    return _open_own_module(record, run.path, find_weights_path(run), allow_code)


def _open_own_module(record: Mapping[str, Any], path: Path, weights_path: Path, allow_code: bool) -> Network:
    factory = recorded_factory(record)
    if factory is None or not (factory.library or allow_code):
        raise _own_module_error(record, path)
    return open_factory(factory, weights_path, False, None)


def _own_module_error(record: Mapping[str, Any], path: Path) -> ValueError:
    factory = recorded_factory(record)
    name = factory.reference if factory else "package.module:factory"
    step = f"name it: --model {name} --weights {path}" + (", or allow it: --allow-code" if factory else "")
    required = f"the code of {record['name']}" + (f", the factory {name}" if factory else "")
    return invalid(required, f"{path} alone ({_NO_CODE})", next_step=step)


def _run_graph(run: Run, path: Path) -> GraphModel:
    record = run.metadata["model"]
    model = GraphModel(path, recorded_arch(record))
    temperature = (run.metadata.get("temperature") or {}).get("value")
    preprocess = from_dict(Preprocess, run.metadata["data"]["preprocess"])
    model.set_metadata(classes=run.classes, preprocess=preprocess, temperature=temperature, task=run.metadata["task"])
    return model


def open_graph(path: Path) -> GraphModel:
    """Return an exported graph as a model; the report beside it has classes and preprocessing.

    Raises ValueError without the report, or with one of another file.
    """
    report_path = path.with_name(f"{path.name}.report.json")
    step = "keep the report that `reslab export` wrote beside it, or export again"
    try:
        report = json.loads(report_path.read_text(encoding="utf-8"))
        channels, height, width = map(int, report["input_size"])
        arch = ModuleArch(str(report["model"]), int(report["num_classes"]), channels, (height, width))
        preprocess = from_dict(Preprocess, report["preprocess"]) if report["preprocess"] else None
        record = report.get("detector")
        detector = None if record is None else from_dict(DetectionArch, record)
        model = GraphModel(path, arch, str(report["precision"]), detector)
        model.set_metadata(
            classes=report["classes"],
            preprocess=preprocess,
            temperature=report["temperature"],
            task=report.get("task"),
        )
    except FileNotFoundError:
        raise invalid(f"the report {report_path.name} beside the graph", f"{path} alone", next_step=step) from None
    except (ValueError, KeyError, TypeError) as error:
        raise invalid(f"a complete {report_path.name}", f"{type(error).__name__}: {error}", next_step=step) from error
    return model


def _open_hub(source: str) -> Network:
    """Open `hf-hub:ORGANIZATION/NAME`: a network of the zoo if its config.json names one, else one of timm."""
    repo = source.removeprefix(HUB_PREFIX)
    fetch_from_hub(repo)  # first, so that an unreachable hub gives one error
    try:
        config = json.loads(hub_file(repo, "config.json").read_text(encoding="utf-8"))
        name = config["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        required = f"a repository with a config.json that names its architecture, as timm's have, as {source}"
        raise invalid(required, f"{type(error).__name__}: {error}") from error
    if name in ARCHS:
        network = create_model(name, num_classes=config.get("num_classes"), pretrained=source)
        assert isinstance(network, ResidualNetwork)
        return network
    import timm

    module = timm.create_model(source, pretrained=True)
    cfg = {"num_classes": config.get("num_classes"), **config.get("pretrained_cfg", {})}
    wrapped = wrap_module(module, None, None, ModuleFactory(f"timm/{name}"))
    wrapped.set_metadata(classes=timm_classes(cfg), preprocess=timm_preprocess(cfg)[0])
    return wrapped


def module_metadata(metadata: ModelMetadata) -> dict[str, Any]:
    """Return what a report records of a model: input size, classes, preprocessing, temperature, task."""
    return {
        "input_size": list(metadata.arch.input_size),
        "num_classes": metadata.arch.num_classes,
        "classes": list(metadata.classes) if metadata.classes else None,
        "preprocess": None if metadata.preprocess is None else to_dict(metadata.preprocess),
        "temperature": metadata.temperature,
        "task": metadata.task,
    }
