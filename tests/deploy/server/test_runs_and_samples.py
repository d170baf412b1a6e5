"""`/v1/models`: evaluation images, log and confusion matrix of a run; weights files and runs in training."""

import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.deploy.server.app import create_app
from reslab.deploy.server.model_handle import model_names
from reslab.deploy.server.settings import ServerSettings
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.run import Run
from reslab.training.tasks.classification import Classification


def test_models_are_described(client: TestClient, runs: list[Run]) -> None:
    net, plain = client.get("/v1/models").json()["models"]
    assert [net["name"], plain["name"]] == ["net", "plain"]
    assert (net["input_size"], net["classes"], net["finished"]) == ([1, 8, 8], [str(i) for i in range(10)], True)
    assert net["metrics"]["top1"] == runs[0].main_metric
    assert net["params"] == sum(parameter.numel() for parameter in load_run_network(runs[0]).parameters())
    units = {unit["name"]: unit for stage in net["stages"] for unit in stage["blocks"]}
    assert list(units) == ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0"]
    assert units["layer1.0"]["swappable_with"] == ["layer1.1", "layer2.1"]  # of equal channels and stride
    assert units["layer2.0"]["layout"] == "conv3/2 norm act conv3 norm + act"
    assert (units["layer3.0"]["output_shape"], units["layer3.0"]["stride"]) == ([24, 2, 2], 2)
    twins = {unit["name"]: unit for stage in plain["stages"] for unit in stage["blocks"]}
    assert [name for name, unit in twins.items() if not unit["can_disable"]] == ["layer2.0", "layer3.0"]
    assert "changes the shape" in twins["layer3.0"]["reason"]
    assert twins["layer1.0"]["layout"] == "conv3 norm act conv3 norm act"


def test_samples_are_the_test_images(client: TestClient, digits: DatasetSplits) -> None:
    samples = client.get("/v1/models/net/samples", params={"n": 40}).json()["samples"]
    images = digits.split("test")
    assert len({row["id"] for row in samples}) == 40
    assert {row["label"] for row in samples} == set(digits.classes)
    for row in samples[:3]:
        assert row["label"] == digits.classes[int(images.labels[row["id"]])]
        response = client.get(f"/v1/models/net/samples/{row['id']}.png")
        assert response.headers["content-type"] == "image/png"
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(response.content))), images.preview(row["id"])[0].numpy()
        )
    body = client.get("/v1/models/net/samples").json()
    assert (body["samples"], body["split"]) == (samples[:24], "test")


@pytest.mark.parametrize("number", ["359", "-1", "x", "1e3", "../1", "..%2f..%2frun.json", "99999999999999999999"])
def test_a_sample_is_a_number_and_never_a_path(client: TestClient, number: str) -> None:
    response = client.get(f"/v1/models/net/samples/{number}.png")
    assert response.status_code in (404, 422)
    assert set(response.json()) == {"error", "kind"}


def wait_until_evaluated(client: TestClient, name: str) -> dict[str, Any]:
    for _ in range(100):
        response: dict[str, Any] = client.get(f"/v1/models/{name}/run").json()
        if response["evaluated"]:
            return response
    raise AssertionError("never evaluated")


def test_a_run_with_its_matrix(client: TestClient, runs: list[Run], digits: DatasetSplits) -> None:
    result = wait_until_evaluated(client, "net")
    network = load_run_network(runs[0])
    assert network.preprocess is not None
    batches = eval_loader(digits.split("test"), 64, network.preprocess, "cpu")
    expected = evaluate_batches(network, batches, Classification(digits.classes))
    assert result["confusion_matrix"] == [list(row) for row in expected.confusion_matrix]
    assert result["num_images"] == expected.num_samples
    assert (result["finished"], result["step"], result["num_steps"]) == (True, 22, 22)
    assert result["log"] == runs[0].log.records()
    later = client.get("/v1/models/net/run", params={"since": 1}).json()
    assert later["log"] == result["log"][1:]
    batches = eval_loader(digits.split("test"), 64, network.preprocess, "cpu")
    kept = evaluate_batches(network, batches, Classification(digits.classes), keep_predictions=True)
    assert kept.probabilities is not None
    assert kept.labels is not None
    true = kept.probabilities.double().gather(1, kept.labels[:, None])[:, 0]
    wrong = (kept.probabilities.argmax(1) != kept.labels).nonzero().flatten().tolist()
    top = sorted(((-math.log(float(true[i])), i) for i in wrong), reverse=True)[:24]
    assert [row["id"] for row in result["misclassified"]] == [i for _, i in top]
    assert [row["loss"] for row in result["misclassified"]] == pytest.approx([loss for loss, _ in top], rel=1e-4)
    assert result["per_class"][3]["num_samples"] == sum(expected.confusion_matrix[3])


