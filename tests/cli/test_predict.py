"""`reslab predict`: table, JSON and CSV of the same predictions."""

import csv
import io
from pathlib import Path

import pytest

from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.spec.preprocess import Preprocess
from tests.cli.conftest import Command


def test_the_promised_keys(command: Command, trained: Path, image_folder: Path) -> None:
    outcome = command("predict", trained, image_folder, "--json")
    assert outcome.code == 0
    rows = outcome.value["predictions"]
    assert [Path(row["path"]).name for row in rows] == [*(f"{index}.png" for index in range(6)), "broken.png"]
    assert {"name", "probability"} == set(rows[0]["classes"][0])
    assert "error" not in rows[0]
    assert rows[-1]["classes"] == []
    assert "not an image" in rows[-1]["error"]


def test_csv_and_json_agree(command: Command, trained: Path, image_folder: Path) -> None:
    expected = command("predict", trained, image_folder, "--json", "-k", "2").value["predictions"]
    lines = list(csv.DictReader(io.StringIO(command("predict", trained, image_folder, "--csv", "-k", "2").out)))
    assert len(lines) == 6 * 2 + 1
    assert lines[0]["class"] == expected[0]["classes"][0]["name"]
    assert float(lines[0]["probability"]) == pytest.approx(expected[0]["classes"][0]["probability"], rel=1e-5)
    assert lines[-1]["error"] == expected[-1]["error"]


def test_the_table(command: Command, trained: Path, image_folder: Path) -> None:
    outcome = command("predict", trained, image_folder / "0.png", image_folder / "broken.png")
    assert outcome.code == 0
    assert "0.png" in outcome.out
    assert "not an image" in outcome.out
    assert outcome.err == "torch, float32, on cpu\n1 of 2 files could not be read\n"


