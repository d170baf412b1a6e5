"""int8 ranges against torch's own rounding, and the part of a graph that is quantized."""

import pytest
import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions
from reslab.deploy.backends.graph_backends import build_graph
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.deploy.export.graphs import to_onnx
from reslab.deploy.export.quantization import NUM_BINS, best_range, measure_ranges, nodes_of_modules, quantized_blocks
from reslab.deploy.export.verification import choose_num_calibration_images, load_verification_data
from reslab.nn.network import ResidualNetwork
from reslab.training.run import Run


def cost(values: Tensor, ends: tuple[float, float]) -> float:
    """Return the squared error of torch's rounding to 8 bits."""
    low, high = ends
    step = (high - low) / 255
    result = torch.fake_quantize_per_tensor_affine(values, step, round(-low / step), 0, 255)
    return float(((result - values) ** 2).sum())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.soak
def test_the_range_is_the_one_that_costs_least(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400_000, generator=generator)
    values = values if signed else values.relu()
    values[0] = 9.0  # the one that stands out, for which all others would pay
    whole = min(0.0, float(values.min())), float(values.max())
    best = best_range(torch.histc(values, NUM_BINS, *whole), whole)
    parts = torch.linspace(1, 0.3, 36).tolist()
    costs = [cost(values, (low * whole[0], high * whole[1])) for low in (parts if signed else [1.0]) for high in parts]
    assert cost(values, best) <= 1.02 * min(costs)
    assert cost(values, best) < 0.85 * costs[0]


def test_values_that_fill_their_range_keep_it() -> None:
    assert best_range(torch.ones(NUM_BINS), (-1.0, 3.0)) == (-1.0, 3.0)


@pytest.mark.soak
def test_every_value_of_the_graph_is_measured(network: ResidualNetwork, digits: Tensor) -> None:
    network.eval()
    model = to_onnx(fold_batch_norms(network))
    result = measure_ranges(model, digits[:32])
    with torch.no_grad():
        logits = network(digits[:32])
    for end, most in zip(result["logits"], (float(logits.min()), float(logits.max())), strict=True):
        assert 0.3 <= end / most <= 1.0001
    assert set(result) >= {"images", "logits", *(name for node in model.graph.node for name in node.output[:1])}
    parts = measure_ranges(model, digits[:32].repeat(200, 1, 1, 1))  # more than are computed at once
    assert parts["logits"] == pytest.approx(result["logits"], rel=1e-4)


def test_all_units_but_the_first_compute_in_int8(network: ResidualNetwork, digits: Tensor) -> None:
    assert quantized_blocks(network) == ["layer2.0", "layer3.0"]
    graph = build_graph(network, BackendOptions("int8", calibration_images=digits[:16]))
    quantised = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    inputs = {node.name: set(node.input) for node in graph.graph.node if node.op_type in ("Conv", "Gemm")}
    whole = to_onnx(fold_batch_norms(network))
    inside = set(nodes_of_modules(whole, ["layer2.0", "layer3.0"]))
    assert {name for name, read in inputs.items() if read & quantised} == inside & set(inputs)
    assert len(inputs) - len(inside & set(inputs)) == 4  # the stem, the first unit's two, the head
    assert nodes_of_modules(whole, ["layer2"]) == nodes_of_modules(whole, ["layer2.0"])  # a stage of one unit
    assert nodes_of_modules(whole, ["layer"]) == []


def test_a_network_of_one_unit_computes_it_in_int8() -> None:
    from reslab.nn.factory import create_model

    alone = create_model("resnet20_cifar", depths=(1,), widths=(16,), strides=(1,))
    assert isinstance(alone, ResidualNetwork)
    assert quantized_blocks(alone) == ["layer1.0"]


def test_scales_come_from_training_images_alone(run: Run, network: ResidualNetwork) -> None:
    evidence = load_verification_data(network, run, None, None, None)
    images = evidence.calibration_images()
    assert len(images) == min(1024, len(evidence.data.split("train")))
    held_out = {x.numpy().tobytes() for batch, _ in evidence.batches() for x in batch}
    assert evidence.split != "train"
    assert not {x.numpy().tobytes() for x in images} & held_out
    assert [choose_num_calibration_images((side, side)) for side in (8, 64, 90, 224)] == [1024, 1024, 517, 256]