def test_the_images_of_a_cell(client: TestClient, digits: DatasetSplits) -> None:
    result = wait_until_evaluated(client, "net")
    for true, called in ((0, 0), (8, 1)):
        rows = client.get("/v1/models/net/confusion", params={"true": true, "predicted": called}).json()["samples"]
        assert len(rows) == result["confusion_matrix"][true][called]
        assert all(int(digits.split("test").labels[row["id"]]) == true for row in rows)
    assert client.get("/v1/models/net/confusion", params={"true": 0, "predicted": 10}).status_code == 422


def test_weights_alone_are_enough_to_predict(weights: Path, png: bytes, settings: ServerSettings) -> None:
    with TestClient(create_app([weights], settings)) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["name"], model["has_run"], model["eval_split"]) == ("alone", False, "test")
        assert client.post("/v1/predict", content=png).status_code == 200
        for way in ("run", "samples", "samples/1.png", "confusion?true=1&predicted=1"):
            response = client.get(f"/v1/models/alone/{way}")
            assert response.status_code == 404
            assert "a weights file" in response.json()["error"]
        assert client.post("/v1/lesion/curve").status_code == 404


@pytest.fixture
def unfinished(runs: list[Run], tmp_path: Path) -> Iterator[Path]:
    """A run before its first checkpoint: no result, no weights, a few log records."""
    folder = tmp_path / "growing"
    shutil.copytree(runs[0].path, folder)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    Run(folder).update(result=None)
    return folder


def test_a_run_in_training_is_shown_and_predicts_once_it_has_ended(
    unfinished: Path, runs: list[Run], png: bytes, settings: ServerSettings
) -> None:
    with TestClient(create_app([unfinished], settings)) as client:
        assert client.get("/readyz").status_code == 503
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["has_weights"], model["finished"]) == (False, False)
        assert model["stages"]
        response = client.post("/v1/predict", content=png)
        assert response.status_code == 503
        assert "first checkpoint" in response.json()["error"]
        before = client.get("/v1/models/growing/run").json()
        assert (before["finished"], before["confusion_matrix"], before["num_steps"]) == (False, None, 22)
        Run(unfinished).log.append({"kind": "train", "step": 23, "epoch": 1.05, "loss": 1.0})
        with (unfinished / "log.jsonl").open("a") as log:
            log.write('{"kind": "tra')
        assert client.get("/v1/models/growing/run").json()["step"] == 23
        for name in ("run.json", "model.safetensors"):
            shutil.copy(runs[0].path / name, unfinished / name)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/predict", content=png).status_code == 200
        assert client.get("/v1/models/growing/run").json()["finished"]


def test_a_run_with_missing_data_is_reported(runs: list[Run], tmp_path: Path, settings: ServerSettings) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(runs[0].path, folder)
    run = Run(folder)
    run.update(data={**run.metadata["data"], "requested": str(tmp_path / "nowhere")})
    with TestClient(create_app([folder], settings)) as client:
        response = client.get("/v1/models/lost/samples")
        assert response.status_code == 404
        assert "cannot be opened" in response.json()["error"]
        assert "cannot be opened" in wait_until_evaluated(client, "lost")["reason"]


def test_names_are_unlike(runs: list[Run], weights: Path) -> None:
    path = runs[0].path
    assert model_names([path, path, path / "model.safetensors", weights]) == ["net", "net-2", "net-3", "alone"]
    with pytest.raises(ValueError, match="at least one run"):
        model_names([])


def test_what_cannot_be_served_is_refused_at_once(tmp_path: Path, settings: ServerSettings) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        create_app([tmp_path], settings)
    with pytest.raises(FileNotFoundError):
        create_app([tmp_path / "nothing.safetensors"], settings)
