"""The run folder: begun, opened, listed, shown, and refused."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reslab.analysis.open_targets import parse_target
from reslab.runtime.files import with_checksum
from reslab.runtime.locks import LEASE_SECONDS
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipes import find_recipe
from reslab.spec.zoo.resolve import resolve_arch
from reslab.training.run import Run, list_runs
from reslab.training.run_folder import lock_run, make_run_path, require_empty_dir
from reslab.training.train import train

FACTS: dict[str, Any] = {
    "model": {"name": "m", "reference": "r", "arch": None},
    "recipe": to_dict(find_recipe("digits")),
    "data": {
        "name": "d",
        "requested": None,
        "data_dir": None,
        "classes": ["a", "b"],
        "num_images": {"test": 2},
        "eval_split": "test",
        "preprocess": to_dict(Preprocess(1, "", (0.0,), (1.0,))),
        "split_record": {},
        "fingerprint": "f",
        "skipped_files": [],
    },
    "seed": 0,
    "val_fraction": None,
    "pretrained": None,
    "loss": None,
    "task": {"name": "classification"},
}


def test_a_run_is_begun_and_opened(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "one", FACTS)
    again = Run(str(run.path))
    assert again.metadata == FACTS
    assert again.classes == ("a", "b")
    assert again.name == "one"
    assert again.arch is None
    assert again.model_spec == "m"
    assert again.main_metric is None
    assert "not finished" in repr(again)
    again.update(result={"top1": 0.75, "loss": 0.5, "num_samples": 4})
    assert Run(run.path).main_metric == 0.75
    assert "top1 0.7500" in repr(Run(run.path))


@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"order": "full-preact", "merge": "none"},
        {"depths": (1, 2, 1), "stem": "conv3(8) norm act", "bias": True, "replace_stride_with_dilation": (False, True)},
    ],
)
def test_the_network_is_reported_with_its_axes_and_built_again_from_them(tmp_path: Path, axes: dict[str, Any]) -> None:
    of_data = {"num_classes": 7, "in_channels": 1, "image_size": (8, 8)}
    arch = resolve_arch("resnet20_cifar", {**axes, **of_data})
    run = Run.create(tmp_path / "run", {**FACTS, "model": {"name": arch.name, "reference": "r", "arch": to_dict(arch)}})
    [spec] = parse_target(run.model_spec)
    assert spec.arch_overrides.keys() == axes.keys()
    assert resolve_arch(spec.arch_name, {**spec.arch_overrides, **of_data}) == arch


def test_an_empty_folder_will_do_and_a_full_one_will_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = Run.create(tmp_path / "empty", FACTS)
    with pytest.raises(ValueError, match=r"contains a run.*--resume"):
        Run.create(run.path, {**FACTS, "seed": 2})
    assert Run(run.path).metadata == FACTS
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"other files.*--output"):
        Run.create(tmp_path / "other", FACTS)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "all of it"
    with pytest.raises(ValueError, match="new or empty"):
        require_empty_dir(tmp_path / "other" / "thesis.tex")


def test_what_is_no_run_is_reported(tmp_path: Path) -> None:
    Run.create(tmp_path / "runs" / "one", FACTS)
    with pytest.raises(ValueError, match=r"without run\.json.*runs.one"):
        Run(tmp_path / "runs")
    with pytest.raises(ValueError, match="nothing there"):
        Run(tmp_path / "absent")
    (tmp_path / "runs" / "one" / "run.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"a complete JSON object.*run\.json"):
        Run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "run.json").write_text('["other"]')
    with pytest.raises(ValueError, match=r"a JSON object.*run\.json"):
        Run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "run.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match="another program"):
        Run(tmp_path / "runs" / "one")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "3"),
        ("seed", True),
        ("recipe", {"no_such": 1}),
        ("recipe", []),
        ("recipe", {"name": "x"}),
        ("model", {"name": "m", "reference": "r", "arch": {"name": "x"}}),
        ("model", {"name": "m", "reference": "r"}),
        ("data", {**FACTS["data"], "classes": "ab"}),
        ("data", {**FACTS["data"], "classes": [1, 2]}),
        ("data", {**FACTS["data"], "preprocess": {}}),
        ("result", {"num_samples": "9", "loss": 1.0}),
        ("result", {"loss": 1.0}),
        ("temperature", 1.5),
    ],
)
def test_a_value_of_a_wrong_type_is_named(key: str, value: Any, tmp_path: Path) -> None:
    text = json.dumps(with_checksum({**FACTS, key: value}))
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"required: .*{key}.*run\.json|run\.json.*{key}"):
        Run(tmp_path)


@pytest.mark.parametrize("key", FACTS)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(with_checksum({name: FACTS[name] for name in FACTS if name != key})))
    with pytest.raises(ValueError, match=rf"{key}.*run\.json"):
        Run(tmp_path)


def test_each_flipped_byte_of_run_json_is_reported_or_changes_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {**FACTS, "command": "reslab train /data/h\udce4user/ä"})
    path, num_reported = run.path / "run.json", 0
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x12]) + whole[index + 1 :])
        try:
            assert Run(run.path).metadata == run.metadata
        except ValueError as error:
            num_reported += "run.json" in str(error)
    assert num_reported > len(whole) / 2


def test_a_locked_run_names_the_process_that_holds_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", FACTS)
    holder = start_holder(run.path)
    host, year = re.escape(socket.gethostname()), time.strftime("%Y")
    with pytest.raises(ValueError, match=rf"locked by process {holder.pid} on {host} since {year}-.*--resume"):
        train(output=run.path, resume=True)
    holder.kill()
    holder.communicate()
    assert (run.path / ".lock").exists()
    with lock_run(run.path):
        pass
    assert [entry.name for entry in run.path.iterdir()] == ["run.json"]


def start_holder(path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of a run until it is killed."""
    code = "import sys, time; from pathlib import Path; from reslab.training.run_folder import lock_run\n"
    code += f"with lock_run(Path({str(path)!r})):\n    print('held', flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    holder = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_lock_of_another_machine_is_free_once_it_is_old(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", FACTS)
    lock = run.path / ".lock"
    with lock_run(run.path):
        record = re.sub("host=.*", "host=elsewhere", lock.read_text())
    lock.write_text(record)
    with pytest.raises(ValueError, match="on elsewhere"), lock_run(run.path):
        pytest.fail("the lock of another machine was taken")
    os.utime(lock, (time.time() - LEASE_SECONDS - 60,) * 2)
    with lock_run(run.path):
        assert f"pid={os.getpid()}\n" in lock.read_text()


