"""The routes of a detector: boxes as `predict` has them, in batches, and with blocks of the backbone off."""

import base64
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.analysis.box_attribution import box_grad_cam
from reslab.analysis.layers import decompose_block, record_block_calls
from reslab.analysis.surgery import disabled_blocks
from reslab.data.decode import read_image
from reslab.deploy.predict import predict
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.dense import DenseNetwork
from reslab.report.images import box_color
from tests.deploy.detectors import CLASSES, build_detector
from tests.training.detection_runs import boxes_run, write_voc

DEPTHS: dict[str, Any] = {"backbone.depths": (2, 1, 1, 1)}


@pytest.fixture(scope="module")
def detector() -> DenseNetwork:
    return build_detector("fasterrcnn_resnet18_fpn_320", **DEPTHS)


@pytest.fixture(scope="module")
def client(detector: DenseNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("detectors")
    paths = [folder / "boxes.safetensors", folder / "masks.safetensors"]
    save_weights(paths[0], detector)
    save_weights(paths[1], build_detector("maskrcnn_resnet18_fpn_320"))
    settings = ServerSettings(backend="torch", device="cpu", max_images=3)
    with TestClient(create_app(paths, settings)) as opened:
        yield opened


def encode(seed: int, height: int, width: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "PNG")
    return stream.getvalue()


IMAGES = [encode(0, 70, 90), encode(1, 64, 64), encode(2, 40, 100)]


def as_sent(boxes: Any) -> list[dict[str, Any]]:
    return [
        {"name": box.name, "score": pytest.approx(box.score, abs=1e-5), "box": pytest.approx(box.box, abs=1e-2)}
        for box in boxes
    ]


def test_boxes_are_those_of_predict(client: TestClient, detector: DenseNetwork) -> None:
    for content in IMAGES:
        (expected,) = predict(detector, [content])
        response = client.post("/v1/predict", content=content)
        assert response.status_code == 200, response.text
        assert expected.boxes
        assert response.json()["predictions"] == [{"boxes": as_sent(expected.boxes), "error": ""}]


def test_a_batch_has_a_row_for_each_image(client: TestClient, detector: DenseNetwork) -> None:
    encoded = [base64.b64encode(content).decode() for content in (IMAGES[0], b"no image", IMAGES[2])]
    rows = client.post("/v1/predict", json={"images": encoded}).json()["predictions"]
    expected = predict(detector, [IMAGES[0], IMAGES[2]])
    assert rows[0] == {"boxes": as_sent(expected[0].boxes), "error": ""}
    assert rows[1]["boxes"] == []
    assert "an image" in rows[1]["error"]
    assert rows[2] == {"boxes": as_sent(expected[1].boxes), "error": ""}
    assert client.post("/v1/predict", json={"images": encoded * 2}).status_code == 413


def test_limits_of_a_request(client: TestClient, detector: DenseNetwork) -> None:
    (expected,) = predict(detector, [IMAGES[1]], min_score=0.3)
    body = client.post("/v1/predict", params={"min_score": 0.3}, content=IMAGES[1]).json()["predictions"][0]["boxes"]
    assert body == as_sent(expected.boxes)
    assert (
        client.post("/v1/predict", params={"top_k": 1}, content=IMAGES[1]).json()["predictions"][0]["boxes"] == body[:1]
    )
    assert client.post("/v1/predict", params={"min_score": 1.5}, content=IMAGES[1]).status_code == 422
    strip = client.post("/v1/predict", content=encode(0, 1, 60))  # resized to 96 pixels, it has a height of 2
    assert strip.status_code == 200, strip.text


def test_masks_are_run_lengths(client: TestClient) -> None:
    (row,) = client.post("/v1/predict", params={"model": "masks"}, content=IMAGES[0]).json()["predictions"]
    assert row["boxes"]
    assert all(box["segmentation"]["size"] == [70, 90] for box in row["boxes"])


def test_the_model_has_the_blocks_of_its_backbone_and_colors(client: TestClient) -> None:
    model = client.get("/v1/models").json()["models"][0]
    assert (model["task"], model["target"], model["classes"]) == ("detection", "boxes", list(CLASSES))
    assert model["class_colors"] == ["#{:02x}{:02x}{:02x}".format(*box_color(k)) for k in range(3)]
    assert model["metric"]["name"] == "ap"
    names = [block["name"] for stage in model["stages"] for block in stage["blocks"]]
    assert names == ["layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]
    assert model["stages"][0]["blocks"][0]["output_shape"] == [8, 16, 16]
    assert (model["problem"], model["head"]) == ("", "faster-rcnn")
    drawing = client.get("/v1/models/boxes/blocks/layer1.1.svg")
    assert drawing.status_code == 200
    assert drawing.text.startswith("<svg")
    assert "8×16×16" in drawing.text, "the shapes are those of the list"


def test_boxes_with_blocks_off_are_those_of_the_ablated_backbone(
    client: TestClient, detector: DenseNetwork, tmp_path: Path
) -> None:
    body = {"image": base64.b64encode(IMAGES[0]).decode(), "off": ["layer1.1"]}
    response = client.post("/v1/lesion", json=body)
    assert response.status_code == 200, response.text
    ablated = copy.deepcopy(detector)
    with disabled_blocks(ablated.residual_network, ["layer1.1"]):
        with torch.no_grad():
            (expected,) = ablated([read_image(IMAGES[0]) / 255])
        (row,) = predict(detector, [IMAGES[0]])
    result = response.json()
    assert [box["score"] for box in result["boxes"]] == pytest.approx(expected["scores"].tolist(), abs=1e-5)
    assert [box["name"] for box in result["boxes"]] == [CLASSES[k - 1] for k in expected["labels"].tolist()]
    baseline = [{name: box[name] for name in ("name", "score", "box")} for box in result["baseline_boxes"]]
    assert baseline == as_sent(row.boxes)
    assert [box["score"] for box in result["boxes"]] != [box["score"] for box in result["baseline_boxes"]]
    by_block = {each["block"]: each for each in result["responses"]}
    assert by_block["layer1.0"]["baseline"] == by_block["layer1.0"]["ablated"]
    assert by_block["layer2.0"]["baseline"] != by_block["layer2.0"]["ablated"]
    again = client.post("/v1/lesion", json={**body, "off": []}).json()
    assert again["boxes"] == again["baseline_boxes"] == result["baseline_boxes"]


def test_the_heatmap_of_a_box_is_grad_cam_of_its_score(client: TestClient, detector: DenseNetwork) -> None:
    body = {"image": base64.b64encode(IMAGES[0]).decode(), "off": ["layer1.1"]}
    boxes = client.post("/v1/lesion", json=body).json()["boxes"]
    explanation = client.post("/v1/explain", params={"box": 1}, json=body).json()
    ablated = copy.deepcopy(detector)
    with disabled_blocks(ablated.residual_network, ["layer1.1"]):
        expected = box_grad_cam(ablated, read_image(IMAGES[0]) / 255, 1)
    assert explanation["box"]["score"] == pytest.approx(boxes[1]["score"])
    assert explanation["box"]["box"] == pytest.approx(boxes[1]["box"], abs=1e-2)
    heatmap = torch.tensor(explanation["heatmap"])
    assert torch.allclose(heatmap, expected.heatmap / expected.heatmap.max(), atol=2e-4)
    beyond = client.post("/v1/explain", params={"box": 99}, json=body)
    assert (beyond.status_code, "a box from 0 to" in beyond.json()["error"]) == (422, True)
    other = client.post("/v1/explain", params={"method": "occlusion"}, json=body)
    assert (other.status_code, "method=grad-cam" in other.json()["error"]) == (422, True)


def test_block_details_are_of_the_backbone_and_the_gradient_of_the_best_box(
    client: TestClient, detector: DenseNetwork
) -> None:
    body = {"image": base64.b64encode(IMAGES[0]).decode(), "off": ["layer1.1"]}
    found = client.post("/v1/block", params={"block": "layer2.0"}, json=body).json()
    ablated = copy.deepcopy(detector)
    backbone = ablated.residual_network
    with disabled_blocks(backbone, ["layer1.1"]):
        with record_block_calls(backbone) as calls:
            (detections,) = ablated([read_image(IMAGES[0]) / 255])
        call = next(call for call in calls if call.name == "layer2.0")
        (gradient,) = torch.autograd.grad(detections["scores"].max(), call.output)
        assert isinstance(call.block, ResidualBlock)
        with torch.no_grad():
            parts = decompose_block(call.block, call.input)
    expected = (
        call.output.detach().std(correction=0),
        parts.branch.std(correction=0),
        parts.shortcut.std(correction=0),
    )
    assert [found[name] for name in ("output_std", "branch_std", "shortcut_std")] == pytest.approx(
        [float(value) for value in expected], rel=1e-4
    )
    assert found["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-3)
    assert found["output_shape"] == list(call.output.shape[1:])
    assert len(found["feature_maps"]) == min(16, call.output.shape[1])
    unknown = client.post("/v1/block", params={"block": "layer1.9"}, content=IMAGES[0])
    assert (unknown.status_code, "nearest: 'layer1." in unknown.json()["error"]) == (422, True)


def test_a_block_of_a_detector_without_boxes_has_no_gradient(tmp_path: Path) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320", score_threshold=0.999)
    save_weights(tmp_path / "strict.safetensors", network)
    settings = ServerSettings(backend="torch", device="cpu")
    with TestClient(create_app([tmp_path / "strict.safetensors"], settings)) as opened:
        assert opened.post("/v1/lesion", content=IMAGES[0]).json()["boxes"] == []
        found = opened.post("/v1/block", params={"block": "layer3.0"}, content=IMAGES[0])
    assert found.status_code == 200, found.text
    assert found.json()["gradient_norm"] is None
    assert found.json()["output_std"] > 0


def found_boxes(network: DenseNetwork, content: bytes, off: str = "") -> list[tuple[str, float, Any]]:
    ablated = copy.deepcopy(network)
    with disabled_blocks(ablated.residual_network, [off] if off else []), torch.no_grad():
        (found,) = ablated([read_image(content) / 255])
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    return [(CLASSES[label - 1], score, box) for label, score, box in rows]


def overlap(a: list[float], b: list[float]) -> float:
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


@pytest.mark.parametrize("min_score", [0.5, 0.35])
def test_the_curve_follows_the_boxes_with_each_block_off(
    client: TestClient, detector: DenseNetwork, min_score: float
) -> None:
    response = client.post("/v1/lesion/curve", params={"min_score": min_score}, content=IMAGES[0])
    assert response.status_code == 200, response.text
    intact = [box for box in found_boxes(detector, IMAGES[0]) if box[1] >= min_score]
    assert len(intact) > 2
    shares = set()
    for row in response.json()["blocks"]:
        ablated = found_boxes(detector, IMAGES[0], row["block"])
        kept = [
            max((score for other, score, found in ablated if other == name and overlap(box, found) >= 0.5), default=0.0)
            for name, _, box in intact
        ]
        drops = [score - other for (_, score, _), other in zip(intact, kept, strict=True)]
        assert row["confidence_drop"] == pytest.approx(sum(drops) / len(drops), abs=1e-5)
        assert row["agreement"] == pytest.approx(sum(score >= min_score for score in kept) / len(kept))
        shares.add(row["agreement"])
    assert len(shares) > 1, "blocks that differ"


def test_the_curve_of_the_images_of_a_run_has_all_their_boxes(tmp_path: Path) -> None:
    """Images of several sizes, one without an object; their boxes count alike."""
    run = boxes_run(write_voc(tmp_path / "data"), tmp_path / "run", epochs=1, detector="faster-rcnn")
    settings = ServerSettings(backend="torch", device="cpu")
    with TestClient(create_app([run.path], settings)) as opened:
        rows = opened.get("/v1/models/run/samples", params={"n": 8}).json()["samples"]
        images = [opened.get(f"/v1/models/run/samples/{row['id']}.png").content for row in rows]
        alone = [opened.post("/v1/lesion/curve?min_score=0.01", content=image).json()["blocks"] for image in images]
        counts = [
            len(opened.post("/v1/predict?min_score=0.01", content=image).json()["predictions"][0]["boxes"])
            for image in images
        ]
        together = opened.post("/v1/lesion/curve?min_score=0.01").json()
        none = opened.post("/v1/lesion/curve?min_score=1").json()["blocks"]
    assert together["num_images"] == len(images) > 1
    assert all(counts)
    for i, row in enumerate(together["blocks"]):
        mean = sum(count * blocks[i]["confidence_drop"] for count, blocks in zip(counts, alone, strict=True))
        assert row["confidence_drop"] == pytest.approx(mean / sum(counts), abs=1e-5)
    assert {row["confidence_drop"] for row in none} == {None}
    assert all("no box" in row["reason"] for row in none)


def test_what_a_detector_cannot_do_is_refused(client: TestClient) -> None:
    body = {"image": base64.b64encode(IMAGES[0]).decode(), "off": ["layer9.0"]}
    assert client.post("/v1/lesion", json=body).status_code == 422
    assert client.post("/v1/lesion/curve", params={"min_score": 1.5}, content=IMAGES[0]).status_code == 422
