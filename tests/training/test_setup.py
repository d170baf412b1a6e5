"""The setup of a new run: what is built, once, and what is checked before the folder is created."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.data.loader import eval_loader
from reslab.data.registry import open_dataset
from reslab.nn.factory import create_model
from reslab.nn.init import fit_input_layers
from reslab.report.drawings.network import draw
from reslab.runtime.distributed import ProcessGroup
from reslab.spec.config import override
from reslab.spec.recipe import Recipe
from reslab.training import setup as training_setup
from reslab.training import setup_recipe
from reslab.training.checkpoint import load_run_network
from reslab.training.losses import DistillationLoss
from reslab.training.options import TrainOptions
from reslab.training.resume import reopen_run
from reslab.training.run import Run
from reslab.training.setup import build_train_loop, build_train_loss, setup_run
from reslab.training.setup_model import check_module
from reslab.training.setup_recipe import resolve_precision
from reslab.training.tasks.classification import Classification
from reslab.training.train import train

CPU = torch.device("cpu")
SMALL = {"depths": "1,1,1", "widths": "4,8,16", "stem": "conv3(4) norm act"}


def make_options(**changes: Any) -> TrainOptions:
    return replace(TrainOptions(model="resnet20_cifar", data="digits", arch_overrides=SMALL), **changes)


def test_a_run_is_set_up_with_all_that_its_steps_need(tmp_path: Path) -> None:
    setup = setup_run(make_options(seed=5), tmp_path / "run", ProcessGroup())
    assert Run(tmp_path / "run").metadata == setup.run.metadata
    assert setup.run.metadata["seed"] == setup.loop.seed == 5
    assert setup.input_size == (1, 8, 8)
    assert setup.run.recipe == setup.recipe
    assert setup.loop.loader.num_steps_per_epoch == len(setup.data.split("train")) // setup.recipe.batch_size
    parameters = {id(parameter) for parameter in setup.loop.model.parameters()}
    assert {id(parameter) for group in setup.loop.optimizer.param_groups for parameter in group["params"]} == parameters
    assert setup.loop.train_step.ddp_model is setup.loop.train_step.compiled_model is None


def test_one_seed_gives_one_initialization(tmp_path: Path) -> None:
    first, again, other = (
        setup_run(make_options(seed=seed), tmp_path / name, ProcessGroup()).loop.model.state_dict()
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_whitened_filters_follow_from_training_images_and_stay(tmp_path: Path) -> None:
    arch = SMALL | {"stem": "conv3(4, whitened) norm act"}
    setup = setup_run(make_options(arch_overrides=arch), tmp_path / "run", ProcessGroup())
    model, data = setup.loop.model, setup.data
    train_split = data.split("train")
    spaced = train_split.subset(torch.linspace(0, len(train_split) - 1, 512).long().tolist())
    x, _, _ = next(iter(eval_loader(spaced, 512, data.preprocess, CPU)))
    expected = create_model("resnet20_cifar", in_channels=1, **arch)
    fit_input_layers(expected, expected, lambda: x.split(1))
    filters = model.conv1.weight.clone()
    assert torch.equal(filters, expected.conv1.weight)
    run = train(
        "resnet20_cifar",
        "digits",
        output=tmp_path / "trained",
        overrides={f"model.{axis}": value for axis, value in arch.items()} | {"duration": "3 steps"},
    )
    assert torch.equal(load_run_network(run).conv1.weight, filters)
    shutil.rmtree(tmp_path / "run" / "checkpoint", ignore_errors=True)
    again = reopen_run(TrainOptions(), tmp_path / "run", ProcessGroup())
    assert torch.equal(again.loop.model.conv1.weight, filters)  # a run that ended before its first checkpoint


def test_whitened_filters_follow_from_images_of_all_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, side, side + 8, generator=generator) for side in (16, 24, 16, 32)]
    patches = torch.cat(
        [image.unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 0, 3, 4).reshape(-1, 27) for image in images]
    )
    model = nn.Sequential(create_model("resnet11_fast").conv1[0])
    fit_input_layers(model, model, lambda: [image[None] for image in images])
    outputs = patches @ model[0].weight[:12].flatten(1).T
    torch.testing.assert_close(outputs.T @ outputs / len(patches), torch.eye(12), rtol=0, atol=0.02)


@pytest.mark.parametrize("value", [7, b"resnet20_cifar", ["resnet20_cifar"], {}, torch.zeros(2)])
def test_values_of_other_types_as_model_or_recipe_are_named(value: Any) -> None:
    got = f"got: a {type(value).__name__}"
    for call in (create_model, draw, lambda model: setup_run(make_options(model=model), None, ProcessGroup())):
        with pytest.raises(ValueError, match=f"a name, a TOML file or an Arch as model; {got}"):
            call(value)
    with pytest.raises(ValueError, match=f"a name, a TOML file or a Recipe as recipe; {got}"):
        setup_run(make_options(recipe=value), None, ProcessGroup())


def test_a_recipe_is_named_by_a_path_too(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "digits"\nlr = 0.125\n')
    assert setup_run(make_options(recipe=recipe), tmp_path / "run", ProcessGroup()).recipe.optimizer.lr == 0.125


def test_an_empty_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for resume in (False, True):
        with pytest.raises(ValueError, match="a folder of the run as output; got: an empty text"):
            train("resnet20_cifar", "digits", output="", resume=resume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "required"),
    [
        ({"recipe_overrides": {"batch_size": 100_000}}, "a batch of at most"),
        ({"recipe_overrides": {"schedule.name": "plateau", "schedule.warmup": "0 steps"}}, "a validation split"),
        ({"recipe_overrides": {"early_stopping.patience": "1 epoch"}}, "a validation split"),
        ({"recipe_overrides": {"unfreeze": "haed: 0 epochs"}}, "unknown part"),
        ({"recipe_overrides": {"optimizer.kwargs": "nothing=1"}}, "nothing"),
        ({"recipe_overrides": {"class_weights": "1,2"}}, "class_weights of 10 numbers"),
        ({"recipe_overrides": {"distill.teacher": "nowhere"}}, "nowhere"),
        ({"recipe_overrides": {"duration": "0.01 epochs"}}, "at least one step"),
        ({"snapshot_every": "0.01 epochs"}, "at least a step apart"),
        ({"model": nn.Flatten()}, "axes"),
        ({"model": nn.Flatten(), "arch_overrides": {}}, "output"),
        ({"loss": lambda outputs, targets: outputs, "recipe_overrides": {}}, "a loss of one number"),
    ],
)
def test_mistakes_are_errors_before_the_folder_is_created(
    changes: dict[str, Any], required: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=required):
        setup_run(make_options(**changes), tmp_path / "run", ProcessGroup())
    assert not (tmp_path / "run").exists()


def test_activation_checkpointing_needs_blocks(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options = TrainOptions(model=module, data="digits", recipe_overrides={"activation_checkpointing": "true"})
    with pytest.raises(ValueError, match="a network of the zoo"):
        setup_run(options, tmp_path / "run", ProcessGroup())


def test_a_teacher_is_loaded_once(digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def count(source: Any, device: Any) -> nn.Module:
        loaded.append(source)
        return load_run_network(source, device)

    monkeypatch.setattr(training_setup, "load_run_network", count)
    overrides = {"distill.teacher": str(digits_run.path), "distill.alpha": "0.7"}
    setup = setup_run(make_options(recipe_overrides=overrides), tmp_path / "run", ProcessGroup())
    assert loaded == [str(digits_run.path)]
    assert isinstance(setup.loop.loss, DistillationLoss)
    assert (setup.loop.loss.alpha, setup.loop.loss.temperature) == (0.7, 1.0)


def test_a_custom_loss_replaces_that_of_the_recipe() -> None:
    data = open_dataset("digits")
    loss = nn.CrossEntropyLoss()
    assert build_train_loss(Recipe("", ""), data, Classification(data.classes), CPU, loss) is loss
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = override(
        Recipe("", ""), {"grad_accum_steps": 2, "clip_grad_norm": 1.0, "precision": "fp16", "sync_bn": True}
    )
    task = Classification(data.classes)
    loop = build_train_loop(
        model, recipe, data, task, seed=0, process_group=ProcessGroup(), workers=0, custom_loss=loss
    )
    assert loop.loss is loss
    assert loop.sync_bn
    assert (loop.train_step.grad_accum_steps, loop.train_step.clip_grad_norm) == (2, 1.0)
    assert loop.train_step.scaler is not None


def test_a_module_is_tried_and_left_as_it_was() -> None:
    data, model = open_dataset("digits"), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_module(model, None, Classification(data.classes), (1, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="10"):
        check_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), None, Classification(data.classes), (1, 8, 8))


def test_auto_precision_is_settled_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("", "", precision="auto")
    for fast, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(setup_recipe, "has_fast_bf16", lambda device, fast=fast: fast)
        assert resolve_precision(recipe, CPU).precision == precision
    assert resolve_precision(Recipe("", "", precision="fp16"), CPU).precision == "fp16"


@pytest.mark.parametrize(
    ("settings", "is_reported"),
    [({}, True), ({"class_weights": "balanced"}, False), ({"class_balanced_sampling": True}, False)],
)
def test_an_imbalance_is_reported_unless_it_is_dealt_with(
    tmp_path: Path, settings: dict[str, Any], is_reported: bool
) -> None:
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    options = make_options(data=(images, torch.tensor([0] * 40 + [1] * 10)), recipe_overrides=settings)
    messages = setup_run(options, tmp_path / "run", ProcessGroup()).messages
    text = (
        "the training classes are imbalanced, 4 to 1: compare per-class metrics, or set class_weights=balanced or "
        "class_balanced_sampling=true"
    )
    assert (text in messages) == is_reported


def test_messages_of_the_data_are_reported(tmp_path: Path) -> None:
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    options = make_options(data=(images, torch.arange(20) % 2 + 1))
    messages = setup_run(options, tmp_path / "run", ProcessGroup()).messages
    assert any("labels seem to count from 1" in text for text in messages)