@pytest.fixture(scope="module")
def killed_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a process left which was killed before run.json was whole."""
    output = tmp_path_factory.mktemp("killed") / "run"
    code = "import os, signal, reslab.runtime.files as files; from reslab.training.train import train\n"
    code += "files._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += f"train(output={str(output)!r}, epochs=1)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    return output


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_killed_before_run_json_is_begun_again(
    resume: bool, killed_start: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(killed_start, output)
    left = [entry.name for entry in output.iterdir()]
    assert ".lock" in left
    assert any(name.endswith(".part") for name in left)
    run = train(output=output, resume=resume, **{**tiny, "epochs": 1})
    assert run.main_metric is not None
    assert not list(run.path.rglob(".*"))


def test_resuming_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "digits-1").mkdir()
    with pytest.raises(ValueError, match=r"digits-2, which does not exist; nearest valid: .*digits-1; omit --resume"):
        train(output=tmp_path / "digits-2", resume=True)
    assert not (tmp_path / "digits-2").exists()


def test_runs_are_listed_by_name_and_others_passed_over(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == []
    for name in ("b", "a", "broken"):
        Run.create(tmp_path / name, FACTS)
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["a", "b"]


def test_names_of_new_folders_are_free_and_plain(tmp_path: Path) -> None:
    first = make_run_path("resnet20_cifar", "my photos/2024", tmp_path)
    assert first.name.endswith("-resnet20_cifar-my-photos-2024")
    first.mkdir()
    second = make_run_path("resnet20_cifar", "my photos/2024", tmp_path)
    assert second != first
    assert not second.exists()


def test_the_folder_of_a_run_describes_it(digits_run: Run) -> None:
    names = {path.name for path in digits_run.path.iterdir()}
    assert names == {"run.json", "log.jsonl", "model.safetensors", "predictions.npz", "checkpoint", "report.html"}
    facts = json.loads((digits_run.path / "run.json").read_text())
    expected = {"model", "recipe", "data", "seed", "versions", "hardware", "command", "commit", "precision", "result"}
    assert expected <= facts.keys()
    assert facts["seed"] == 3
    assert {"torch", "reslab", "python"} <= facts["versions"].keys()
    assert isinstance(digits_run.arch, Arch)
    assert digits_run.arch.depths == (1, 1, 1)
    assert digits_run.arch.in_channels == 1
    assert digits_run.recipe.duration == "2 epochs"
    assert digits_run.classes == tuple("0123456789")


def test_a_notebook_shows_the_report_and_nothing_leaks_out_of_its_frame(digits_run: Run, tmp_path: Path) -> None:
    shown = digits_run._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown
    assert shown.count("<iframe") == 1
    assert "not finished" in Run.create(tmp_path / "new", FACTS)._repr_html_()