def test_no_readable_file_is_a_failure_with_rows(command: Command, trained: Path, image_folder: Path) -> None:
    outcome = command("predict", trained, image_folder / "broken.png", image_folder / "gone.png", "--json")
    assert outcome.code == 1
    assert [bool(row["error"]) for row in outcome.value["predictions"]] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("RUN", "EMPTY"), "images ("),
        (("nowhere", "0.png"), "nowhere"),
        (("IMAGE", "RUN"), "the model before the images"),
        (("RUN", "0.png", "--json", "--csv"), "one of"),
        (("RUN", "0.png", "--resume"), "--output FILE"),
        (("RUN", "0.png", "--output", "out.txt"), "out.csv"),
        (("RUN", "0.png", "--backend", "tensorrt"), "unknown backend"),
        (("RUN", "0.png", "--backend", "openvino", "--compile"), "leave out --compile"),
    ],
)
def test_mistakes_raise_helpful_errors(
    command: Command,
    trained: Path,
    image_folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    places = {"RUN": trained, "EMPTY": tmp_path, "IMAGE": image_folder / "0.png"}
    outcome = command("predict", *(places.get(word, word) for word in arguments))
    assert outcome.code == 1
    assert expected in outcome.out + outcome.err
    assert "unexpected error" not in outcome.err


def test_predict_rejects_an_exported_graph_without_its_report(command: Command, tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    graph.write_bytes(b"anything")
    outcome = command("predict", graph, "0.png")
    assert outcome.code == 1
    assert "net.onnx.report.json beside the graph" in outcome.err


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_a_file_of_predictions(
    command: Command, trained: Path, image_folder: Path, tmp_path: Path, ending: str
) -> None:
    target = tmp_path / f"out.{ending}"
    first = command("predict", trained, image_folder / "0.png", image_folder / "1.png", "-o", target)
    assert (first.code, first.out) == (0, "")
    assert "2 rows" in first.err
    again = command("predict", trained, image_folder, "-o", target)
    assert again.code == 1
    assert "--resume" in again.err
    more = command("predict", trained, image_folder, "-o", target, "--resume", "--json")
    assert "7 rows" in more.err
    assert "2 of them from before" in more.err
    plain = command("predict", trained, image_folder, "--json")
    assert more.value["output"] == str(target)
    continued, expected = more.value["predictions"], plain.value["predictions"]
    assert [row["path"] for row in continued] == [row["path"] for row in expected]
    for ours, theirs in zip(continued, expected, strict=True):
        assert [each["name"] for each in ours["classes"]] == [each["name"] for each in theirs["classes"]]
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


def test_a_backend_by_name(command: Command, trained: Path, image_folder: Path) -> None:
    outcome = command("predict", trained, image_folder, "--backend", "onnxruntime", "--precision", "int8", "--json")
    assert outcome.code == 0
    assert outcome.value["backend"] == "onnxruntime, int8, on cpu"
    plain = command("predict", trained, image_folder, "--json").value["predictions"]
    first = [row["classes"][0]["name"] for row in plain[:6]]
    assert [row["classes"][0]["name"] for row in outcome.value["predictions"][:6]] == first
    refused = command("predict", trained / "model.safetensors", image_folder, "--precision", "int8")
    assert "reslab export" in refused.err


def test_embeddings_and_grad_cam(command: Command, trained: Path, image_folder: Path, tmp_path: Path) -> None:
    expected = command(
        "predict", trained, image_folder / "0.png", "--embeddings", "--grad-cam", tmp_path / "maps", "--json"
    )
    (row,) = expected.value["predictions"]
    assert len(row["embedding"]) == 64
    assert Path(row["grad_cam"]).is_file()


def test_ctrl_c_keeps_what_was_done(
    command: Command, trained: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reslab.deploy import predict as prediction

    def stopped(*rest: object, **options: object) -> object:
        yield from list(real(*rest, **options))[:2]
        raise KeyboardInterrupt

    real = prediction.iter_predictions
    monkeypatch.setattr(prediction, "iter_predictions", stopped)
    target = tmp_path / "out.csv"
    outcome = command("predict", trained, image_folder, "-o", target)
    assert outcome.code == 130
    assert "--resume" in outcome.err
    assert not target.exists()
    monkeypatch.undo()
    assert "2 of them from before" in command("predict", trained, image_folder, "-o", target, "--resume").err


def test_larger_images_are_refused(command: Command, trained: Path, image_folder: Path) -> None:
    outcome = command("predict", trained, image_folder / "0.png", "--max-pixels", "1", "--json")
    assert outcome.code == 1
    assert "at most 1 pixels" in outcome.value["predictions"][0]["error"]


def test_values_are_a_column_each(command: Command, image_folder: Path, tmp_path: Path) -> None:
    network = create_model("resnet20_cifar", num_classes=2, in_channels=1, image_size=(8, 8), depths=(1, 1, 1))
    task = {"name": "regression", "mean": [40.0, -3.0], "std": [12.0, 0.5]}
    network.set_metadata(classes=("age", "tilt"), preprocess=Preprocess(1, "", (0.5,), (0.5,)), task=task)
    save_weights(tmp_path / "model.safetensors", network)
    rows = command("predict", tmp_path / "model.safetensors", image_folder, "--json").value["predictions"]
    lines = command("predict", tmp_path / "model.safetensors", image_folder).out.splitlines()
    assert lines[0].split() == ["image", "age", "tilt"]
    for line, row in zip(lines[1:], rows, strict=True):
        name, *numbers = line.split()
        assert name == row["path"]
        if "error" not in row:
            assert [float(number) for number in numbers] == pytest.approx(list(row["values"].values()), rel=1e-3)


def test_labels_are_listed_by_their_thresholds(command: Command, image_folder: Path, tmp_path: Path) -> None:
    network = create_model("resnet20_cifar", num_classes=2, in_channels=1, image_size=(8, 8), depths=(1, 1, 1))
    task = {"name": "multi-label", "thresholds": [0.0, 1.5]}
    network.set_metadata(classes=("always", "never"), preprocess=Preprocess(1, "", (0.5,), (0.5,)), task=task)
    save_weights(tmp_path / "model.safetensors", network)
    out = command("predict", tmp_path / "model.safetensors", image_folder).out
    assert "always" in out
    assert "never" not in out
    out = command("predict", tmp_path / "model.safetensors", image_folder, "-k", "2").out
    assert "below their thresholds" in out.splitlines()[0]
    assert "never" in out
