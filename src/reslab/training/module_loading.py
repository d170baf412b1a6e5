"""Networks of the user's own code and of libraries: built by a factory, with weights of a run, a file or a library."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.checkpoints.pretrained import fetch_from_hub, fetch_published
from reslab.nn.checkpoints.published import PublishedWeights, find_published_weights, timm_classes, timm_preprocess
from reslab.nn.checkpoints.read import Checkpoint, read_checkpoint
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.module_network import (
    ModuleArch,
    ModuleFactory,
    ModuleNetwork,
    Network,
    as_factory,
    count_outputs,
    library_input_size,
    load_module_weights,
)
from reslab.nn.network import ResidualNetwork
from reslab.spec.config import from_dict
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess
from reslab.training.checkpoint import find_weights_path
from reslab.training.run import Run


def open_factory(
    factory: ModuleFactory, weights: Any, random_weights: bool, input_size: tuple[int, ...] | None
) -> Network:
    """Return the network that a factory builds, with weights of a run, a file, or a library's published tag.

    Raises ValueError without weights, unless `random_weights`.
    """
    path = _weights_path(weights)
    if path is not None:
        factory = _with_recorded_arguments(factory, path)
        return wrap_module(factory.build(), path, input_size, factory)
    tag = weights
    if factory.library == "timm" and tag is None and "." in factory.name:
        tag = True
    if tag is not None and not factory.library:
        raise invalid("a run or a file as weights", f"{weights} (no such file)")
    if tag is None and not random_weights:
        tag_text = ", or a tag of published weights: --weights DEFAULT" if factory.library else ""
        raise invalid(f"weights for {factory.reference}", "none", next_step=f"--weights FILE or a run{tag_text}")
    if tag is None:
        return wrap_module(factory.build(), None, input_size, factory)
    module, published = build_published(factory, tag)
    network = wrap_module(module, None, input_size, factory)
    network.set_metadata(classes=published.classes, preprocess=published.preprocess)
    return network


def _weights_path(weights: Any) -> Path | None:
    """Return the file of weights given as a run or a path; None for a tag."""
    if isinstance(weights, Run):
        return find_weights_path(weights)
    if isinstance(weights, Path) or (isinstance(weights, str) and Path(weights).exists()):
        return find_weights_path(weights)
    return None


def _with_recorded_arguments(factory: ModuleFactory, path: Path) -> ModuleFactory:
    """Return the factory with the arguments that a file of reslab records for it; the user's own come first."""
    if path.suffix != ".safetensors":
        return factory
    try:
        record = (read_header(path).get("module") or {}).get("factory")
    except ValueError:
        return factory
    if not record or record["factory"].partition(".")[0] != factory.reference.partition(".")[0]:
        return factory
    return replace(factory, arguments={**record["arguments"], **factory.arguments})


def wrap_module(
    module: nn.Module, weights: Any, input_size: tuple[int, ...] | None, factory: ModuleFactory | None = None
) -> ModuleNetwork | ResidualNetwork:
    """Return a module as a network, with weights of a run or a file of reslab, or of another checkpoint."""
    if isinstance(weights, Run) or (isinstance(weights, str | Path) and Path(weights).is_dir()):
        weights = find_weights_path(weights)
    header: Mapping[str, Any] = {}
    if weights is not None:
        header = _load_weights(module, Path(weights))
    if isinstance(module, ResidualNetwork):
        return module
    record = header.get("module")
    if record:
        arch = recorded_arch(record)
    else:
        size = input_size or library_input_size(module)
        if len(size) != 3:
            raise invalid("an input of images, CxHxW, for a network that is not of the zoo", "x".join(map(str, size)))
        name = factory.name if factory else type(module).__name__
        arch = ModuleArch(name, count_outputs(module, size), size[0], (size[1], size[2]))
    network = ModuleNetwork(module, arch, factory)
    preprocess = header.get("preprocess")
    network.set_metadata(
        classes=header.get("classes"),
        preprocess=from_dict(Preprocess, preprocess) if preprocess else None,
        temperature=(header.get("temperature") or {}).get("value"),
        task=header.get("task"),
    )
    return network


