"""Checks for a GPU, as functions of the device and an empty folder.

`test_gpu.py` makes tests of them, and `benchmarks/gpu/part_tests.py` runs them where pytest is not installed. All but
`NEEDS_CUDA` run on a CPU, too.
"""

import math
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import TrainLoader
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.nn.factory import create_model
from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import DistributedProcessGroup
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.runtime.torchrun import DistributedEnv
from reslab.spec.optim import OptimizerConfig
from reslab.spec.preprocess import Preprocess
from reslab.training.cuda_graph import GraphedStep
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.loop import TrainStep
from reslab.training.optim.factory import build_optimizer, set_lr
from reslab.training.run import Run
from reslab.training.train import train

Check = Callable[[torch.device, Path], None]
NUM_CLASSES, NUM_IMAGES, SIDE = 4, 512, 16


def make_images(num_images: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """Return noisy images of four colors, uint8 (N, 3, 16, 16), and their classes: learned within an epoch or two."""
    generator = torch.Generator().manual_seed(0)
    colors = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])[..., None, None]
    labels = torch.arange(num_images) % NUM_CLASSES
    noise = torch.randint(-80, 80, (num_images, 3, SIDE, SIDE), generator=generator)
    return (colors[labels] + noise).clamp(0, 255).to(torch.uint8), labels


def train_small(device: torch.device, output: Path, epochs: float = 3, **options: Any) -> Run:
    """Train a network of eight layers on `make_images`, a quarter of them held out."""
    overrides = {
        "model.depths": "1,1,1", "model.widths": "16,32,64", "optimizer.lr": "0.1", "batch_size": "64",
        "train_transform": "pad(2) crop(16) flip", "precision": "float32", **options.pop("overrides", {}),
    }  # fmt: skip
    arguments: dict[str, Any] = {"seed": 3, "val_fraction": 0.25, "on_log": lambda record: None} | options
    data = make_images()
    return train("resnet20_cifar", data, "cifar", epochs=epochs, output=output, device=device, overrides=overrides,
                 **arguments)  # fmt: skip


def require(condition: bool, text: str) -> None:
    """Raise AssertionError with the text unless the condition holds."""
    if not condition:
        raise AssertionError(text)


def require_learned(run: Run) -> None:
    """Require that the network is right about nearly all held-out images."""
    top1 = run.metadata["result"]["top1"]
    require(top1 >= 0.95, f"accuracy {top1:.3f}, required 0.95")


def weights_of(run: Run) -> dict[str, Tensor]:
    """Return the weights of a run by name."""
    return read_tensors(run.weights_path)


def check_training(device: torch.device, folder: Path) -> None:
    """Training learns, and run.json names the device."""
    run = train_small(device, folder / "run")
    require_learned(run)
    recorded = run.metadata["hardware"]["device"]
    require(recorded.startswith(device.type), f"run.json names {recorded}")


def check_resume(device: torch.device, folder: Path, overrides: dict[str, str] | None = None) -> None:
    """A run that was interrupted within an epoch and resumed has the weights of an uninterrupted one, bit for bit."""

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 9:
            os.kill(os.getpid(), 2)
        return {}

    whole = train_small(device, folder / "whole", overrides=overrides or {})
    try:
        train_small(device, folder / "resumed", on_step_end=interrupt, hook_every_steps=1,
                    overrides=overrides or {})  # fmt: skip
        raise AssertionError("the run was not interrupted")
    except TrainingInterrupted:
        pass
    resumed = train("resnet20_cifar", make_images(), "cifar", output=folder / "resumed", resume=True, device=device,
                    on_log=lambda record: None)  # fmt: skip
    first, second = weights_of(whole), weights_of(resumed)
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differing, f"{len(differing)} of {len(first)} tensors differ: {differing[:3]}")


def check_repeat(device: torch.device, folder: Path) -> None:
    """The same seed gives the same weights, in bf16 and channels-last too."""
    overrides = {"precision": "bf16", "channels_last": "true"}
    runs = [train_small(device, folder / name, epochs=1, overrides=overrides) for name in ("first", "second")]
    first, second = map(weights_of, runs)
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differing, f"{len(differing)} of {len(first)} tensors differ: {differing[:3]}")


def check_bf16(device: torch.device, folder: Path) -> None:
    """Training in bf16 learns, with weights in float32."""
    run = train_small(device, folder / "run", overrides={"precision": "bf16"})
    require_learned(run)
    dtypes = {tensor.dtype for tensor in weights_of(run).values() if tensor.is_floating_point()}
    require(dtypes == {torch.float32}, f"weights in {dtypes}")


