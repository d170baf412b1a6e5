"""Runs that are unusual or change while they are served: no blocks, moved, torn, in training, 1,000 classes."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from reslab.data.decode import read_image
from reslab.deploy.predictor import build_predictor
from reslab.deploy.server.app import create_app
from reslab.deploy.server.routes import models
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.config import to_dict
from reslab.spec.preprocess import Preprocess
from reslab.training.checkpoint import (
    TrainCheckpoint,
    checkpoint_path,
    load_run_network,
    load_train_checkpoint,
    save_train_checkpoint,
)
from reslab.training.run import Run
from reslab.training.train import train

NETWORKS_WITHOUT_BLOCKS = ("book_net", "book_width", "book_dropout", "book_batchnorm")


@pytest.fixture
def copied_run(runs: list[Run], tmp_path: Path) -> Path:
    """A copy of a run that tests may damage."""
    return Path(shutil.copytree(runs[0].path, tmp_path / "copy"))


def saved_network(path: Path, name: str, num_classes: int = 10, **overrides: object) -> Path:
    """Save an untrained network with preprocessing for 32x32 color images."""
    network = create_model(name, num_classes=num_classes, **overrides)
    preprocess = Preprocess(transform="", channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_weights(path, network, {"preprocess": to_dict(preprocess), "classes": [f"c{i}" for i in range(num_classes)]})
    return path


def test_networks_without_blocks_are_served_with_others(
    runs: list[Run], tmp_path: Path, settings: ServerSettings, png: bytes
) -> None:
    paths = [saved_network(tmp_path / f"{name}.safetensors", name) for name in NETWORKS_WITHOUT_BLOCKS]
    with TestClient(create_app([runs[0], *paths], settings)) as client:
        first, *others = client.get("/v1/models").json()["models"]
        assert (first["name"], len(first["stages"])) == ("net", 3)
        for name, model in zip(NETWORKS_WITHOUT_BLOCKS, others, strict=True):
            network = create_model(name, num_classes=10)
            assert (model["name"], model["stages"], model["problem"]) == (name, [], "")
            assert model["params"] == sum(parameter.numel() for parameter in network.parameters())
            response = client.post(f"/v1/lesion?model={name}", content=png).json()
            assert (response["responses"], response["classes"]) == ([], response["baseline"])
            assert client.post(f"/v1/lesion/curve?model={name}", content=png).json()["blocks"] == []
            assert client.post(f"/v1/block?model={name}&block=layer1.0", content=png).status_code == 422
            for route in ("predict", "explain"):
                assert client.post(f"/v1/{route}?model={name}", content=png).status_code == 200


def test_one_network_that_cannot_be_described_does_not_hide_the_others(
    runs: list[Run], settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(runs, settings)) as client:
        describe = models._describe_arch

        def fail_for_plain(arch: object) -> object:
            if getattr(arch, "merge", "") == runs[1].arch.merge:  # type: ignore[union-attr]
                raise ZeroDivisionError
            return describe(arch)  # type: ignore[arg-type]

        monkeypatch.setattr(models, "_describe_arch", fail_for_plain)
        net, plain = client.get("/v1/models").json()["models"]
        assert (net["problem"], plain["stages"]) == ("", [])
        assert "cannot be listed" in plain["problem"]


ROUTES = ("/v1/models/copy/run", "/v1/models/copy/samples", "/v1/models/copy/samples/3.png")


def statuses(client: TestClient) -> list[int]:
    """Return the statuses of the routes that read the run's files."""
    return [client.get(route).status_code for route in ROUTES]


def test_run_that_is_moved_is_404_and_still_predicts(
    copied_run: Path, runs: list[Run], settings: ServerSettings, png: bytes
) -> None:
    with TestClient(create_app([copied_run, runs[1]], settings)) as client:
        before = client.post("/v1/predict", content=png).json()["predictions"]
        copied_run.rename(copied_run.with_name("elsewhere"))
        response = client.get("/v1/models/copy/run")
        assert (response.status_code, "moved or deleted" in response.json()["error"]) == (404, True)
        models = client.get("/v1/models").json()["models"]
        assert [("moved or deleted" in model["problem"], model["finished"]) for model in models] == [
            (True, True),
            (False, True),
        ]
        assert client.post("/v1/predict", content=png).json()["predictions"] == before
        assert set(statuses(client)) <= {200, 404}
        assert client.get("/readyz").status_code == 200
        copied_run.with_name("elsewhere").rename(copied_run)
        assert statuses(client) == [200, 200, 200]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 1, "recipe": 2, "data": 3}'])
def test_torn_metadata_is_503_with_the_reason(
    copied_run: Path, settings: ServerSettings, png: bytes, content: bytes
) -> None:
    with TestClient(create_app([copied_run], settings)) as client:
        (copied_run / "run.json").write_bytes(content)
        response = client.get("/v1/models/copy/run")
        assert response.status_code == 503
        assert "copy" in response.json()["error"]
        assert client.get("/v1/models").json()["models"][0]["finished"]
        assert client.post("/v1/predict", content=png).status_code == 200


@pytest.mark.parametrize("content", [b"\xff\n", b"[1]\n", b"7\n", b'{"step": "a"}\n', b'{"step": null}\n'])
def test_torn_log_is_503_with_the_reason(copied_run: Path, settings: ServerSettings, content: bytes) -> None:
    with TestClient(create_app([copied_run], settings)) as client:
        (copied_run / "log.jsonl").write_bytes(content)
        assert client.get("/v1/models/copy/run").status_code == 503


