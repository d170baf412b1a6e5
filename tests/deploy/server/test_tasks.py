"""The routes by task: several labels, values and masks, as `predict` has them."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.data.decode import read_image
from reslab.deploy.predict import predict
from reslab.deploy.prediction_images import GradCam
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import load_model
from reslab.report.images import class_color
from tests.deploy.task_networks import save_task_networks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A weights file of each task."""
    return save_task_networks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def client(files: dict[str, Path]) -> Iterator[TestClient]:
    with TestClient(create_app(list(files.values()), ServerSettings(backend="torch", device="cpu"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def image() -> bytes:
    pixels = torch.randint(256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "PNG")
    return stream.getvalue()


def predict_one(client: TestClient, model: str, image: bytes, **params: Any) -> dict[str, Any]:
    response = client.post("/v1/predict", params={"model": model, **params}, content=image)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()["predictions"][0]
    return body


def test_labels_come_with_their_thresholds(client: TestClient, files: dict[str, Path], image: bytes) -> None:
    (expected,) = predict(files["labels"], [image])
    result = predict_one(client, "labels", image)
    assert result.keys() == {"classes", "error"}
    assert result["classes"] == [
        {"name": score.name, "probability": pytest.approx(score.probability), "threshold": score.threshold}
        for score in expected.classes
    ]
    assert len(predict_one(client, "labels", image, top_k=3)["classes"]) == 3


def test_values_are_in_their_unit(client: TestClient, files: dict[str, Path], image: bytes) -> None:
    (expected,) = predict(files["values"], [image])
    assert expected.values is not None
    assert predict_one(client, "values", image) == {"values": pytest.approx(dict(expected.values)), "error": ""}


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_mask_has_the_size_of_the_image(client: TestClient, files: dict[str, Path], image: bytes) -> None:
    (expected,) = predict(files["masks"], [image])
    assert expected.mask is not None
    result = predict_one(client, "masks", image)
    assert result["shares"] == expected.shares
    assert np.array_equal(np.array(decoded(result["mask"])), expected.mask.numpy())
    assert decoded(result["overlay"]).size == (50, 40)
    assert client.post("/v1/predict", params={"model": "masks"}, content=b"no image").status_code == 415


def test_models_report_their_task(client: TestClient) -> None:
    labels, values, masks = client.get("/v1/models").json()["models"]
    assert [model["task"] for model in (labels, values, masks)] == ["multi-label", "regression", "segmentation"]
    assert labels["thresholds"] == [0.3, 0.5, 0.999]
    assert masks["class_colors"][0] == ""
    assert masks["class_colors"][1:] == ["#{:02x}{:02x}{:02x}".format(*(class_color(k) or ())) for k in (1, 2)]
    assert values["metric"] == {"name": "mae", "title": "mean absolute error", "is_fraction": False}
    assert masks["params"] > 0


def test_heatmaps_of_targets_and_refusals(client: TestClient, image: bytes) -> None:
    ask = {"model": "values", "class": "bee"}
    response = client.post("/v1/explain", params=ask, content=image)
    assert (response.json()["class"], response.json()["classes"]) == ("bee", [])
    assert client.post("/v1/explain", params={"model": "values"}, content=image).json()["class"] == "ant"
    for route, model in (("lesion", "values"), ("lesion", "masks")):
        refused = client.post(f"/v1/{route}", params={"model": model}, content=image)
        assert refused.status_code == 422, refused.text
    assert client.post("/v1/lesion", params={"model": "labels"}, content=image).status_code == 200


def test_the_heatmap_of_a_mask_is_grad_cam_of_the_pixels_of_a_class(
    client: TestClient, image: bytes, tmp_path: Path
) -> None:
    body = client.post("/v1/explain", params={"model": "masks", "class": "bee"}, content=image).json()
    network = load_model(save_task_networks(tmp_path)["masks"])
    assert isinstance(network, DenseNetwork)
    (expected,) = GradCam(network, torch.device("cpu"))(read_image(image)[None], torch.tensor([1]))
    assert body["class"] == "bee"
    assert torch.allclose(torch.tensor(body["heatmap"]), expected, atol=2e-4)
    main = client.post("/v1/explain", params={"model": "masks"}, content=image).json()
    shares = client.post("/v1/predict", params={"model": "masks"}, content=image).json()["predictions"][0]["shares"]
    assert main["class"] == next((name for name in shares if name != "ant"), "ant")
