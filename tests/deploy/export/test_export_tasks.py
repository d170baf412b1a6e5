"""Exports by task: their graphs predict what the network predicts, and their reports say how."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits
from reslab.deploy.export.export import export
from reslab.deploy.export.verification import compare_outputs, failed_checks
from reslab.deploy.predict import predict
from reslab.deploy.predictor import model_task
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.nn.segmentation import SegmentationNetwork
from reslab.spec.preprocess import Preprocess
from reslab.training.model_source import load
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.regression import Regression

TASKS: dict[str, dict[str, Any]] = {
    "multi-label": {"name": "multi-label", "thresholds": [0.3, 0.5, 0.7]},
    "regression": {"name": "regression", "mean": [40.0, -3.0, 0.0], "std": [12.0, 0.5, 1e-3]},
}
NAMES = ("a", "b", "c")


def build_network(task: str) -> ResidualNetwork:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", num_classes=3, in_channels=1, image_size=(8, 8), depths=(1, 1, 1))
    assert isinstance(network, ResidualNetwork)
    network.set_metadata(classes=NAMES, preprocess=Preprocess(1, "", (0.5,), (0.25,)), task=TASKS[task])
    return network.eval()


def make_data(task: str) -> DatasetSplits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.rand(40, 3, generator=generator)
    labels = (labels < 0.5).float() if task == "multi-label" else labels
    return as_dataset((images, labels), test=(images, labels), task=task, classes=NAMES)


@pytest.mark.parametrize(
    ("task", "to"),
    [
        ("multi-label", "onnx"),
        ("multi-label", "openvino"),
        ("regression", "onnx"),
        ("regression", "torch"),
        ("regression", "safetensors"),
    ],
)
def test_exports_predict_what_the_network_predicts(tmp_path: Path, task: str, to: str) -> None:
    network = build_network(task)
    made = export(network, to, tmp_path / "net", data=make_data(task))
    images = list(torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8))
    for row, expected in zip(predict(made.path, images), predict(network, images), strict=True):
        assert [score.name for score in row.classes] == [score.name for score in expected.classes]
        for ours, theirs in zip(row.classes, expected.classes, strict=True):
            assert ours.probability == pytest.approx(theirs.probability, rel=1e-4)
            assert ours.threshold == theirs.threshold
        assert row.values == (None if expected.values is None else pytest.approx(expected.values, rel=1e-4, abs=1e-6))
    report = json.loads(made.report_path.read_text())
    assert report["task"]["name"] == task
    assert report["metric"] == model_task(network).spec.selection_metric.name
    assert report["agreement"] == (1.0 if task == "multi-label" else None)
    assert report["value"] == pytest.approx(report["exported_value"], rel=1e-4)
    assert f"| Task | {task} |" in made.report_path.with_suffix(".md").read_text()


def test_a_graph_of_a_regression_gives_values_in_their_unit(tmp_path: Path) -> None:
    import onnxruntime

    network = build_network("regression")
    made = export(network, "onnx", tmp_path / "net.onnx", data=make_data("regression"))
    x = torch.randn(4, 1, 8, 8)
    (result,) = onnxruntime.InferenceSession(str(made.path)).run(None, {"images": x.numpy()})
    mean, std = (np.array(TASKS["regression"][key]) for key in ("mean", "std"))
    with torch.no_grad():
        np.testing.assert_allclose(result, mean + std * network(x).double().numpy(), rtol=1e-5, atol=1e-6)
    assert json.loads(made.report_path.read_text())["task"] == {
        "name": "regression",
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    assert network.task == TASKS["regression"]


def test_folding_into_a_layer_without_bias() -> None:
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(6, 4)
    task = Regression(NAMES, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    expected = task.decode(layer(x))
    folded = task.fold_into(layer)
    torch.testing.assert_close(folded.decode(layer(x)), expected, rtol=1e-5, atol=1e-5)
    assert folded.decode(layer(x)).float().equal(layer(x))


def test_a_label_on_its_threshold_may_be_either() -> None:
    task = MultiLabel(("a",), (0.5,))

    def compare(exported: float) -> Any:
        batches = [(torch.zeros(1, 1), torch.ones(1, 1))]
        return compare_outputs(lambda x: x, lambda x: x + exported, batches, task)

    assert compare(-1e-6).num_agreeing == 1
    far: Tensor = torch.full((1, 1), 0.1)
    different = compare_outputs(lambda x: far, lambda x: -far, [(far, torch.ones(1, 1))], task)
    assert different.num_agreeing == 0
    assert any("1 of 1 labels" in text for text in failed_checks(different, "float32", 1.0))


def test_an_error_that_rises_is_a_drop_in_percent() -> None:
    task = Regression(("a",), (0.0,), (1.0,))
    batches = [(torch.ones(2, 1), torch.zeros(2, 1))]
    worse = compare_outputs(lambda x: x, lambda x: 1.5 * x, batches, task)
    assert (worse.value, worse.exported_value, worse.agreement) == (1.0, 1.5, None)
    assert worse.metric_drop == pytest.approx(50)
    assert failed_checks(worse, "int8", 60) == []
    assert failed_checks(worse, "int8", 10) == ["50.00 percent of mean absolute error lost, at most 10 allowed"]


def test_an_undefined_metric_is_not_compared() -> None:
    """Without an image that shows a class there is no average precision."""
    task, x = MultiLabel(("a",), (0.5,)), torch.ones(2, 1)
    undefined = compare_outputs(lambda x: x, lambda x: x, [(x, torch.zeros(2, 1))], task)
    assert (undefined.value, undefined.exported_value, undefined.metric_drop) == (None, None, None)
    assert failed_checks(undefined, "float32", 1.0) == []
    assert "undefined on these images" in failed_checks(undefined, "int8", 1.0)[0]


def test_data_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="regression"):
        export(build_network("regression"), "onnx", tmp_path / "net.onnx", data=make_data("multi-label"))


SMALL = {"backbone.depths": (1, 1, 1, 1), "backbone.widths": (8, 8, 8, 16)}


UNET = {"backbone.depths": (1, 1, 1), "decoder_channels": 16}


def build_segmentation(name: str = "fcn_resnet50", **axes: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    network = create_model(name, num_classes=3, image_size=(64, 64), **(axes or SMALL))
    assert isinstance(network, SegmentationNetwork)
    network.set_metadata(classes=NAMES, preprocess=Preprocess(3, "", (0.5,) * 3, (0.25,) * 3))
    return network.eval()


def make_masks(*sizes: tuple[int, int]) -> tuple[DatasetSplits, list[Tensor]]:
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    masks = [torch.randint(3, size, dtype=torch.uint8) for size in sizes]
    pairs = list(zip(images, masks, strict=True))
    return as_dataset(pairs, test=pairs, classes=NAMES), images


@pytest.mark.parametrize(
    "to", ["onnx", *(pytest.param(to, marks=pytest.mark.soak) for to in ("torch", "openvino")), "safetensors"]
)
def test_a_segmentation_takes_any_size(tmp_path: Path, to: str) -> None:
    network = build_segmentation()
    data, images = make_masks((64, 64), (70, 91), (70, 91))
    made = export(network, to, tmp_path / "net", data=data)
    for row, expected in zip(predict(made.path, images), predict(network, images), strict=True):
        assert row.mask is not None
        assert expected.mask is not None
        assert float((row.mask == expected.mask).float().mean()) > 0.999
        assert row.shares.keys() == expected.shares.keys()
    report = json.loads(made.report_path.read_text())
    assert (report["task"], report["agreement"], report["agreement_of"]) == ({"name": "segmentation"}, 1.0, "pixels")
    assert report["metric"] == "miou"


def test_the_export_of_a_segmentation_network_records_its_task(tmp_path: Path) -> None:
    network = build_segmentation(**SMALL, aux=True)
    made = export(network, "safetensors", tmp_path / "net", data=make_masks((64, 64), (64, 64))[0])
    config = json.loads((made.path / "config.json").read_text())
    assert (config["reslab"]["kind"], config["label_names"]) == ("segmentation", list(NAMES))
    assert "pipeline_tag: image-segmentation" in (made.path / "README.md").read_text()
    again = load(made.path)
    assert isinstance(again, SegmentationNetwork)
    assert (again.arch, again.classes, again.preprocess) == (network.arch, NAMES, network.preprocess)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "axes", "num_float"),
    [
        # In float32: the stem, the convolutions of the first block, the last layer.
        ("unet_resnet20_cifar", UNET, 4),
        pytest.param("fcn_resnet50", {}, 6, marks=pytest.mark.soak),
        pytest.param("deeplabv3_resnet50", {}, 6, marks=pytest.mark.soak),
    ],
)
def test_int8_of_a_segmentation(tmp_path: Path, name: str, axes: dict[str, Any], num_float: int) -> None:
    import onnx

    network = build_segmentation(name, **axes)
    sizes = ((64, 64),) * 18 + ((70, 91),) * 2
    made = export(network, "onnx", tmp_path / "net.onnx", data=make_masks(*sizes)[0], precision="int8", max_drop=5)
    graph = onnx.load(made.path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    is_float = [made_by.get(conv.input[1]) != "DequantizeLinear" for conv in convs]
    assert is_float[0]
    assert is_float[-1]
    assert sum(is_float) == num_float < len(convs) / 2
    report = json.loads(made.report_path.read_text())
    assert (report["precision"], report["agreement_of"], report["num_images"]) == ("int8", "pixels", 20)
    assert report["agreement"] > 0.9
    assert report["num_calibration_images"] == 20


def test_formats_and_precisions_that_a_dense_network_does_not_have(tmp_path: Path) -> None:
    data, _ = make_masks((64, 64), (64, 64))
    for to in ("torchvision", "timm"):
        message = r"outputs for the whole image for the format \w+; got: fcn_resnet50 for .*; --to safetensors"
        with pytest.raises(ValueError, match=message):
            export(build_segmentation(), to, tmp_path / "net", data=data)
    with pytest.raises(ValueError, match="at least 16 images to measure the scales of int8 on; got: 2"):
        export(build_segmentation(), "onnx", tmp_path / "net", data=data, precision="int8")
    detector = create_model("retinanet_resnet50_fpn", num_classes=3)
    with pytest.raises(ValueError, match=r"for a network for detection; got: int8, .*--precision float32"):
        export(detector, "onnx", tmp_path / "net", precision="int8")
    assert not list(tmp_path.iterdir())
