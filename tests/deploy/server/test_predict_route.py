"""`/v1/predict`: every body type, with the results of `predict` on the same images."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from reslab.deploy.export.verification import load_calibration_images
from reslab.deploy.predict import predict
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.training.checkpoint import load_run_network
from reslab.training.run import Run


def names_and_numbers(result: dict[str, object]) -> list[tuple[str, float]]:
    (row,) = result["predictions"]  # type: ignore[misc]
    return [(each["name"], each["probability"]) for each in row["classes"]]


def test_every_body_gives_what_predict_gives(
    client: TestClient, runs: list[Run], png: bytes, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(png)
    (expected,) = predict(runs[0], file, backend="torch", device="cpu")
    bodies = [
        client.post("/v1/predict", content=png, headers={"Content-Type": "image/png"}),
        client.post("/v1/predict", content=png, headers={"Content-Type": "application/octet-stream"}),
        client.post("/v1/predict", content=png),
        client.post("/v1/predict", files={"image": png}),
        client.post("/v1/predict", json={"image": text}),
        client.post("/v1/predict", json={"images": [f"data:image/png;base64,{text}"]}),
    ]
    for body in bodies:
        assert body.status_code == 200, body.text
        result = names_and_numbers(body.json())
        assert [name for name, _ in result] == [guess.name for guess in expected.classes]
        assert [number for _, number in result] == pytest.approx([guess.probability for guess in expected.classes])


def test_the_model_is_chosen_by_name(client: TestClient, png: bytes) -> None:
    first, again, twin = (
        client.post("/v1/predict", params=params, content=png).json()
        for params in ({}, {"model": "net"}, {"model": "plain"})
    )
    assert first["model"] == again["model"] == "net"
    assert names_and_numbers(first) == names_and_numbers(again) != names_and_numbers(twin)
    missing = client.post("/v1/predict", params={"model": "plane"}, content=png)
    assert missing.status_code == 404
    assert "nearest: 'plain'" in missing.json()["error"]


def test_several_images_are_rows_in_their_order(client: TestClient, png: bytes) -> None:
    files = [("image", png), ("image", b"no image"), ("image", png)]
    response = client.post("/v1/predict", params={"top_k": 3}, files=files)
    first, broken, last = response.json()["predictions"]
    assert len(first["classes"]) == 3
    assert first == last
    assert broken["classes"] == []
    assert "no image" in broken["error"]


def test_where_no_image_can_be_read_the_request_fails(client: TestClient) -> None:
    response = client.post("/v1/predict", files=[("image", b"one"), ("image", b"two")])
    assert response.status_code == 415
    assert "JPEG, PNG" in response.json()["error"]


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({}, 422, "at least one image"),
        ({"json": {}}, 422, "at least one image"),
        ({"json": {"images": []}}, 422, "at least one image"),
        ({"json": {"imgae": "x"}}, 422, "nearest: 'image'"),
        ({"json": {"image": "?", "images": []}}, 422, "one of image and images"),
        ({"json": {"images": "x"}}, 422, "list"),
        ({"json": {"image": 7}}, 422, "base64"),
        ({"json": {"image": "@@@"}}, 422, "base64"),
        ({"json": {"image": "é"}}, 422, "base64"),
        ({"json": [1]}, 422, "object"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"content": b"[" * 20_000, "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "form"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "--data-binary"),
        ({"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "an uncompressed body"),
        ({"files": {"photo": b"x"}}, 422, "unknown field 'photo'"),
        ({"data": {"image": "@"}}, 415, "x-www-form-urlencoded"),
    ],
)
def test_a_body_that_means_nothing_is_reported_why(
    client: TestClient, sent: dict[str, object], status: int, words: str
) -> None:
    response = client.post("/v1/predict", **sent)  # type: ignore[arg-type]
    assert (response.status_code, words in response.json()["error"]) == (status, True), response.text


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1001"])
def test_top_k_is_checked(client: TestClient, png: bytes, top_k: str) -> None:
    response = client.post("/v1/predict", params={"top_k": top_k}, content=png)
    assert response.status_code == 422
    assert "top_k" in response.json()["error"]


def test_more_images_than_allowed(client: TestClient, text: str) -> None:
    response = client.post("/v1/predict", json={"images": [text] * 9})
    assert response.status_code == 413
    assert "at most 8 images" in response.json()["error"]


def test_other_methods_and_paths(client: TestClient) -> None:
    assert client.get("/v1/predict").status_code == 405
    for way in ("/v1/nothing", "/static/../../../../etc/passwd", "/static/%2e%2e/%2e%2e/app.py", "/v1/models/../../x"):
        response = client.get(way)
        assert response.status_code == 404, way
        assert set(response.json()) == {"error", "kind"}


def test_int8_takes_its_scales_from_the_training_images_of_each_run(
    runs: list[Run], png: bytes, tmp_path: Path
) -> None:
    """The results are those of a backend calibrated on the run's own images, and differ from float32."""
    file = tmp_path / "digit.png"
    file.write_bytes(png)
    settings = ServerSettings(backend="onnxruntime", precision="int8", device="cpu")
    with TestClient(create_app(runs[:1], settings)) as client:
        body = client.post("/v1/predict", content=png).json()
    assert (body["backend"], body["precision"]) == ("onnxruntime", "int8")
    images = load_calibration_images(runs[0].path, load_run_network(runs[0]))
    (expected,) = predict(
        runs[0], file, backend="onnxruntime", precision="int8", device="cpu", calibration_images=images
    )
    (whole,) = predict(runs[0], file, backend="torch", device="cpu")
    numbers = [number for _, number in names_and_numbers(body)]
    assert numbers == pytest.approx([guess.probability for guess in expected.classes])
    assert numbers != pytest.approx([guess.probability for guess in whole.classes], rel=1e-5)


def test_int8_without_a_run_is_refused_kindly(weights: Path) -> None:
    settings = ServerSettings(precision="int8", device="cpu")
    with pytest.raises(ValueError, match="name the run's folder"), TestClient(create_app([weights], settings)):
        pass
