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

from reslab.data.dataset import Data
from reslab.data.loader import eval_batches
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import load_weights, read_tensors
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device, num_threads_for, threads
from reslab.runtime.distributed import ALONE, Ranks, join, own_device
from reslab.runtime.torchrun import read_place
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.loop import Evaluation, average, evaluate_batches
from reslab.training.evaluation.tta import Views
from reslab.training.loop import Loss
from reslab.training.options import Asked, split_settings, warn_of_stem
from reslab.training.run import Run, run_weights
from reslab.training.run_data import find_data, input_size, num_workers, reopen_data
from reslab.training.setup import asked_arch

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Exam:
    """The network as it stands, on a split of the data; its running statistics are rank 0's, as they are saved."""

    model: nn.Module
    data: Data
    loss: Loss
    workers: int
    device: torch.device
    ranks: Ranks = ALONE

    @property
    def watched(self) -> str:
        """The split looked at while training: validation where there is one."""
        return "val" if "val" in self.data.splits else self.data.held_out

    def judge(self, split: str, probabilities: bool = False) -> Evaluation:
        """Every sample of the split once, dealt out to the ranks."""
        self.ranks.share_buffers(self.model)
        images, ranks = self.data.split(split), self.ranks
        shared = {"rank": ranks.rank, "num_ranks": ranks.num}
        batches = eval_batches(images, EVALUATION_BATCH, self.data.preprocess, self.device, self.workers, **shared)
        return evaluate_batches(self.model, batches, self.data.num_classes, self.loss, split, probabilities, ranks)


Judged = Run | str | Path | Arch | nn.Module


