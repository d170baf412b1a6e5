"""Errors of a user's own images, labels, networks and losses say what to change, and the change works."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.adapters import as_dataset
from reslab.nn.factory import create_model
from reslab.spec.optim import OptimizerConfig
from reslab.spec.recipe import Recipe
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.meters import NonFiniteError
from reslab.training.nonfinite import NonFiniteLocation, NonFiniteOrigin, Phase, with_diagnosis
from reslab.training.train import train

IMAGES = torch.rand((12, 3, 32, 32), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 2
QUIET: dict[str, Any] = {"on_log": lambda record: None, "epochs": 1, "batch_size": 6}


class Small(nn.Module):
    """A classifier whose outputs `wrap` changes."""

    def __init__(self, wrap: Any = lambda outputs: outputs) -> None:
        super().__init__()
        self.fc, self.wrap = nn.Linear(3, 2), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("in_channels", "x", "expression"),
    [
        (3, torch.zeros(2, 32, 32, 3), "x.permute(0, 3, 1, 2)"),
        (3, torch.zeros(3, 32, 32), "x[None]"),
        (3, torch.zeros(32, 32, 3), "x.permute(2, 0, 1)[None]"),
        (3, torch.zeros(2, 1, 32, 32), "x.expand(-1, 3, -1, -1)"),
        (1, torch.zeros(32, 32), "x[None, None]"),
        (1, torch.zeros(5, 32, 32), "x[:, None]"),
        (3, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "x.float() / 255"),
        (3, torch.zeros(2, 3, 32, 32, dtype=torch.int64), "x.float()"),
        (3, torch.zeros(2, 3, 32, 32, dtype=torch.float64), "x.float()"),
    ],
)
def test_the_advice_for_a_wrong_input_makes_a_valid_one(in_channels: int, x: Tensor, expression: str) -> None:
    model = create_model("resnet20_cifar", in_channels=in_channels, depths="1,1,1").eval()
    with pytest.raises(ValueError) as error:
        model(x)
    nearest = str(error.value).split("nearest valid: ")[1].split(";")[0].split(", then")[0]
    assert nearest == expression
    assert model(eval(expression, {"x": x})).shape[1] == 10


def test_other_inputs_are_refused_with_a_next_step() -> None:
    model = create_model("resnet20_cifar")
    with pytest.raises(ValueError, match=r"a ndarray; torch.from_numpy"):
        model(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="in_channels=4"):
        model(torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (functional.one_hot(LABELS), "labels.argmax(1)"),
        (functional.one_hot(LABELS).float(), "labels.argmax(1)"),
        (LABELS.float(), "labels.long()"),
        (LABELS[:, None], "labels.long().flatten()"),
        (np.array(["cat", "dog"] * 6), "classes.index(label)"),
        (["cat", "dog"] * 6, "classes.index(label)"),
    ],
)
def test_the_advice_for_wrong_labels(labels: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        as_dataset((IMAGES, labels))
    assert message in str(error.value)


@pytest.mark.parametrize(("label", "message"), [("cat", "the text 'cat'"), (torch.tensor([0, 1]), "labels.argmax(1)")])
def test_the_advice_for_wrong_labels_of_items(label: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        as_dataset([(IMAGES[0], label), (IMAGES[1], label), (IMAGES[2], label)])
    assert message in str(error.value)


def test_a_list_of_numbers_is_labels() -> None:
    data = as_dataset((IMAGES, LABELS.tolist()))
    assert torch.equal(data.split("train").labels, LABELS)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda outputs: None, "return x"),
        (lambda outputs: {"aux": 1, "logits": outputs}, "outputs['logits']"),
        (lambda outputs: (outputs, outputs), "outputs[0]"),
        (lambda outputs: outputs[0, 0].item(), "a float"),
        (lambda outputs: outputs[:, :1], "(N, 2)"),
    ],
)
def test_the_advice_for_wrong_outputs(tmp_path: Path, wrap: Any, message: str) -> None:
    for call in (
        lambda: train(Small(wrap), (IMAGES, LABELS), output=tmp_path / "run", **QUIET),
        lambda: evaluate(Small(wrap), (IMAGES, LABELS)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_outputs_that_are_wrong_in_training_alone_are_reported(tmp_path: Path) -> None:
    model = Small()
    model.wrap = lambda outputs: (outputs, outputs) if model.training else outputs
    with pytest.raises(ValueError, match=r"outputs\[0\]"):
        train(model, (IMAGES, LABELS), output=tmp_path / "run", **QUIET)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(reduction="none"), "loss.mean()"),
        (lambda outputs, labels: None, "a NoneType"),
        (nn.BCEWithLogitsLoss(), "labels (2,) in int64"),
    ],
)
def test_the_advice_for_a_wrong_loss(tmp_path: Path, loss: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        train(Small(), (IMAGES, LABELS), loss=loss, output=tmp_path / "run", **QUIET)
    assert message in str(error.value)
    if not isinstance(loss, nn.BCEWithLogitsLoss):
        with pytest.raises(ValueError, match="a loss of one number"):
            evaluate(Small(), (IMAGES, LABELS), loss=loss)


def test_a_network_that_cannot_take_the_images_is_reported_with_their_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes images \(2, 3, 32, 32\) in torch.float32.*mat1 and mat2"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), (IMAGES, LABELS), output=tmp_path / "run", **QUIET)


def test_images_and_weights_that_are_not_finite_are_named_before_the_run(tmp_path: Path) -> None:
    images = IMAGES.clone()
    images[3, 0, 0, 0], images[7, 1, 2, 2] = float("nan"), float("inf")
    with pytest.raises(ValueError, match=r"finite training images; got: NaN or infinite values in #3, #7"):
        train(Small(), (images, LABELS), output=tmp_path / "run", **QUIET)
    model = Small()
    model.fc.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match=r"fc\.bias"):
        train(model, (IMAGES, LABELS), output=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


class Damaged(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A dataset made on demand, whose image 5 has a NaN."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return (IMAGES[i] if i != 5 else IMAGES[i] / 0 * 0, int(LABELS[i]))


def test_an_image_that_is_not_finite_is_named_when_training_meets_it(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"repair or remove the images with NaN or infinite values: #5$"):
        train(Small(), Damaged(), output=tmp_path / "run", **QUIET)


@pytest.mark.parametrize("images", [IMAGES.double(), IMAGES.double().numpy()], ids=["tensor", "array"])
def test_images_in_float64_are_trained_and_evaluated_in_float32(tmp_path: Path, images: Any) -> None:
    assert evaluate(Small(), (images, LABELS)).num_samples == 12
    assert train(Small(), (images, LABELS), output=tmp_path / "run", **QUIET).main_metric is not None


def test_weights_in_float64_are_refused_with_the_way_to_float32(tmp_path: Path) -> None:
    for call in (
        lambda: train(Small().double(), (IMAGES, LABELS), output=tmp_path / "run", **QUIET),
        lambda: evaluate(Small().double(), (IMAGES, LABELS)),
    ):
        with pytest.raises(ValueError, match=r"nearest valid: model\.to\(torch\.float32\)$"):
            call()


def with_damaged_validation() -> Any:
    """Return training images that are finite, and validation images of which #5 is not."""
    return as_dataset(list(zip(IMAGES, LABELS.tolist(), strict=True)), val=Damaged())