def _load_weights(module: nn.Module, path: Path) -> Mapping[str, Any]:
    """Load a file into a module, strictly; return the header of a file of reslab, empty for others."""
    if not path.exists():
        raise invalid("a run, a file of weights or a tag", f"{path} (no such file)")
    checkpoint = read_checkpoint(path)
    if checkpoint.header:
        load_module_weights(module, path)
        return checkpoint.header
    load_state(module, checkpoint)
    return {}


def load_state(module: nn.Module, checkpoint: Checkpoint, new_head: bool = False) -> None:
    """Load a checkpoint of another library; with `new_head` the last linear layer keeps its own where shapes differ.

    Raises ValueError if names or shapes differ otherwise.
    """
    own, tensors = module.state_dict(), dict(checkpoint.tensors)
    if new_head:
        head = f"{last_linear_name(module)}."
        tensors = {
            key: value
            for key, value in tensors.items()
            if not (key.startswith(head) and key in own and own[key].shape != value.shape)
        }
        own = {key: value for key, value in own.items() if key in tensors or not key.startswith(head)}
    required = {key for key in own if not key.endswith("num_batches_tracked")}
    differing = sorted(
        key
        for key in required | set(tensors)
        if key not in own or key not in tensors or own[key].shape != tensors[key].shape
    )
    if differing:
        got = f"{checkpoint.name}, where {len(differing)} tensors differ, such as {differing[0]!r}"
        raise invalid(f"the weights of a {type(module).__name__}", got)
    module.load_state_dict(tensors, strict=False)


def build_published(factory: ModuleFactory, tag: Any, new_head: bool = False) -> tuple[nn.Module, PublishedWeights]:
    """Return a library's model with its published weights (a tag; True or DEFAULT: its default), and their metadata.

    With `new_head` another number of classes keeps a fresh head. Raises WeightsUnavailableError without a connection.
    """
    name = factory.name
    if factory.library == "torchvision":
        published = _torchvision_weights(name, tag)
        module = factory.build()
        load_state(module, fetch_published(published), new_head)
        return module, published
    import timm

    full_name = name if tag in (True, "DEFAULT") or "." in name else f"{name}.{tag}"
    module = replace(factory, reference=f"timm/{full_name}").build()
    cfg: Any = module.pretrained_cfg
    if not cfg.get("hf_hub_id"):
        raise invalid(f"a timm model with weights on the Hugging Face hub for {name}", f"the tag {cfg.get('tag')!r}")
    fetch_from_hub(cfg["hf_hub_id"])  # from the cache, else checked and downloaded; says what to do offline
    module = timm.create_model(full_name, pretrained=True, **factory.arguments)
    preprocess, messages = timm_preprocess(cfg)
    published = PublishedWeights(name, str(cfg.get("tag", "")), repo=cfg["hf_hub_id"], preprocess=preprocess)
    return module, replace(published, classes=timm_classes(cfg), messages=messages)


def _torchvision_weights(name: str, tag: Any) -> PublishedWeights:
    from torchvision.models import get_model_weights

    members = get_model_weights(name)
    if tag not in (True, "DEFAULT") and str(tag) not in members.__members__:
        raise unknown_name(f"weights of torchvision/{name}", str(tag), members.__members__, "or give a file")
    return find_published_weights(name, members["DEFAULT"].name if tag in (True, "DEFAULT") else str(tag))


def recorded_factory(record: Mapping[str, Any]) -> ModuleFactory | None:
    """Return the factory in what a run or a file records of its network; None if it has none."""
    fields = record.get("factory")
    if fields is None:
        return None
    reference, arguments = (fields.get(key) if isinstance(fields, dict) else None for key in ("factory", "arguments"))
    factory = as_factory(reference) if isinstance(reference, str) and isinstance(arguments, dict) else None
    if factory is None:
        raise invalid("a factory package.module:function with arguments in the record of a network", fields)
    return factory.with_arguments(arguments or {})


def recorded_arch(record: Mapping[str, Any]) -> ModuleArch:
    """Return the input and the outputs of a module that is not of the zoo, as a run or a file records them."""
    channels, height, width = record["input_size"]
    return ModuleArch(record["name"], record["num_classes"], channels, (height, width), record.get("reference", ""))
