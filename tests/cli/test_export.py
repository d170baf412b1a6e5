"""`reslab export`: its keys, its table, and its errors."""

import json
from pathlib import Path

from tests.cli.conftest import Command


def test_the_json_keys(command: Command, trained: Path, tmp_path: Path) -> None:
    result = command("export", trained, "--to", "torch", "--output", tmp_path / "net.pt2", "--num-images", 20, "--json")
    assert result.code == 0
    assert result.value["path"] == str(tmp_path / "net.pt2")
    assert result.value["agreement"] == 1.0
    assert result.value["num_images"] == 20
    report = json.loads(Path(result.value["report"]).read_text())
    assert report == {key: value for key, value in result.value.items() if key not in ("path", "report")}


def test_a_table_for_people(command: Command, trained: Path, tmp_path: Path) -> None:
    shown = command("export", trained, "--to", "safetensors", "-o", tmp_path / "hub", "--num-images", 20)
    assert shown.code == 0
    assert "20 images of digits (test)" in shown.out
    assert "20 of 20 images\n" in shown.out
    assert (tmp_path / "hub" / "config.json").is_file()


def test_mistakes_raise_helpful_errors(command: Command, trained: Path, tmp_path: Path) -> None:
    refused = command("export", trained, "--to", "onx", "--json")
    assert refused.code == 1
    assert "nearest: 'onnx'" in refused.value["error"]
    assert "which it lacks" in command("export", trained, "--to", "torchvision").err
    assert "no such file" in command("export", tmp_path / "gone", "--to", "torch").err
    assert command("export", trained).code == 2
