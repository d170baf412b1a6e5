"""Open what the user names (a run, a step of it, a weights file, a model of the zoo or a library) for analysis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.inputs import AnalysisInputs, ImageOptions, labels_to, load_inputs
from reslab.analysis.target import AnalysisTarget
from reslab.data.rng import step_seed, temporary_seed
from reslab.data.targets import TARGET_RULES
from reslab.nn.checkpoints.safetensors_io import unwrap_model
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.module_network import AnyNetwork, ModuleFactory, ModuleNetwork, as_factory
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.spec.arch import Arch
from reslab.spec.config import is_toml
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid, nearest, unknown_name
from reslab.spec.zoo.dense import find_dense_arch, model_names, override_dense_arch
from reslab.spec.zoo.resolve import find_model_name, resolve_arch
from reslab.training.model_forms import MODEL_FORMS
from reslab.training.model_source import open_any_network, open_network
from reslab.training.module_loading import recorded_factory
from reslab.training.run import Run, list_runs
from reslab.training.tasks.task_type import TaskType

# He et al. 2016, Fig. 4 (a) to (e).
HE2016_ORDERS = ("original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact")

_SAVE_SNAPSHOTS_HINT = "train with --save-every '1 epoch'"


@dataclass(frozen=True)
class TargetSpec:
    """One model to open, as `parse_target` understood it.

    It is a zoo model (`arch_name` with `arch_overrides`), a `weights_file` (of a `run`, or alone), a `run` (with `step`
    0 and no file: its initial weights), or a network that a `factory` builds, with those of `pretrained` (a run, a file
    or a tag) or random weights. For a run of the user's own module the factory is the one that was named again.
    """

    name: str
    arch_name: str = ""
    arch_overrides: Mapping[str, Any] = field(default_factory=dict)
    weights_file: Path | None = None
    run: Run | None = None
    step: int | None = None
    factory: ModuleFactory | None = None
    pretrained: str | None = None
    allow_code: bool = False


def open_targets(
    names: Sequence[str],
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    num_images: int | None = None,
    seed: int = 0,
    weights: str = "final",
    arch_overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    model: str | None = None,
    allow_code: bool = False,
) -> list[AnalysisTarget]:
    """Open the models that `names` name; they get the same images where they share dataset and size.

    A name is a run's folder, `RUN@STEP` (a snapshot), a weights file such as `model.safetensors`, a zoo model with
    fresh weights from `seed` and optional overrides after colons (`resnet20_cifar:order=full-preact:merge=none`;
    `order=*` opens each of the five orders of He et al. 2016, Fig. 4), or `torchvision/NAME`, `timm/NAME` or
    `package.module:factory`, also with fresh weights. `weights` selects the weights of runs: `final`, `init`, `all`
    snapshots, or a step; of a name it is a run, a file or a tag. `arch_overrides` apply to zoo models. A run of the
    user's own module needs its factory as `model`, or `allow_code`, which imports the one that it records.

    Images come from the run's held-out split, else from the bundled digits, brought to the network's size and channels;
    `data` names another dataset, and `random` draws normal noise. `num_images` defaults to 128, and to 16 for images
    above 64x64. Raises ValueError for an unknown name, step or override (with the nearest), and for images that do not
    fit the model.
    """
    if not names:
        raise invalid("at least one run or network", "none", next_step="`reslab models` and `reslab runs` list them")
    if num_images is not None and num_images < 2:
        raise invalid("at least 2 images (one has no batch statistics)", num_images, nearest="2")
    specs = [spec for name in names for spec in parse_target(name, weights, arch_overrides or {})]
    named = None if model is None else as_factory(model)
    if model is not None and named is None:
        raise invalid("a factory of the runs as model, package.module:function", model)
    specs = [replace(spec, factory=spec.factory or named, allow_code=allow_code) for spec in specs]
    options = ImageOptions(data, data_dir, num_images, seed)
    return [_open_target(spec, options, choose_device(device)) for spec in specs]


def target_from_module(
    model: nn.Module, images: Tensor, labels: Any, name: str = "", task: TaskType | None = None
) -> AnalysisTarget:
    """Return any module as a target: `images` float (N, C, H, W) as it takes them, `labels` int64 (N,), N at least 1.

    With a `task`, such as `Segmentation(("sky", "tree"))`, `labels` are N targets of that task. Wrappers of
    torch.compile and DistributedDataParallel are removed. The module is put into eval mode and is not
    changed otherwise. Raises ValueError for other shapes and types.
    """
    if task is not None:
        if images.ndim != 4 or not len(images) or len(labels) != len(images):
            required = "images (N, C, H, W) and N targets, N at least 1"
            raise invalid(required, f"{tuple(images.shape)} and {len(labels)} targets")
        model = unwrap_model(model)
        return AnalysisTarget(name or type(model).__name__, model.eval(), images, labels, task)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
        got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise invalid("images (N, C, H, W) and labels (N,), N at least 1", got)
    if not images.is_floating_point() or labels.dtype != torch.int64:
        got = f"{images.dtype} and {labels.dtype}"
        raise invalid(
            "images in floating point and labels in torch.int64", got, next_step="images.float(), labels.long()"
        )
    model = unwrap_model(model)
    return AnalysisTarget(name or type(model).__name__, model.eval(), images, labels)


def parse_target(
    text: str, weights: str = "final", arch_overrides: Mapping[str, Any] | None = None
) -> list[TargetSpec]:
    """Return the models that `text` names: one, or several for `order=*` and `weights="all"`.

    Raises ValueError for a name that is no run, file or model, and for a step that has no snapshot.
    """
    name, *axis_settings = text.split(":")
    is_name = "/" not in name and not Path(name).exists()
    model_name = find_model_name(name) if is_name else None
    dense_arch = find_dense_arch(name) if is_name else None
    if is_toml(name) or model_name is not None or dense_arch is not None:
        pretrained, arch_name = _parse_weights(text, weights), model_name.arch if model_name else name
        return [
            replace(spec, pretrained=pretrained)
            for spec in _zoo_targets(text, arch_name, axis_settings, arch_overrides or {})
        ]
    factory = as_factory(text)
    if factory is not None:
        pretrained = _parse_weights(text, weights)
        if factory.library:
            _check_no_overrides(text, arch_overrides)
        return [TargetSpec(text, factory=factory.with_arguments(arch_overrides or {}), pretrained=pretrained)]
    base, separator, step = text.rpartition("@")
    path = Path(base) if separator and not Path(text).exists() else Path(text)
    if not path.exists():
        candidates = [*model_names(), *(str(run.path) for run in list_runs())]
        step = f"accepted: {MODEL_FORMS}; `reslab models` and `reslab runs` list names"
        raise unknown_name("run, weights file or model", name, candidates, step)
    _check_no_overrides(text, arch_overrides)
    if path.is_dir():
        return _run_targets(Run(path), str(path), step if path != Path(text) else weights)
    parent_run = Run(path.parent) if (path.parent / "run.json").is_file() else None
    return [TargetSpec(text, weights_file=path, run=parent_run)]


def _parse_weights(text: str, weights: str) -> str | None:
    """Return the run, file or tag that the weights of a name come from; None for random ones."""
    if weights == "all" or weights.isdigit():
        got = f"--weights {weights} and {text}, which is not trained"
        raise invalid("--weights STEP and --weights all only with runs", got, "--weights init")
    return None if weights in ("final", "init") else weights


def _check_no_overrides(text: str, arch_overrides: Mapping[str, Any] | None) -> None:
    if arch_overrides:
        raise invalid("model.KEY only for models of the zoo", f"{', '.join(arch_overrides)} and {text}")


def _zoo_targets(text: str, name: str, axis_settings: list[str], arch_overrides: Mapping[str, Any]) -> list[TargetSpec]:
    overrides = dict(arch_overrides)
    for setting in axis_settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise invalid("NAME:KEY=VALUE", text, f"{name}:merge=none")
        overrides[key] = value
    if overrides.get("order") != "*":
        return [TargetSpec(text, name, overrides)]
    return [
        TargetSpec(text.replace("order=*", f"order={order}"), name, {**overrides, "order": order})
        for order in HE2016_ORDERS
    ]


def _run_targets(run: Run, name: str, weights: str) -> list[TargetSpec]:
    """Return a run with its selected weights, its initial weights, one snapshot, or each of them."""
    if weights == "final":
        return [TargetSpec(name, run=run)]
    snapshots = dict(run.snapshots())
    if weights == "all":
        if not snapshots:
            raise invalid("a run with snapshots", str(run.path), next_step=_SAVE_SNAPSHOTS_HINT)
        return [TargetSpec(f"{name}@{step}", weights_file=file, run=run, step=step) for step, file in snapshots.items()]
    step = _parse_step(weights, run)
    if step and step not in snapshots:
        raise _unknown_step(run, step, list(snapshots))
    return [TargetSpec(f"{name}@{step}", weights_file=snapshots.get(step), run=run, step=step)]


def _unknown_step(run: Run, step: int, known_steps: list[int]) -> ValueError:
    required = f"a step with a snapshot in {run.path}"
    if not known_steps:
        return invalid(required, f"{step}, and the run has no snapshot", next_step=_SAVE_SNAPSHOTS_HINT)
    nearest_step = min(known_steps, key=lambda known: abs(known - step))
    return invalid(required, f"{step}, not one of {len(known_steps)} snapshots", f"@{nearest_step}")


def _parse_step(weights: str, run: Run) -> int:
    if weights == "init":
        return 0
    if weights.isdigit():
        return int(weights)
    suggestion = (nearest(weights, ("final", "init", "all")) or ["init"])[0]
    hint = f"`reslab analyze NAME {run.path} --weights {suggestion}`"
    raise invalid("final, init, all or a step", repr(weights), suggestion, hint)


def _open_target(spec: TargetSpec, options: ImageOptions, device: torch.device) -> AnalysisTarget:
    if spec.arch_name:
        return _open_zoo_target(spec, options, device)
    if spec.factory is not None and spec.run is None and spec.weights_file is None:
        return _open_third_party_target(spec, options, device)
    network = _load_network(spec)
    if options.data is None and spec.run is None:
        raise invalid(f"images for {spec.name}", "none", next_step="--data NAME, a folder, or random")
    inputs = load_inputs(network.arch, options, run=spec.run, trained_model=network)
    return _make_target(spec, network, inputs, device)


def _open_zoo_target(spec: TargetSpec, options: ImageOptions, device: torch.device) -> AnalysisTarget:
    """Open a zoo model with fresh weights; its head grows where the data has more classes.

    Where each column of the labels is an output of its own, it has exactly these.
    """
    if spec.pretrained is not None:
        if spec.arch_overrides:
            raise invalid("a model as it is with --weights", f"{spec.name} and {spec.pretrained}")
        network = open_any_network(spec.arch_name, weights=spec.pretrained)
        return _make_target(spec, network, load_inputs(network.arch, options, trained_model=network), device)
    arch = _find_arch(spec.arch_name, spec.arch_overrides)
    inputs = load_inputs(arch, options)
    if isinstance(arch, DenseArch):
        arch = override_dense_arch(arch, {"num_classes": len(inputs.classes) + arch.num_background})
    elif len(inputs.classes) > arch.num_classes or TARGET_RULES[inputs.task.spec.target].exact_outputs:
        arch = resolve_arch(arch, {"num_classes": len(inputs.classes)})
    return _make_target(spec, init_network(arch, options.seed), inputs, device)


def _find_arch(name: str, overrides: Mapping[str, Any]) -> Arch | DenseArch:
    dense_arch = find_dense_arch(name)
    return resolve_arch(name, overrides) if dense_arch is None else override_dense_arch(dense_arch, overrides)


def _open_third_party_target(spec: TargetSpec, options: ImageOptions, device: torch.device) -> AnalysisTarget:
    """Open a network that a factory builds, with given or fresh weights, and images of its own size."""
    with temporary_seed(step_seed(options.seed, -1)):
        network = open_network(spec.factory, weights=spec.pretrained, random_weights=True)
    trained = network if spec.pretrained is not None else None
    return _make_target(spec, network, load_inputs(network.arch, options, trained_model=trained), device)


def init_network(arch: Arch | DenseArch, seed: int) -> AnyNetwork:
    """Return the network with the initial weights of a run with this seed."""
    with temporary_seed(step_seed(seed, -1)):
        return build_dense_network(arch) if isinstance(arch, DenseArch) else ResidualNetwork(arch)


def _load_network(spec: TargetSpec) -> AnyNetwork:
    record = None if spec.run is None or spec.run.arch is not None else spec.run.metadata["model"]
    factory = spec.factory
    if record is not None and spec.allow_code and factory is None:
        factory = recorded_factory(record)
    source = spec.weights_file or spec.run
    assert source is not None
    if record is not None and factory is not None and spec.step != 0:
        return open_network(factory, weights=source, input_size=tuple(record["input_size"]))
    if spec.weights_file is not None or spec.step is None:
        return open_any_network(source, allow_code=spec.allow_code)
    assert spec.run is not None
    # The run kept no snapshot of its initial weights, but its seed draws them again.
    assert spec.step == 0
    arch, pretrained = spec.run.arch, spec.run.metadata["pretrained"]
    if arch is None or pretrained:
        got = f"{spec.run.path}, which started from {pretrained or 'a third-party module'}"
        raise invalid("a run that started from fresh weights or saved them", got, next_step="train with --save-every")
    return init_network(arch, int(spec.run.metadata["seed"]))


def _make_target(spec: TargetSpec, network: nn.Module, inputs: AnalysisInputs, device: torch.device) -> AnalysisTarget:
    return AnalysisTarget(
        name=spec.name,
        model=(network.module if isinstance(network, ModuleNetwork) else network).to(device).float().eval(),
        images=inputs.images.to(device),
        labels=labels_to(inputs.labels, device),
        task=inputs.task,
        data=inputs.data,
        run=spec.run,
        step=spec.step,
    )


def describe_target(target: AnalysisTarget) -> dict[str, str]:
    """Return what a page says about a target: its `model` and its `images`."""
    arch = getattr(target.model, "arch", None)
    backbone = getattr(arch, "backbone", arch)
    layout = f", order {backbone.order}, merge {backbone.merge}" if backbone is not None else ""
    model_text = f"{arch.name}{layout}" if arch else type(target.model).__name__
    shape = "x".join(str(side) for side in target.images.shape[1:])
    data_name = target.data.name if target.data else "random noise"
    return {"model": model_text, "images": f"{len(target.images)} of {data_name}, {shape}"}
