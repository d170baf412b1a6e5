"""The commands that list: models, recipes, runs, doctor."""

import os
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from reslab.cli.doctor import list_caches
from reslab.cli.output import print_table, to_jsonable
from reslab.data import dataset_info
from reslab.data.cache import write_json
from reslab.data.dataset_info import download_with_torchvision, search_dirs
from reslab.data.named import DATASETS
from reslab.runtime.files import cache_dir
from reslab.spec.recipes import RECIPES
from reslab.spec.transforms import TRANSFORMS
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import DENSE_ARCHS
from tests.cli.conftest import Command


def test_models_are_all_there(command: Command) -> None:
    value = command("models", "--json").value
    assert [row["name"] for row in value] == [*ARCHS, *DENSE_ARCHS]
    assert all(row["reference"] for row in value)


def test_models_of_a_kind(command: Command) -> None:
    value = command("models", "resnet50", "--kind", "segmentation", "--json").value
    assert {"fcn_resnet50", "deeplabv3_resnet50"} <= {row["name"] for row in value}
    assert {row["kind"] for row in value} == {"segmentation"}
    assert "segmentation" in command("models", "--kind", "segment").err
    assert "unet_resnet20_cifar" in command("models", "resnet18_cifar", "--kind", "segmentation").err


def test_models_by_a_part_and_by_a_pattern(command: Command) -> None:
    assert [row["name"] for row in command("models", "resnet18_d2l", "--json").value] == ["resnet18_d2l"]
    wild = {row["name"] for row in command("models", "resnet*_cifar", "--json").value}
    assert "resnet20_cifar" in wild
    assert not any(name.startswith("plain") for name in wild)
    assert command("models", "preresnet").out.count("preresnet") >= 4


def test_a_pattern_that_no_model_fits_is_an_error(command: Command) -> None:
    assert "resnet50" in command("models", "resnt50", "--json").value["error"]
    outcome = command("models", "resnt50")
    assert (outcome.code, outcome.out) == (1, "")
    assert "resnet50" in outcome.err


def test_recipes_are_all_there(command: Command) -> None:
    value = command("recipes", "--json").value
    assert [row["name"] for row in value] == list(RECIPES)
    assert value[0]["optimizer"]["lr"] == next(iter(RECIPES.values())).optimizer.lr
    assert "he2015-cifar" in command("recipes").out


def test_runs_are_listed(command: Command, trained: Path) -> None:
    value = command("runs", trained.parent, "--json").value
    assert [row["name"] for row in value] == ["digits"]
    assert {"name", "reference", "run", "model", "data", "top1", "finished"} <= set(value[0])
    assert value[0]["finished"] is True
    assert str(trained) in command("runs", trained.parent).out


def test_runs_of_an_empty_folder_prints_a_hint(command: Command, tmp_path: Path) -> None:
    outcome = command("runs", tmp_path / "none")
    assert (outcome.code, outcome.out) == (0, "")
    assert "reslab train" in outcome.err
    assert command("runs", tmp_path / "none", "--json").value == []


def test_doctor_lists_what_is_there(command: Command) -> None:
    facts = command("doctor", "--json").value
    assert facts["versions"]["torch"]
    assert facts["devices"][-1]["device"] == "cpu"
    assert "float32" in facts["devices"][-1]["precisions"]
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(facts["extras"]) == set(extras)
    for name, requirements in extras.items():
        named = {Requirement(text).name for text in requirements} - {"reslab"}
        assert set(facts["extras"][name]["packages"]) == named
        assert facts["extras"][name]["installed"] == all(facts["extras"][name]["packages"].values())
    shown = command("doctor").out
    assert facts["versions"]["torch"] in shown
    assert facts["caches"]["data"]["path"] in shown