def check_fp16(device: torch.device, folder: Path) -> None:
    """Training in fp16 with a scaled loss learns."""
    require_learned(train_small(device, folder / "run", epochs=6, overrides={"precision": "fp16"}))


def check_channels_last(device: torch.device, folder: Path) -> None:
    """Channels-last gives the gradients of N C H W, in float64, where rounding does not hide a difference."""
    model, x, y = make_step_inputs(device)
    model, x = model.double(), x.double()
    expected = gradients_of(model, x, y, TrainStep())
    result = gradients_of(model.to(memory_format=torch.channels_last), x, y, TrainStep(channels_last=True))
    require_close(result, expected, 1e-9)


def check_compile(device: torch.device, folder: Path) -> None:
    """A compiled network has the gradients of the eager one, in float64, and training with it learns."""
    model, x, y = make_step_inputs(device)
    model, x = model.double(), x.double()
    expected = gradients_of(model, x, y, TrainStep())
    require_close(gradients_of(model, x, y, TrainStep(compiled_model=torch.compile(model))), expected, 1e-9)
    require_learned(train_small(device, folder / "run", overrides={"compile": "true"}))


def make_step_inputs(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of eight layers in training mode, and a batch for it."""
    images, labels = make_images(64)
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=NUM_CLASSES).to(device).train()
    return model, images.to(device, torch.float32) / 255 - 0.5, labels.to(device)


def gradients_of(model: nn.Module, x: Tensor, y: Tensor, train_step: TrainStep) -> list[Tensor]:
    """Return the gradients of the loss of a batch, one for each parameter."""
    model.zero_grad()
    with deterministic_mode():
        train_step.backward(model, functional.cross_entropy, x, y)
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def require_close(result: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Require that the tensors of two lists differ by at most `tolerance`, |result - expected| / |expected|."""
    errors = [relative_error(one, other) for one, other in zip(result, expected, strict=True)]
    require(max(errors) <= tolerance, f"relative error {max(errors):.1e}, at most {tolerance:g} is allowed")


def check_evaluation(device: torch.device, folder: Path) -> None:
    """A run evaluated on the device has the metrics and classes of an evaluation on the CPU."""
    run = train_small(device, folder / "run", epochs=1)
    images, labels = make_images()
    result, expected = (
        evaluate(run, (images, labels), split="train", device=where, keep_predictions=True)
        for where in (device, torch.device("cpu"))
    )
    for name, value in expected.metrics.items():
        other = result.metrics[name]
        require(other == value or math.isclose(other, value, abs_tol=1e-5), f"{name} {other} against {value}")
    require(abs(result.loss - expected.loss) < 1e-4, f"loss {result.loss} against {expected.loss}")


def check_augmentation(device: torch.device, folder: Path) -> None:
    """Batches of images in memory are augmented on the device as on the CPU, up to the rounding of normalization."""
    images, labels = make_images()
    preprocess = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for transform in ("pad(2) crop(16) flip", "pad(3,reflect) crop(16) flip", "lighting(0.1)"):
        batches = []
        for where in (torch.device("cpu"), device):
            loader = TrainLoader(TensorImageDataset(images, labels), 64, transform, preprocess, 3, where)
            batches.append(next(loader.iter_from(11)))
        for expected, result in zip(*batches, strict=True):
            require(result.device.type == device.type, f"a batch on {result.device}")
            error = (result.cpu().double() - expected.double()).abs().max().item()
            most = 0.05 if transform == "lighting(0.1)" else 2e-6  # another pixel differs by 0.01 or more
            require(error < most, f"{transform}: largest difference {error:.2g}")


def check_muon(device: torch.device, folder: Path) -> None:
    """Training with Muon learns."""
    overrides = {"optimizer.name": "muon", "optimizer.lr": "0.02", "optimizer.weight_decay": "0.01"}
    require_learned(train_small(device, folder / "run", overrides=overrides))


def check_detection(device: torch.device, folder: Path) -> None:
    """Detectors learn in bf16, and boxes of a run on the device are those on the CPU; needs a package for COCO's AP."""
    tiny = {"model.depths": "1,1,1,1", "model.widths": "8,16,16,16", "model.min_size": "128", "model.max_size": "128",
            "model.pyramid_channels": "64", "model.score_threshold": "0.02", "batch_size": "4",
            "precision": "bf16"}  # fmt: skip
    # Muon takes a second a step on a CPU for the linear layers of the box head.
    with_box_head = {"model.proposals": "200,100", "model.roi_batch_size": "64", "optimizer.name": "adamw",
                     "optimizer.lr": "0.002", "optimizer.weight_decay": "0.01"}  # fmt: skip
    detectors = {"retinanet_resnet18_fpn_320": {}, "fasterrcnn_resnet18_fpn_320": with_box_head}
    for name, own in detectors.items():
        run = train(name, "drawn-shapes", "detection-small", num_images=40, epochs=12, seed=0, device=device,
                    overrides=tiny | own, output=folder / name, on_log=lambda record: None)  # fmt: skip
        result, expected = (evaluate(run, device=where) for where in (device, torch.device("cpu")))
        # 0.45 and 0.77 on a CPU. Without boxes the comparison below would hold for anything.
        require(expected.metrics["ap50"] >= 0.2, f"{name}: ap50 {expected.metrics['ap50']:.4f}, required 0.2")
        for metric in ("ap", "ap50", "voc_map"):
            value, other = result.metrics[metric], expected.metrics[metric]
            require(abs(value - other) < 0.02, f"{name}: {metric} {value:.4f} against {other:.4f}")
        scores = [[float(image.prediction.scores.sum()) for image in one.images] for one in (result, expected)]
        require_close([torch.tensor(scores[0])], [torch.tensor(scores[1])], 1e-2)


def check_process_group(device: torch.device, folder: Path) -> None:
    """A group of one process (NCCL on a GPU, else gloo) averages gradients, sums and gathers as no group does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    own = torch.device("cuda", 0) if device.type == "cuda" else device
    try:
        group = DistributedProcessGroup(DistributedEnv(), own)
        _compare_with_group(group, own)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _compare_with_group(group: DistributedProcessGroup, device: torch.device) -> None:
    backend = torch.distributed.get_backend_config()
    require(("nccl" if device.type == "cuda" else "gloo") in str(backend), f"the backends are {backend}")
    model, x, y = make_step_inputs(device)
    expected = gradients_of(model, x, y, TrainStep())
    require_close(gradients_of(model, x, y, TrainStep(ddp_model=group.wrap_ddp(model))), expected, 0)
    require(torch.equal(group.all_reduce_sum(x), x), "the sum over one process is not its value")
    require(group.all_gather({"step": 3}) == [{"step": 3}], "gathered values differ")
    require(group.all_reduce_any(True, False) == (True, False), "flags differ")
    group.broadcast_buffers(model)


def check_graph(device: torch.device, folder: Path) -> None:
    """Steps replayed from a CUDA graph give the weights of the same steps run one by one, bit for bit.

    The learning rate, the batch and the noise of dropout differ between the steps.
    """
    for config in (OptimizerConfig("sgd", momentum=0.9), OptimizerConfig("adamw"), OptimizerConfig("muon")):
        weights = [_train_steps(device, config, is_captured) for is_captured in (False, True)]
        require_close(weights[1], weights[0], 0)


def _train_steps(device: torch.device, config: OptimizerConfig, is_captured: bool) -> list[Tensor]:
    """Return the weights after eight steps, of which the last five may be replays of a graph."""
    model, x, y = make_step_inputs(device)
    noisy = nn.Sequential(model, nn.Dropout(0.3))
    optimizer = build_optimizer(model, config)
    run_step = partial(TrainStep().run, noisy, functional.cross_entropy, optimizer)
    graphed_step = GraphedStep(run_step, optimizer, device)  # also makes tensors of the rates
    with deterministic_mode():
        for step in range(8):
            torch.manual_seed(step)
            set_lr(optimizer, 0.01 / (step + 1))
            (graphed_step if is_captured else run_step)(x.roll(step, 0), y.roll(step, 0))
        torch.cuda.synchronize()
    return [weight.detach().clone() for weight in model.parameters()]


def check_graph_resume(device: torch.device, folder: Path) -> None:
    """A run with CUDA graphs, Muon and bf16, interrupted and resumed, has the weights of an uninterrupted one."""
    overrides = {"cuda_graph": "true", "precision": "bf16", "channels_last": "true", "optimizer.name": "muon",
                 "optimizer.lr": "0.02"}  # fmt: skip
    check_resume(device, folder, overrides)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Return |result - expected| / |expected|."""
    norm = expected.double().norm().clamp_min(1e-12)
    return float((result.double() - expected.double()).norm() / norm)


CHECKS: dict[str, Check] = {
    "training": check_training,
    "resume": check_resume,
    "repeat": check_repeat,
    "bf16": check_bf16,
    "fp16": check_fp16,
    "channels-last": check_channels_last,
    "augmentation": check_augmentation,
    "evaluation": check_evaluation,
    "muon": check_muon,
    "graph": check_graph,
    "graph, resume": check_graph_resume,
    "compile": check_compile,
    "detection": check_detection,
    "process group": check_process_group,  # the last: where NCCL hangs, nothing but the limit of time ends it
}
NEEDS_CUDA = ("graph", "graph, resume", "fp16")
