"""The table of commands: name, group in the help, first line, examples, and the function, imported when it is used.

Importing every command would take a third of a second more, which `reslab --help` and every error would wait for.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TRAIN, USE, ANALYZE, LOOK_UP = PANELS = ("Train and evaluate", "Use a network", "Analyze and reproduce", "Look up")


@dataclass(frozen=True)
class Command:
    """A command of `reslab`. `target` is `MODULE:ATTRIBUTE`, a function or a `typer.Typer` with further commands.

    `help` is the first paragraph of its docstring, which `reslab --help` shows without importing the module.
    """

    name: str
    panel: str
    target: str
    help: str

    def load(self) -> Callable[..., None] | Any:
        """Import the module and return the function or the `typer.Typer`."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(f"reslab.cli.{module}"), attribute)


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "demo",
            TRAIN,
            "demo:demo",
            "Train a deep residual network and its plain twin on handwritten digits, and compare them in a report.",
        ),
        Command(
            "train",
            TRAIN,
            "train:train",
            "Train a network. Without arguments: a small residual network on scikit-learn's handwritten digits.",
        ),
        Command(
            "eval",
            TRAIN,
            "eval:evaluate",
            "Evaluate one or more runs, or a third-party checkpoint (--model with --pretrained), in float32.",
        ),
        Command(
            "runs",
            TRAIN,
            "runs:runs",
            "List runs with their settings and accuracy, one by one or grouped by seeds, or compare them on a page.",
        ),
        Command(
            "lr-find",
            TRAIN,
            "lr_find:lr_find",
            "Suggest a learning rate: train a few steps at rising rates and find where the loss stops falling.",
        ),
        Command(
            "predict",
            USE,
            "predict:predict",
            "Predict the classes, values, masks or boxes of images, by the task of the network.",
        ),
        Command(
            "export",
            USE,
            "export:export",
            "Export a network, reload it in the target runtime and verify it against the original on real images.",
        ),
        Command(
            "serve",
            USE,
            "serve:serve",
            "Serve networks over HTTP: predictions, heatmaps and block ablations, with an explorer page at /.",
        ),
        Command(
            "bench",
            USE,
            "bench:bench",
            "Measure training or inference speed, latency and memory of a network on random images.",
        ),
        Command(
            "summary",
            ANALYZE,
            "summary:summary",
            "Print a network's layers, parameters, multiply-adds, receptive field, block layout and reference.",
        ),
        Command(
            "analyze",
            ANALYZE,
            "analyze:analyze",
            "Analyze one or more networks and compare the results; without arguments, list the analyses.",
        ),
        Command(
            "study",
            ANALYZE,
            "study:study",
            "Reproduce a table or figure of a paper: train what the store lacks, test the paper's claims, write a "
            "report.",
        ),
        Command(
            "models",
            LOOK_UP,
            "lists:models",
            "List the models with depth, input size, number of classes and reference.",
        ),
        Command(
            "recipes",
            LOOK_UP,
            "lists:recipes",
            "List the recipes, or print one in full and mark the values that differ from the defaults.",
        ),
        Command(
            "transforms",
            LOOK_UP,
            "lists:transforms",
            "List the transforms of train_transform and eval_transform, or print one with its arguments.",
        ),
        Command(
            "studies",
            LOOK_UP,
            "lists:studies",
            "List the studies: tables and figures of papers that `reslab study` reproduces.",
        ),
        Command(
            "doctor", LOOK_UP, "doctor:doctor", "Print versions, devices, precisions, caches and optional packages."
        ),
        Command("data", LOOK_UP, "data:data_app", "Check a dataset before training."),
    )
}


EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (
        "reslab demo",
        "reslab demo --model resnet20_cifar --epochs 5",
    ),
    "train": (
        "reslab train",
        "reslab train photos/ --recipe finetune --model resnet18 -o runs/photos",
        "reslab train --data cifar10 --model resnet56_cifar --lr 0.2 --seeds 5",
    ),
    "eval": (
        "reslab eval runs/photos --per-class --html eval.html",
        "reslab eval runs/a runs/b --split test --tta flip",
        "reslab eval --model resnet50 --pretrained true --data imagenet --data-dir DIR",
    ),
    "lr-find": (
        "reslab lr-find --data cifar10 --model resnet20_cifar",
        "reslab lr-find photos/ --min-lr 1e-4 --max-lr 1 --num-steps 50",
    ),
    "predict": (
        "reslab predict runs/photos cat.jpg dog.jpg",
        "reslab predict runs/photos images/ -o predictions.csv --embeddings",
        "reslab predict runs/photos cat.jpg --grad-cam heatmaps/ --json",
    ),
    "export": (
        "reslab export runs/photos --to onnx",
        "reslab export runs/photos --to openvino --precision bf16 -o model/",
    ),
    "serve": (
        "reslab serve runs/photos",
        "reslab serve runs/a runs/b --host 0.0.0.0 --token SECRET",
    ),
    "bench": (
        "reslab bench resnet18_d2l --input 1x96x96 -b 64",
        "reslab bench runs/photos --task predict --backend torch,onnxruntime",
    ),
    "summary": (
        "reslab summary resnet56_cifar",
        "reslab summary resnet50 --set model.order=full-preact --input 3x160x160",
    ),
    "analyze": (
        "reslab analyze",
        "reslab analyze gradients resnet56_cifar plain56_cifar --html gradients.html",
        "reslab analyze lesion runs/photos --weights all --num-images 256",
    ),
    "study": (
        "reslab study he2015/degradation --dry-run",
        "reslab study he2015/degradation --scale short --jobs 2",
    ),
    "models": (
        "reslab models",
        "reslab models 'resnet*_cifar' --json",
    ),
    "recipes": (
        "reslab recipes",
        "reslab recipes he2015-cifar",
    ),
    "transforms": (
        "reslab transforms",
        "reslab transforms random-resized-crop",
        "reslab transforms --json",
    ),
    "studies": (
        "reslab studies",
        "reslab studies he2016 --json",
    ),
    "runs": (
        "reslab runs --group --sort -top1 --filter data=cifar10",
        "reslab runs runs/a runs/b --html compare.html",
    ),
    "data check": (
        "reslab data check photos/",
        "reslab data check cells.csv --task regression --label-column red,white",
        "reslab data check photos/ --html check.html --train-transform 'crop(224) flip'",
    ),
    "doctor": (
        "reslab doctor",
        "reslab doctor --json",
    ),
}


def help_epilog(command: str) -> str:
    """Return the examples of a command as the last paragraph of its help."""
    # Typer joins the lines of a paragraph, so each example is a paragraph of its own.
    return "\n\n".join(["Examples:", *(f"  {example}" for example in EXAMPLES[command])])
