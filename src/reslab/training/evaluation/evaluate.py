"""`evaluate`: runs, weights, checkpoints of others and modules, judged on any split.

How the network of a run is judged on its data, by all ranks together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.nn.factory import create_model, load_network
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device, choose_num_threads, limit_threads
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group, rank_device
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.loop import Evaluation, average_evaluations, evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.loop import LossFn
from reslab.training.options import TrainOptions, split_overrides, warn_about_stem
from reslab.training.run import Run, run_weights_path
from reslab.training.run_data import choose_num_workers, infer_input_size, open_train_data, reopen_data
from reslab.training.setup import resolve_arch_for_data

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluator:
    """The network as it stands, on a split of the data; its running statistics are rank 0's, as they are saved."""

    model: nn.Module
    data: DatasetSplits
    loss: LossFn
    workers: int
    device: torch.device
    process_group: ProcessGroup = SINGLE_PROCESS

    @property
    def monitor_split(self) -> str:
        """The split looked at while training: validation where there is one."""
        return "val" if "val" in self.data.splits else self.data.eval_split

    def evaluate(self, split: str, keep_probabilities: bool = False) -> Evaluation:
        """Every sample of the split once, dealt out to the ranks."""
        self.process_group.broadcast_buffers(self.model)
        dataset, process_group = self.data.split(split), self.process_group
        rank_options = {"rank": process_group.rank, "world_size": process_group.world_size}
        loader = eval_loader(dataset, EVAL_BATCH_SIZE, self.data.preprocess, self.device, self.workers, **rank_options)
        return evaluate_batches(
            self.model, loader, self.data.num_classes, self.loss, split, keep_probabilities, process_group
        )


ModelLike = Run | str | Path | Arch | nn.Module


def evaluate(
    model: ModelLike | Sequence[ModelLike],
    data: Any = None,
    *,
    split: str | None = None,
    pretrained: Pretrained | None = None,
    overrides: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    eval_transform: str | None = None,
    tta: str = "",
    loss: LossFn | None = None,
    module: nn.Module | None = None,
    batch_size: int | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    skip_bad_images: bool = False,
    device: str | torch.device = "auto",
    workers: int | None = None,
    keep_probabilities: bool = False,
    distributed: bool = False,
) -> Evaluation:
    """Judge `model` on a split of `data` in float32: every sample once, exact counts.

    `model` is a run or its folder (its own data and recorded split are the default), a `model.safetensors`, the name of
    a network with `pretrained`, any module, or several of these: then their probabilities are averaged. `split` is the
    held-out one where None. `settings` override the network (`"model.match"`), `mean` and `std` the normalisation,
    `words` how a picture comes to its size (`"resize(256) center-crop(256)"`). Of several `views` of each picture
    (`"ten-crop(224)"`, `"scales(224,256) flip"`) the probabilities are averaged. `keep_probabilities` keeps them, as
    `save_answers` and `calibrate` want them. A run that trained a module of the user's own takes it as `module`. With
    `share` the ranks that torchrun started, who all call this, judge a part each and all get the scores of the whole.
    Raises ValueError where classes or channels do not fit, naming both.
    """
    if isinstance(model, list | tuple):
        options = {
            name: value for name, value in locals().items() if name not in ("model", "data", "keep_probabilities")
        }
        return _evaluate_ensemble(model, data, options)
    assert not isinstance(model, Sequence) or isinstance(model, str)
    target = _open_run(model)
    dataset = _resolve_data(target, data, data_dir, val_fraction, skip_bad_images)
    network = _resolve_model(target, dataset, overrides, pretrained, module)
    dataset = _resolve_preprocess(target, network, dataset, mean, std, eval_transform)
    process_group = _make_process_group(_resolve_device(model, network, device), distributed)
    network = network.to(process_group.device)
    evaluation = _evaluate_split(
        TTATransforms(network, tta) if tta else network,
        dataset,
        split or dataset.eval_split,
        batch_size or EVAL_BATCH_SIZE,
        loss or functional.cross_entropy,
        choose_num_workers(workers, dataset, process_group.env.local_world_size),
        keep_probabilities,
        process_group,
    )
    return replace(evaluation, classes=dataset.classes)


def _resolve_preprocess(
    target: ModelLike, network: nn.Module, data: DatasetSplits, mean: Any, std: Any, eval_transform: str | None
) -> DatasetSplits:
    """The data, brought to the network as it wants it; ValueError where its classes are others."""
    preprocess = _merge_preprocess(network, data, mean, std)
    if not isinstance(target, str | Arch):
        _check_classes(network, data)
    return replace(
        data, preprocess=preprocess if eval_transform is None else replace(preprocess, transform=eval_transform)
    )


def _resolve_device(model: ModelLike, network: nn.Module, device: str | torch.device) -> torch.device:
    """The device asked for; a module that was handed over stays where it is."""
    if isinstance(model, nn.Module) and device == "auto":
        return next(network.parameters()).device
    return choose_device(device)


def _make_process_group(device: torch.device, distributed: bool) -> ProcessGroup:
    return (
        init_process_group(rank_device(device, read_distributed_env())) if distributed else ProcessGroup(device=device)
    )


