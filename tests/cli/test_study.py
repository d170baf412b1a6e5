"""`reslab study` and `reslab studies`: output, JSON keys and errors."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reslab.spec.papers import STUDIES
from reslab.studies import job as work
from reslab.studies import run_study
from reslab.studies.plan import JobContext, StoreEntry, StudyJob

from .conftest import Command

pytestmark = pytest.mark.usefixtures("empty_plots")

NAME = "he2015/degradation"
ROWS = ("--rows", "plain-20,residual-20", "--seeds", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def test_a_study_end_to_end_and_again_from_the_store(command: Command, folder: Path) -> None:
    arguments = ("study", NAME, *ROWS, "--store", folder / "store", "--output", folder / "page", "--json")
    first = command(*arguments)
    assert first.code == 0, first.err
    result = first.value
    assert (result["study"], result["scale"]) == (NAME, "smoke")
    assert [row["name"] for row in result["rows"]] == ["plain-20", "residual-20"]
    keys = {"name", "arch", "metric", "unit", "reported", "mean", "std", "seeds"}
    assert all(keys <= row.keys() and row["seeds"] == 2 and row["std"] is not None for row in result["rows"])
    assert {claim["verdict"] for claim in result["claims"]} <= {"holds", "fails", "undecided"}
    assert "4 trainings" in first.err
    page = (folder / "page" / "report.html").read_text(encoding="utf-8")
    assert "smoke" in page
    assert (folder / "page" / "report.md").read_text(encoding="utf-8").startswith("# ")
    again = command(*arguments)
    assert "trainings" not in again.err
    assert again.value == result


def test_the_table_for_a_person(command: Command, folder: Path) -> None:
    arguments = ("study", NAME, *ROWS, "--store", folder / "store", "--output", folder / "page")
    result = command(*arguments)
    assert "residual-20  test_error (%)" in result.out
    assert "plain-56 has a higher training error than plain-20: undecided (plain-56 was not run)" in result.out
    assert str(folder / "page" / "report.html") in result.err


def test_a_dry_run_prints_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    arguments = ("study", NAME, *ROWS, "--dry-run", "--store", tmp_path / "store", "--output", tmp_path / "page")
    value = command(*arguments, "--json").value
    assert value["num_missing"] == 4
    assert value["seconds"] > 0
    assert [row["done"] for row in value["rows"]] == [0, 0]
    assert all(row["memory_bytes"] > 0 and row["preset"] for row in value["rows"])
    assert not any(tmp_path.iterdir())
    assert "remaining: 4 trainings" in command(*arguments).out


def test_missing_data_is_reported_with_the_next_step(command: Command, tmp_path: Path) -> None:
    arguments = ("study", NAME, "--scale", "short", "--rows", "plain-20,plain-32", "--data-dir", tmp_path / "none")
    result = command(*arguments, "--store", tmp_path / "store", "--output", tmp_path / "page")
    assert "plain-20, plain-32 cannot run here: required: cifar10" in result.err
    assert not (tmp_path / "store").exists()
    assert command(*arguments, "--store", tmp_path / "store", "--dry-run").out.endswith(
        "remaining: nothing that can run here\n"
    )
    nothing = command(*arguments, "--store", tmp_path / "store", "--slurm", tmp_path / "array.sh")
    assert nothing.code == 1
    assert "not in the script: plain-20, plain-32 cannot run here" in nothing.err
    assert "got: nothing that can run here" in nothing.err


@pytest.mark.soak
def test_slurm_writes_a_script_that_runs(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("study", NAME, *ROWS, "--store", tmp_path / "store")
    script = tmp_path / "array.sh"
    assert command(*arguments, "--slurm", script).code == 0
    bash = shutil.which("bash")
    assert bash is not None
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "3"}
    subprocess.run([bash, str(script)], check=True, env=environment, capture_output=True, timeout=300)
    command(*arguments, "--slurm", script)
    assert "--array=0-2\n" in script.read_text()


def test_a_failed_training_is_an_error_after_the_report_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do(job: StudyJob, context: JobContext) -> StoreEntry:
        if job.row.spec.name == "residual-20":
            raise RuntimeError("the lights went out")
        return work.run_job(job, context)

    monkeypatch.setattr(run_study, "run_job", do)
    arguments = ("study", NAME, "--rows", "plain-20,residual-20", "--seeds", "1", "--device", "cpu", "--json")
    arguments = (*arguments, "--store", str(tmp_path / "store"), "--output", str(tmp_path / "page"))
    result = command(*arguments)
    assert result.code == 1
    assert [row["seeds"] for row in result.value["rows"]] == [1, 0]
    assert "the lights went out" in (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert "1 training failed" in result.err
    monkeypatch.undo()
    assert command(*arguments).code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("study", "he2015/degredation"), "nearest: 'he2015/degradation'"),
        (("study", "veit"), "nearest: 'veit2016/lesion'"),
        (("study", NAME, "--rows", "plain-21"), "'plain-20'"),
        (("study", NAME, "--scale", "ful"), "unknown scale 'ful'; nearest: 'full'"),
        (("study", NAME, *ROWS, "--task", "7"), "a task from 0 to 3"),
        (("studies", "he2051"), "unknown study 'he2051'"),
    ],
)
def test_mistakes(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    result = command(*arguments)
    assert result.code == 1
    assert expected in result.err
    assert "error" in json.loads(command(*arguments, "--json").out)


def test_studies_are_listed(command: Command) -> None:
    value = command("studies", "--json").value
    assert [study["name"] for study in value] == list(STUDIES)
    assert all(study["reference"] for study in value)
    assert NAME in command("studies").out
    some = command("studies", "he2015", "--json").value
    assert {study["name"].split("/")[0] for study in some} == {"he2015"}