def test_doctor_names_what_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def version_of(name: str) -> str:
        if name == "onnx":
            raise PackageNotFoundError(name)
        return "0.1" if name == "timm" else version(name)

    monkeypatch.setattr("reslab.cli.doctor.version", version_of)
    extras = command("doctor", "--json").value["extras"]
    assert extras["onnx"]["packages"]["onnx"] is None
    assert extras["onnx"]["install_command"] == "pip install 'reslab[onnx]'"
    assert not extras["timm"]["installed"]
    shown = command("doctor").out
    assert "onnx missing" in shown
    assert "pip install 'reslab[onnx]'" in shown
    assert "timm 0.1 (needs >=1.0.20)" in shown
    assert "pip install 'reslab[parquet]'" not in shown


def test_the_data_cache_follows_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("RESLAB_CACHE")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert cache_dir() == tmp_path / "reslab"
    assert {cache["path"] for cache in list_caches().values()} == {
        str(tmp_path / "reslab"),
        str(tmp_path / "torch" / "hub" / "checkpoints"),
    }
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path.home() / ".cache" / "reslab"
    monkeypatch.setenv("RESLAB_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(ValueError, match="a folder as RESLAB_CACHE; got: '~nobody-of-this-name/cache'"):
        cache_dir()


def test_a_cache_that_cannot_be_used_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an unsearchable folder, under a name that no system can have, beside a file, and for a user without a home."""
    monkeypatch.setattr(dataset_info, "_download", lambda name, root: None)
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    is_locked = (tmp_path / "locked").__eq__
    monkeypatch.setattr(os, "access", lambda path, mode: not is_locked(path))
    for folder in ("locked", "x" * 300, "file/inside"):
        monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / folder))
        assert not list_caches()["data"]["exists"] or folder == "locked"
        assert not write_json(cache_dir() / "a.json", {}) or folder == "locked"
        info = replace(DATASETS["mnist"], system_dirs=())
        searched = search_dirs(info, tmp_path)
        assert searched[:2] == [tmp_path, tmp_path / "mnist"]
        assert (len(searched) == 2) == (folder != "file/inside")
        assert all(not (directory / "a").is_file() for directory in searched)
    monkeypatch.delenv("RESLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert not list_caches()["data"]["exists"]
    assert not write_json(cache_dir() / "a.json", {})
    with pytest.raises(ValueError, match="or name their folder with --data-dir"):
        download_with_torchvision(info, "MNIST", None, "the four files")


def test_a_table_lines_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "count"], [("a", "1,000"), ("longer", "7"), ("b", None)])
    assert capsys.readouterr().out == "name    count\na       1,000\nlonger      7\nb\n"


def test_values_that_json_does_not_have_are_null() -> None:
    assert to_jsonable({"a": (1, float("nan")), 2: [float("inf")]}) == {"a": [1, None], "2": [None]}


def test_transforms_are_all_there(command: Command) -> None:
    result = {row["name"]: row for row in command("transforms", "--json").value}
    assert list(result) == list(TRANSFORMS)
    assert all(row["reference"] and row["summary"] and row["example"] for row in result.values())
    degrees = result["rotate"]["args"][0]
    assert (degrees["type"], degrees["minimum"], degrees["maximum"], degrees["required"]) == ("float", 0, 180, True)
    interpolation = result["resize"]["args"][2]
    assert (interpolation["choices"], interpolation["default"]) == (["bilinear", "bicubic"], "bilinear")
    shown = command("transforms").out
    assert all(name in shown for name in TRANSFORMS)


def test_one_transform_with_its_arguments(command: Command) -> None:
    shown = command("transforms", "affine").out
    assert "arXiv" not in shown
    assert "RandomAffine" in shown
    assert [line.split()[0] for line in shown.splitlines()[-7:]] == [arg.name for arg in TRANSFORMS["affine"].args]
    assert command("transforms", "affine", "--json").value["name"] == "affine"
    wrong = command("transforms", "RandomRotation")
    assert (wrong.code, wrong.out) == (1, "")
    assert "nearest valid: rotate(15)" in wrong.err
