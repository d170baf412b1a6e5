"""The table of commands: name, group in the help, first line of the help, and the function, imported when it is used.

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
            "List runs with their settings and accuracy, by themselves or by groups of seeds, or compare them on a "
            "page.",
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