def _evaluate_split(
    network: nn.Module,
    data: DatasetSplits,
    split: str,
    batch_size: int,
    loss: LossFn,
    workers: int,
    keep_probabilities: bool,
    process_group: ProcessGroup,
) -> Evaluation:
    dataset = data.split(split)
    rank_options = {"rank": process_group.rank, "world_size": process_group.world_size}
    loader = eval_loader(dataset, batch_size, data.preprocess, process_group.device, workers, **rank_options)
    with limit_threads(
        choose_num_threads(infer_input_size(data), process_group.device)
    ):  # as in training, so that sums keep their order
        evaluation = evaluate_batches(network, loader, data.num_classes, loss, split, keep_probabilities, process_group)
    if not keep_probabilities:
        return evaluation
    return replace(evaluation, names=tuple(dataset.name(i) for i in range(len(dataset))), dataset=dataset)


def _evaluate_ensemble(models: Sequence[ModelLike], data: Any, options: dict[str, Any]) -> Evaluation:
    if not models:
        raise invalid("at least one model to judge", "none")
    targets = [_open_run(model) for model in models]
    first_target = targets[0]
    if data is None and isinstance(first_target, Run):
        data = _resolve_data(first_target, None, options["data_dir"], None, False)
    evaluations = [evaluate(target, data, keep_probabilities=True, **options) for target in targets]
    return average_evaluations(evaluations) if len(evaluations) > 1 else evaluations[0]


def _open_run(model: ModelLike) -> ModelLike:
    return Run(model) if isinstance(model, str | Path) and Path(model).is_dir() else model


def _resolve_data(
    target: ModelLike, data: Any, data_dir: Any, val_fraction: float | None, skip_bad_images: bool
) -> DatasetSplits:
    if isinstance(target, Run) and data is None:
        return reopen_data(target.metadata["data"], None, data_dir)
    if data is None:
        raise invalid("data to judge on", "none", next_step="name a data set or a folder: --data cifar10")
    return open_train_data(data, data_dir, val_fraction, skip_bad_images)


def _resolve_model(
    target: ModelLike, data: DatasetSplits, overrides: Any, pretrained: Any, module: nn.Module | None
) -> nn.Module:
    if isinstance(target, nn.Module):
        return target
    if isinstance(target, Run):
        return _load_run_model(target, module)
    if isinstance(target, Path) or (isinstance(target, str) and target.endswith(".safetensors")):
        return load_network(target)
    if not pretrained:
        raise invalid(f"weights for {target}", "none", next_step="give a file or tag: --pretrained FILE")
    _, arch_overrides = split_overrides(overrides, None, None, None)
    input_size = infer_input_size(data)
    arch = resolve_arch_for_data(target, TrainOptions(arch_overrides=arch_overrides), data, input_size)
    warn_about_stem(arch, input_size)
    network = create_model(arch, pretrained=pretrained)
    assert isinstance(network, ResidualNetwork)
    if network.load_report is not None and network.load_report.reinitialized:
        got = (
            f"{', '.join(network.load_report.reinitialized)} missing from {network.load_report.file} or of other shape"
        )
        raise invalid(
            f"weights of {arch.name} with {arch.num_classes} classes", got, next_step="train it on these classes"
        )
    return network


def _load_run_model(run: Run, module: nn.Module | None) -> nn.Module:
    path = run_weights_path(run)
    if run.arch is not None:
        return load_network(path)
    if module is None:
        raise invalid(
            f"the module {run.path} trained, a {run.metadata['model']['name']}",
            "none",
            next_step="evaluate(run, module=...)",
        )
    module.load_state_dict(read_tensors(path))
    return module


def _merge_preprocess(
    network: nn.Module, data: DatasetSplits, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocess:
    """The network's own normalisation where it has one, else the data's; `mean` and `std` before both."""
    own_preprocess = network.preprocess if isinstance(network, ResidualNetwork) else None
    base = (
        own_preprocess
        if own_preprocess is not None and own_preprocess.channels == data.preprocess.channels
        else data.preprocess
    )
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != base.channels:
            raise invalid(f"{base.channels} numbers as {name}, one a channel", len(values))
    mean_image = "" if mean else base.mean_image
    return replace(base, mean=tuple(mean or base.mean), std=tuple(std or base.std), mean_image=mean_image)


def _check_classes(network: nn.Module, data: DatasetSplits) -> None:
    """ValueError where the network knows its classes and the data's are others, or in another order."""
    classes = network.classes if isinstance(network, ResidualNetwork) else None
    if classes is None or tuple(classes) == data.classes:
        return
    differences = [
        f"{model_class} where the data has {data_class}"
        for model_class, data_class in zip(classes, data.classes, strict=False)
        if model_class != data_class
    ]
    got = f"{data.num_classes} classes; " + (", ".join(differences[:3]) or "the first ones agree")
    raise invalid(
        f"data of the network's {len(classes)} classes in its order",
        got,
        next_step="judge it on the data it was trained for",
    )