def evaluate(
    model: Judged | Sequence[Judged],
    data: Any = None,
    *,
    split: str | None = None,
    pretrained: Pretrained | None = None,
    settings: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    words: str | None = None,
    views: str = "",
    loss: Loss | None = None,
    module: nn.Module | None = None,
    batch: int | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    skip_bad_images: bool = False,
    device: str | torch.device = "auto",
    workers: int | None = None,
    keep_probabilities: bool = False,
    share: bool = False,
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
        return _averaged(model, data, options)
    assert not isinstance(model, Sequence) or isinstance(model, str)
    subject = _as_run(model)
    found = _data_of(subject, data, data_dir, val_fraction, skip_bad_images)
    network = _network_of(subject, found, settings, pretrained, module)
    found = _as_judged(subject, network, found, mean, std, words)
    ranks = _ranks(_place(model, network, device), share)
    network = network.to(ranks.device)
    judged = _judge(
        Views(network, views) if views else network,
        found,
        split or found.held_out,
        batch or EVALUATION_BATCH,
        loss or functional.cross_entropy,
        num_workers(workers, found, ranks.place.num_local),
        keep_probabilities,
        ranks,
    )
    return replace(judged, classes=found.classes)


def _as_judged(subject: Judged, network: nn.Module, data: Data, mean: Any, std: Any, words: str | None) -> Data:
    """The data, brought to the network as it wants it; ValueError where its classes are others."""
    preprocess = _preprocess(network, data, mean, std)
    if not isinstance(subject, str | Arch):
        _check_classes(network, data)
    return replace(data, preprocess=preprocess if words is None else replace(preprocess, transform=words))


def _place(model: Judged, network: nn.Module, device: str | torch.device) -> torch.device:
    """The device asked for; a module that was handed over stays where it is."""
    if isinstance(model, nn.Module) and device == "auto":
        return next(network.parameters()).device
    return choose_device(device)


def _ranks(place: torch.device, share: bool) -> Ranks:
    return join(own_device(place, read_place())) if share else Ranks(device=place)


def _judge(
    network: nn.Module,
    data: Data,
    split: str,
    batch: int,
    loss: Loss,
    workers: int,
    keep_probabilities: bool,
    ranks: Ranks,
) -> Evaluation:
    images = data.split(split)
    shared = {"rank": ranks.rank, "num_ranks": ranks.num}
    batches = eval_batches(images, batch, data.preprocess, ranks.device, workers, **shared)
    with threads(num_threads_for(input_size(data), ranks.device)):  # as in training, so that sums keep their order
        judged = evaluate_batches(network, batches, data.num_classes, loss, split, keep_probabilities, ranks)
    if not keep_probabilities:
        return judged
    return replace(judged, names=tuple(images.name(i) for i in range(len(images))), images=images)


def _averaged(models: Sequence[Judged], data: Any, options: dict[str, Any]) -> Evaluation:
    if not models:
        raise invalid("at least one model to judge", "none")
    subjects = [_as_run(model) for model in models]
    first = subjects[0]
    if data is None and isinstance(first, Run):
        data = _data_of(first, None, options["data_dir"], None, False)
    judged = [evaluate(subject, data, keep_probabilities=True, **options) for subject in subjects]
    return average(judged) if len(judged) > 1 else judged[0]


def _as_run(model: Judged) -> Judged:
    return Run(model) if isinstance(model, str | Path) and Path(model).is_dir() else model


def _data_of(subject: Judged, data: Any, data_dir: Any, val_fraction: float | None, skip_bad_images: bool) -> Data:
    if isinstance(subject, Run) and data is None:
        return reopen_data(subject.facts["data"], None, data_dir)
    if data is None:
        raise invalid("data to judge on", "none", next_step="name a data set or a folder: --data cifar10")
    return find_data(data, data_dir, val_fraction, skip_bad_images)


def _network_of(subject: Judged, data: Data, settings: Any, pretrained: Any, module: nn.Module | None) -> nn.Module:
    if isinstance(subject, nn.Module):
        return subject
    if isinstance(subject, Run):
        return _network_of_run(subject, module)
    if isinstance(subject, Path) or (isinstance(subject, str) and subject.endswith(".safetensors")):
        return load_weights(subject)
    if not pretrained:
        raise invalid(f"weights for {subject}", "none", next_step="give a file or tag: --pretrained FILE")
    _, axes = split_settings(settings, None, None, None)
    size = input_size(data)
    arch = asked_arch(subject, Asked(axes=axes), data, size)
    warn_of_stem(arch, size)
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


def _network_of_run(run: Run, module: nn.Module | None) -> nn.Module:
    path = run_weights(run)
    if run.arch is not None:
        return load_weights(path)
    if module is None:
        raise invalid(
            f"the module {run.path} trained, a {run.facts['model']['name']}",
            "none",
            next_step="evaluate(run, module=...)",
        )
    module.load_state_dict(read_tensors(path))
    return module


def _preprocess(
    network: nn.Module, data: Data, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocess:
    """The network's own normalisation where it has one, else the data's; `mean` and `std` before both."""
    own = network.preprocess if isinstance(network, ResidualNetwork) else None
    base = own if own is not None and own.channels == data.preprocess.channels else data.preprocess
    for name, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != base.channels:
            raise invalid(f"{base.channels} numbers as {name}, one a channel", len(given))
    image = "" if mean else base.mean_image
    return replace(base, mean=tuple(mean or base.mean), std=tuple(std or base.std), mean_image=image)


def _check_classes(network: nn.Module, data: Data) -> None:
    """ValueError where the network knows its classes and the data's are others, or in another order."""
    classes = network.classes if isinstance(network, ResidualNetwork) else None
    if classes is None or tuple(classes) == data.classes:
        return
    other = [
        f"{ours} where the data has {theirs}"
        for ours, theirs in zip(classes, data.classes, strict=False)
        if ours != theirs
    ]
    got = f"{data.num_classes} classes; " + (", ".join(other[:3]) or "the first ones agree")
    raise invalid(
        f"data of the network's {len(classes)} classes in its order",
        got,
        next_step="judge it on the data it was trained for",
    )
