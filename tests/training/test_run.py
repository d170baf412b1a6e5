"""The run folder: begun, opened, listed, shown, and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from reslab.analysis.open_targets import parse_target
from reslab.nn.factory import resolve_arch
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.training.run import Run, list_runs, make_run_path, require_empty_dir

FACTS: dict[str, Any] = {
    "model": {"name": "m", "arch": None},
    "recipe": {},
    "data": {"name": "d", "classes": ["a", "b"]},
}


def test_a_run_is_begun_and_opened(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "one", FACTS)
    again = Run(str(run.path))
    assert again.metadata == FACTS
    assert again.classes == ("a", "b")
    assert again.name == "one"
    assert again.arch is None
    assert again.model_spec == "m"
    assert again.top1 is None
    assert "not finished" in repr(again)
    again.update(result={"top1": 0.75})
    assert Run(run.path).top1 == 0.75
    assert "top1 0.7500" in repr(Run(run.path))


@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"order": "full-preact", "merge": "none"},
        {"depths": (1, 2, 1), "stem": "conv3(8) norm act", "bias": True, "replace_stride_with_dilation": (False, True)},
    ],
)
def test_the_network_is_told_with_its_axes_and_found_again_by_them(tmp_path: Path, axes: dict[str, Any]) -> None:
    of_data = {"num_classes": 7, "in_channels": 1, "image_size": (8, 8)}
    arch = resolve_arch("resnet20_cifar", {**axes, **of_data})
    run = Run.create(tmp_path / "run", {**FACTS, "model": {"name": arch.name, "arch": to_dict(arch)}})
    [place] = parse_target(run.model_spec)
    assert place.arch_overrides.keys() == axes.keys()
    assert resolve_arch(place.arch_name, {**place.arch_overrides, **of_data}) == arch


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


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    Run.create(tmp_path / "runs" / "one", FACTS)
    with pytest.raises(ValueError, match=r"without run\.json.*runs.one"):
        Run(tmp_path / "runs")
    with pytest.raises(ValueError, match="nothing there"):
        Run(tmp_path / "absent")
    (tmp_path / "runs" / "one" / "run.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="a readable run"):
        Run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "run.json").write_text('["other"]')
    with pytest.raises(ValueError, match="another program"):
        Run(tmp_path / "runs" / "one")


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


def test_the_folder_of_a_run_tells_all(digits_run: Run) -> None:
    names = {path.name for path in digits_run.path.iterdir()}
    assert names == {"run.json", "log.jsonl", "model.safetensors", "predictions.npz", "checkpoint", "report.html"}
    facts = json.loads((digits_run.path / "run.json").read_text())
    wanted = {"model", "recipe", "data", "seed", "versions", "hardware", "command", "commit", "precision", "result"}
    assert wanted <= facts.keys()
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