def test_torn_weights_leave_what_was_loaded(copied_run: Path, settings: ServerSettings, png: bytes) -> None:
    with TestClient(create_app([copied_run], settings)) as client:
        path = copied_run / "model.safetensors"
        path.write_bytes(path.read_bytes()[:500])
        (model,) = client.get("/v1/models").json()["models"]
        assert "readable files" in model["problem"]
        assert client.post("/v1/predict", content=png).status_code == 200
    with pytest.raises(ValueError, match="copy"):
        create_app([copied_run], settings)


@pytest.fixture
def training_run(copied_run: Path) -> Path:
    """A run in training: a checkpoint with best weights that differ from the last ones, no final weights."""
    (copied_run / "model.safetensors").rename(copied_run / "later.safetensors")
    Run(copied_run).update(result=None)
    return copied_run


def set_best_weights(run_path: Path, step: int, scale: float) -> None:
    """Write a checkpoint whose best weights are those of the last step, the classifier multiplied by `scale`."""
    folder = run_path / "checkpoint"
    checkpoint = load_train_checkpoint(folder)
    if checkpoint is None:
        network = load_run_network(run_path / "later.safetensors")
        checkpoint = TrainCheckpoint(step, network.state_dict(), {}, {})
    weights = copy.deepcopy(checkpoint.model)
    for name in weights:
        if name.startswith("fc."):
            weights[name] *= scale
    best = {"step": step, "num_correct": 1, "loss": 1.0, "weights": weights}
    save_train_checkpoint(folder, replace(checkpoint, step=step + 5, best=best))


def expected_probability(network: ResidualNetwork, scale: float, png: bytes) -> float:
    """Return the probability of the top class with the classifier scaled."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("fc."):
                parameter *= scale
    predictor = build_predictor(network, "torch", device="cpu")
    return float(predictor.decode(predictor([read_image(png, 1)]).outputs).max())


def test_run_in_training_is_served_with_its_best_weights(
    training_run: Path, settings: ServerSettings, png: bytes
) -> None:
    network = load_run_network(training_run / "later.safetensors")
    (training_run / "checkpoint").mkdir(exist_ok=True)
    set_best_weights(training_run, 7, 2.0)
    partial_file = training_run / "checkpoint" / ".checkpoint.pt.1.part"
    partial_file.write_bytes(b"the trainer writes here")
    with TestClient(create_app([training_run], settings)) as client:

        def top_probability() -> float:
            response = client.post("/v1/predict", content=png)
            assert response.status_code == 200, response.text
            return float(response.json()["predictions"][0]["classes"][0]["probability"])

        assert top_probability() == pytest.approx(expected_probability(network, 2.0, png), rel=1e-5)
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["has_weights"], model["finished"], model["checkpoint_step"]) == (True, False, 7)
        assert client.post("/v1/lesion", json={"image": "x"}).status_code == 422
        set_best_weights(training_run, 9, 3.0)
        assert top_probability() == pytest.approx(expected_probability(network, 3.0, png), rel=1e-5)
        checkpoint_path(training_run / "checkpoint").write_bytes(b"torn")
        assert top_probability() == pytest.approx(expected_probability(network, 3.0, png), rel=1e-5)
        assert partial_file.exists()
        response = client.get("/v1/models/copy/run").json()
        assert (response["finished"], response["evaluated"]) == (False, False)
        assert client.get("/v1/models/copy/confusion?true=0&predicted=0").status_code == 503
        (training_run / "later.safetensors").rename(training_run / "model.safetensors")
        assert top_probability() == pytest.approx(expected_probability(network, 1.0, png), rel=1e-5)
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["finished"], model["checkpoint_step"]) == (True, None)


def test_run_that_starts_training_gets_weights_while_it_is_served(
    tmp_path: Path, settings: ServerSettings, png: bytes
) -> None:
    """The checkpoint of a real run, with its last step's weights as there is no validation split."""
    run = train(
        "resnet20_cifar",
        epochs=1,
        overrides={"model.depths": "1,1,1", "model.widths": "16,16,16"},
        output=tmp_path / "r",
    )
    weights = run.weights_path.read_bytes()
    run.weights_path.unlink()
    with TestClient(create_app([run.path], settings)) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["has_weights"], model["finished"]) == (True, False)
        during = client.post("/v1/predict", content=png).json()["predictions"]
        run.weights_path.write_bytes(weights)
        assert client.post("/v1/predict", content=png).json()["predictions"] == during


def test_a_thousand_classes(tmp_path: Path, settings: ServerSettings, png: bytes) -> None:
    path = saved_network(tmp_path / "thousand.safetensors", "resnet20_cifar", 1000, depths="1,1,1", widths="16,16,16")
    with TestClient(create_app([path], settings)) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert len(model["classes"]) == 1000
        (row,) = client.post("/v1/predict?top_k=1000", content=png).json()["predictions"]
        assert sum(score["probability"] for score in row["classes"]) == pytest.approx(1, abs=1e-4)
        assert len(row["classes"]) == 1000
        response = client.post("/v1/explain?class=c999", content=png).json()
        assert (response["class"], len(response["classes"])) == ("c999", 10)
        assert client.post("/v1/explain?class=c9999", content=png).status_code == 422
        assert 10 <= len(client.post("/v1/lesion", content=png).json()["classes"]) <= 20
