"""The example networks of the package: small, twins, and as accurate as their runs say."""

import pytest

from reslab.cli.option_groups import ModelOptions
from reslab.cli.serve import _served_models
from reslab.deploy.examples import EXAMPLE_NAMES, example_runs
from reslab.spec.config import non_default_fields
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run


def test_they_take_less_than_two_megabytes() -> None:
    files = [path for folder in example_runs() for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"run.json", "log.jsonl", "model.safetensors", "predictions.npz"}
    assert sum(path.stat().st_size for path in files) < 2e6


def test_they_differ_in_the_shortcuts_alone() -> None:
    residual, plain = (Run(folder).arch for folder in example_runs())
    assert residual is not None
    assert plain is not None
    assert (residual.merge, plain.merge) == ("add", "none")
    first, second = (non_default_fields(arch) for arch in (residual, plain))
    assert {key for key in {*first, *second} if first.get(key) != second.get(key)} == {"merge"}


@pytest.mark.parametrize("index", range(len(EXAMPLE_NAMES)))
def test_their_accuracy_is_that_of_their_runs(index: int) -> None:
    run = Run(example_runs()[index])
    assert run.result is not None
    assert evaluate(run).top1 == pytest.approx(run.result["top1"], abs=1e-3)
    assert run.result["top1"] > 0.97


def test_without_a_run_they_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert _served_models([], ModelOptions()) == example_runs()
    assert "two example networks" in capsys.readouterr().err
