"""Exports of detectors: the graphs in ONNX Runtime and the weights find the boxes of the network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.deploy.backends.graph_backends import build_onnx_detector, graph_detector
from reslab.deploy.export.export import export
from reslab.deploy.export.formats import torch_detect
from reslab.deploy.export.graphs import BOX_GRAPH, detector_graphs, file_name, graph_names
from reslab.deploy.export.verification import compare_detections, failed_checks
from reslab.deploy.predict import predict
from reslab.deploy.predictor import model_task
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.dense import DenseNetwork
from reslab.spec.dense import DetectionArch
from reslab.training.model_source import load
from tests.deploy.detectors import CLASSES, build_detector

ONNX_TAKES_SECONDS = pytest.mark.soak
NAMES = [
    pytest.param("retinanet_resnet18_fpn_320", marks=ONNX_TAKES_SECONDS),
    "fasterrcnn_resnet18_fpn_320",
    pytest.param("maskrcnn_resnet18_fpn_320", marks=ONNX_TAKES_SECONDS),
    pytest.param("fasterrcnn_resnet18_c4_320", marks=ONNX_TAKES_SECONDS),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of two sizes with a box of a class each, in a CSV file."""
    folder = tmp_path_factory.mktemp("objects")
    generator = np.random.default_rng(0)
    rows = ["image,xmin,ymin,xmax,ymax,label,split"]
    for i in range(6):
        height, width = ((70, 90), (64, 64))[i % 2]
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,10,12,40,50,{CLASSES[i % 3]},{'train' if i < 3 else 'val'}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return folder / "boxes.csv"


def detector_as_graphs(network: DenseNetwork) -> Any:
    """The detector by its graphs, computed by torch."""
    assert isinstance(network.arch, DetectionArch)

    def run(module: torch.nn.Module, x: Tensor) -> list[Tensor]:
        outputs = module(x)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    graphs = detector_graphs(network)
    functions = {name: (lambda x, module=graph.module: run(module, x)) for name, graph in graphs.items()}
    for graph in graphs.values():
        with torch.no_grad():
            assert len(run(graph.module, torch.zeros(1, *graph.input_size))) == len(graph.output_names)
    return graph_detector(network.arch, functions)