def test_validation_images_that_are_not_finite_are_named_without_a_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss on val is nan after step 1") as error:
        train(Small(), with_damaged_validation(), output=tmp_path / "run", **QUIET)
    assert str(error.value).endswith("repair or remove the images with NaN or infinite values: #5")
    with pytest.raises(ValueError, match=r"finite validation images; got: NaN or infinite values in #5; repair"):
        evaluate(Small(), with_damaged_validation(), split="val")


def test_a_network_whose_loss_is_not_finite_is_evaluated_all_the_same() -> None:
    model = Small(lambda outputs: outputs * float("nan"))
    evaluation = evaluate(model, (IMAGES, LABELS))
    assert (str(evaluation.loss), evaluation.bad_indices) == ("nan", ())


def test_images_of_mixed_sizes_are_trained_with_the_size_that_the_error_names(tmp_path: Path) -> None:
    items = [(IMAGES[i, :, : 24 + i], int(LABELS[i])) for i in range(12)]
    with pytest.raises(ValueError, match=r"--size 224 \(image_size=224\), or a transform such as 'resize"):
        train(Small(), items, output=tmp_path / "first", **QUIET)
    with pytest.raises(ValueError, match=r"images of one size.*--size"):
        evaluate(Small(), items)
    assert train(Small(), items, output=tmp_path / "run", image_size=24, **QUIET).main_metric is not None
    assert evaluate(Small(), items, image_size=24).num_samples == 12


def test_images_of_mixed_channels_are_not_reported_to_change_their_size() -> None:
    items = [(IMAGES[i, : 3 if i else 1], int(LABELS[i])) for i in range(12)]
    with pytest.raises(ValueError, match=r"one number of channels$"):
        evaluate(Small(), items)


@pytest.mark.parametrize(
    ("name", "lr", "expected"),
    [("sgd", 0.4, "0.1"), ("sgd", 1e30, "0.1"), ("adamw", 1e30, "0.001"), ("adamw", 4e-3, "0.001")],
)
def test_the_learning_rate_of_the_advice_is_of_usual_size(tmp_path: Path, name: str, lr: float, expected: str) -> None:
    images = as_dataset((IMAGES, LABELS)).split("train")
    origin = NonFiniteOrigin(3, NonFiniteLocation(Phase.UPDATE, "fc.weight"), (0, 1))
    for result in (origin, None):
        error = with_diagnosis(
            NonFiniteError("the loss is nan"),
            0,
            result,
            run_path=tmp_path,
            optimizer=OptimizerConfig(name=name, lr=lr),
            images=images,
        )
        assert f"--lr {expected}," in str(error)


def test_a_loss_that_is_not_finite_for_finite_outputs_is_to_be_checked(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels) + (float("nan") if outputs.requires_grad else 0.0)

    with warnings.catch_warnings(), pytest.raises(NonFiniteError, match="check the loss") as error:
        train(Small(), (IMAGES, LABELS), loss=loss, output=tmp_path / "run", **QUIET)
    assert "--lr" not in str(error.value)
    assert "step -1" not in str(error.value)


def test_the_fraction_of_a_recipe_keeps_a_class_of_one_image_whole_and_that_of_the_user_refuses_it(
    tmp_path: Path,
) -> None:
    images, labels = torch.rand(21, 3, 8, 8), torch.tensor([0] * 10 + [1] * 10 + [2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    run = train(model, (images, labels), recipe=Recipe("own", "none", val_fraction=0.2), output=tmp_path / "a", **QUIET)
    assert run.metadata["data"]["num_images"] == {"train": 17, "val": 4}
    assert any("the class 2" in text for text in run.metadata["messages"])
    for options in ({"val_fraction": 0.2}, {"overrides": {"val_fraction": 0.2}}):
        with pytest.raises(ValueError, match=r"class '2'|val_fraction"):
            train(model, (images, labels), output=tmp_path / "b", **options, **QUIET)