@pytest.mark.parametrize(
    "name",
    [
        "retinanet_resnet18_fpn_320",
        "fasterrcnn_resnet18_fpn_320",
        "maskrcnn_resnet18_fpn_320",
        "fasterrcnn_resnet18_c4_320",
    ],
)
def test_the_parts_of_a_detector_are_the_whole(name: str) -> None:
    network = build_detector(name)
    detect = detector_as_graphs(network)
    generator = torch.Generator().manual_seed(0)
    for size in ((2, 3, 70, 90), (1, 3, 40, 100), (1, 3, 64, 64)):
        x = torch.rand(size, generator=generator)
        with torch.no_grad():
            expected = network(list(x))
        result = detect(x)
        assert sum(len(image["scores"]) for image in result) > 0
        for ours, theirs in zip(result, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for key, values in theirs.items():
                assert torch.equal(ours[key], values), key


def test_an_image_without_proposals_has_no_box() -> None:
    network = build_detector("maskrcnn_resnet18_fpn_320", score_threshold=1.0)
    x = torch.rand(1, 3, 64, 64)
    (result,) = detector_as_graphs(network)(x)
    assert {key: tuple(values.shape) for key, values in result.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
        "masks": (0, 1, 64, 64),
    }


@pytest.mark.parametrize("name", NAMES)
def test_graphs_find_the_boxes_of_the_network(name: str, data: Path, tmp_path: Path) -> None:
    network = build_detector(name)
    save_weights(tmp_path / "model.safetensors", network)
    result = export(tmp_path / "model.safetensors", "onnx", tmp_path / "out.onnx", data=data)
    comparison = result.comparison
    assert comparison.num_images == 3
    assert comparison.num_compared == comparison.num_agreeing > 10
    assert comparison.max_difference < 1e-4
    assert comparison.value == pytest.approx(comparison.exported_value)
    images = sorted(data.parent.glob("*.png"))
    for expected, row in zip(predict(network, images), predict(tmp_path / "out.onnx", images), strict=True):
        assert row.boxes
        assert expected.boxes is not None
        assert [box.name for box in row.boxes] == [box.name for box in expected.boxes]
        for box, reference in zip(row.boxes, expected.boxes, strict=True):
            assert box.score == pytest.approx(reference.score, abs=1e-4)
            assert box.box == pytest.approx(reference.box, abs=1e-2)
            if reference.mask is not None:
                assert box.mask is not None
                assert (box.mask != reference.mask).float().mean() < 1e-3
    note = (tmp_path / "out.onnx.report.md").read_text()
    assert "and the same box of all boxes" in note
    assert json.loads((tmp_path / "out.onnx.report.json").read_text())["same"] == "box"
    assert isinstance(network.arch, DetectionArch)
    parts = graph_names(network.arch)
    assert {path.name for path in tmp_path.glob("out*.onnx")} == {file_name("out.onnx", part) for part in parts}
    if BOX_GRAPH in parts:
        (tmp_path / "out.box-head.onnx").unlink()
        with pytest.raises(ValueError, match=r"the graph out.box-head.onnx of the detector"):
            predict(tmp_path / "out.onnx", images)


def test_weights_find_the_boxes_of_the_network(data: Path, tmp_path: Path) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    save_weights(tmp_path / "model.safetensors", network)
    result = export(tmp_path / "model.safetensors", "safetensors", tmp_path / "hub", data=data)
    assert (result.comparison.max_difference, result.comparison.agreement) == (0.0, 1.0)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["label_names"] == list(CLASSES)
    loaded = load(tmp_path / "hub")
    image = sorted(data.parent.glob("*.png"))[0]
    assert predict(loaded, image) == predict(network, image)


def test_another_network_does_not_pass() -> None:
    network, other = (build_detector("fasterrcnn_resnet18_fpn_320", seed) for seed in (0, 1))
    generator = torch.Generator().manual_seed(0)
    target = {
        "boxes": torch.tensor([[10.0, 12, 40, 50]]),
        "labels": torch.tensor([1]),
        "crowd": torch.tensor([False]),
        "difficult": torch.tensor([False]),
        "area": torch.tensor([1140.0]),
        "image_id": "a",
    }
    batches = [([torch.rand(3, 70, 90, generator=generator)], [target])]
    assert isinstance(network.arch, DetectionArch)
    task = model_task(network)
    same = compare_detections(torch_detect(network), torch_detect(network), batches, task, network.arch)
    assert failed_checks(same, "float32", 0.0) == []
    assert same.num_compared > 0
    different = compare_detections(torch_detect(network), torch_detect(other), batches, task, network.arch)
    assert any("a different box in" in text for text in failed_checks(different, "float32", 0.0))
    with torch.no_grad():
        network_moved = build_detector("fasterrcnn_resnet18_fpn_320")
        network_moved.get_submodule("roi_heads.box_predictor.bbox_pred").bias.add_(0.01)  # type: ignore[union-attr, operator]
    moved = compare_detections(torch_detect(network), torch_detect(network_moved), batches, task, network.arch)
    assert 1e-4 < moved.max_difference < 0.1
    assert failed_checks(moved, "float32", 0.0)
    with pytest.raises(ValueError, match="at least one image"):
        compare_detections(torch_detect(network), torch_detect(network), [], task, network.arch)


def test_the_error_for_what_cannot_be_exported_gives_the_reason(data: Path, tmp_path: Path) -> None:
    network = build_detector("retinanet_resnet18_fpn_320")
    for to in ("torch", "openvino", "torchvision"):
        with pytest.raises(ValueError, match=r"safetensors or onnx for retinanet.*nearest valid: onnx; the selection"):
            export(network, to, tmp_path / "out", data=data)
    with pytest.raises(ValueError, match="for a network for detection; got: int8"):
        export(network, "onnx", tmp_path / "out", data=data, precision="int8")


@ONNX_TAKES_SECONDS
def test_onnx_runtime_is_a_backend_of_detectors() -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    image = torch.randint(256, (3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (expected,), (row,) = predict(network, image), predict(network, image, backend="onnxruntime")
    assert expected.boxes is not None
    assert row.boxes is not None
    assert [box.score for box in row.boxes] == pytest.approx([box.score for box in expected.boxes], abs=1e-4)
    assert callable(build_onnx_detector(network, 1))
