"""Post-training int8 quantization of ONNX graphs, with activation ranges of least squared error on real images."""

import ast
import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reslab.deploy.export.graphs import INPUT_NAME
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import AnyNetwork, ModuleNetwork
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid

NUM_BINS = 2048
NUM_LEVELS = 255
ValueRange = tuple[float, float]
# Pixels per batch: limits memory, because every intermediate value of the graph is kept.
_MAX_BATCH_PIXELS = 2**18
# Fractions tried for each end of a range, and the number of alternations between the two ends.
_SHRINK_FACTORS = torch.linspace(1, 0.3, 71, dtype=torch.float64)
_NUM_ALTERNATIONS = 2
_FLOAT_TYPE = "tensor(float)"


def split_into_batches(images: Tensor) -> tuple[Tensor, ...]:
    """Split images into batches of at most 2**18 pixels, at least one image each."""
    return torch.split(images.float().cpu(), max(1, _MAX_BATCH_PIXELS // images[0, 0].numel()))


def measure_ranges(model: Any, images: Tensor) -> dict[str, ValueRange]:
    """Return a range (low, high) for every float value of an `onnx.ModelProto`, measured on images (N, C, H, W).

    The range minimizes sum_x (q(x) - x)^2, where q rounds to 255 steps and clips. Each end is the observed minimum or
    maximum times a factor from 1 to 0.3; 0 is always inside the range.
    """
    session, names = _instrumented_session(model)
    ranges: dict[str, ValueRange] = {}
    for name, values in _iter_values(session, names, images):
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    ranges = {name: limits for name, limits in ranges.items() if limits[0] < limits[1]}
    counts = {name: torch.zeros(NUM_BINS) for name in ranges}
    for name, values in _iter_values(session, list(ranges), images):
        counts[name] += torch.histc(values, NUM_BINS, *ranges[name])
    return {name: best_range(counts[name], limits) for name, limits in ranges.items()}


def best_range(counts: Tensor, limits: ValueRange) -> ValueRange:
    """Return the range inside `limits` with the least squared error for a histogram `counts`, by optimizing the two
    ends in turn."""
    low, high = (torch.tensor([limit], dtype=torch.float64) for limit in limits)
    bin_centers = torch.linspace(*limits, 2 * len(counts) + 1, dtype=torch.float64)[1::2]
    for _ in range(_NUM_ALTERNATIONS):
        high = _lowest_error_range(counts, bin_centers, low.expand(len(_SHRINK_FACTORS)), _SHRINK_FACTORS * limits[1])[
            1
        ]
        low = _lowest_error_range(counts, bin_centers, _SHRINK_FACTORS * limits[0], high.expand(len(_SHRINK_FACTORS)))[
            0
        ]
    return float(low), float(high)


def _lowest_error_range(counts: Tensor, bin_centers: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends, (1,) each, of the range with the least error among ranges (low, high), (n,) each."""
    scale = ((high - low) / NUM_LEVELS)[:, None]
    zero_point = (-low[:, None] / scale).round()
    rounded = ((bin_centers / scale).round() + zero_point).clamp(0, NUM_LEVELS) - zero_point
    best = ((rounded * scale - bin_centers) ** 2 * counts).sum(1).argmin()
    return low[best][None], high[best][None]


def _instrumented_session(model: Any) -> tuple[Any, list[str]]:
    """Return a session of the graph that outputs every float value, and their names."""
    import onnx
    import onnxruntime

    instrumented = onnx.ModelProto()
    instrumented.CopyFrom(model)
    existing = {output.name for output in instrumented.graph.output}
    names = [name for node in instrumented.graph.node for name in node.output if name and name not in existing]
    instrumented.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        instrumented.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    float_names = [output.name for output in session.get_outputs() if output.type == _FLOAT_TYPE]
    return session, [INPUT_NAME, *float_names]


def _iter_values(session: Any, names: list[str], images: Tensor) -> Iterator[tuple[str, Tensor]]:
    output_names = [name for name in names if name != INPUT_NAME]
    for x in split_into_batches(images):
        outputs: Mapping[str, Any] = dict(
            zip(output_names, session.run(output_names, {INPUT_NAME: x.numpy()}), strict=True)
        )
        for name in names:
            yield name, x if name == INPUT_NAME else torch.from_numpy(outputs[name])


MIN_CALIBRATION_IMAGES = 16
# The metadata key in which torch's exporter stores the modules of a node.
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def quantize(model: Any, calibration_images: Tensor, network: AnyNetwork) -> Any:
    """Return the graph of `network`, an `onnx.ModelProto`, with all blocks but the first in int8, quantized statically.

    QDQ format; weights int8, symmetric, with a scale per output channel; activations uint8 with ranges measured on
    normalized `calibration_images` (N, C, H, W; `measure_ranges`). Stem, first block, pooling and head stay in float32:
    they are a small part of the computation, and their errors would affect everything after them, or the prediction. Of
    the head of a segmentation, which is a large part, only the last layer stays.
    Raises ValueError for fewer than MIN_CALIBRATION_IMAGES images, and for a network for detection.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    blocks = quantized_blocks(network)
    check_num_calibration_images(len(calibration_images))
    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        float_path, int8_path = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, float_path)
        quantize_static(
            float_path,
            int8_path,
            _calibration_reader(calibration_images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=nodes_of_modules(model, blocks),
            extra_options={
                "WeightSymmetric": True,
                "TensorQuantOverrides": _range_overrides(measure_ranges(model, calibration_images)),
            },
        )
        return onnx.load(int8_path)


def check_num_calibration_images(num_images: int) -> None:
    """Raise ValueError for too few images to measure the scales on."""
    if num_images < MIN_CALIBRATION_IMAGES:
        required = f"at least {MIN_CALIBRATION_IMAGES} images to measure the scales of int8 on"
        raise invalid(required, num_images, str(MIN_CALIBRATION_IMAGES), "add training images, or --precision float32")


def quantized_blocks(network: AnyNetwork) -> list[str]:
    """Return the blocks to quantize, or the convolutions of another module: all but the first, or the only one.

    Of a segmentation also the modules of the head but the last layer. Raises ValueError for a network for detection.
    """
    if isinstance(network, DenseNetwork):
        check_int8(network)
        blocks = [f"backbone.{name}" for name, _ in network.residual_network.blocks()]
        return [*(blocks[1:] or blocks), *_head_modules(network)]
    if isinstance(network, ModuleNetwork):
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    else:
        names = [name for name, _ in network.blocks()]
    return names[1:] or names


def check_int8(network: AnyNetwork) -> None:
    """Raise ValueError for a network that has no int8 form here."""
    if isinstance(network, DenseNetwork) and network.arch.kind is not ModelKind.SEGMENTATION:
        required = f"the precision float32 for a network for {network.arch.kind}"
        raise invalid(required, f"int8, {network.arch.name}", next_step="--precision float32")


def _head_modules(network: DenseNetwork) -> list[str]:
    """Return the modules of a segmentation's head, without those that its last layers are in."""
    names = [name for name, _ in network.named_modules() if name.startswith("classifier.")]
    return [name for name in names if not any(f"{layer}.".startswith(f"{name}.") for layer in network.class_layers)]


def nodes_of_modules(model: Any, modules: Sequence[str]) -> list[str]:
    """Return the nodes of a graph that belong to these modules, by the scopes that torch's exporter stores."""
    module_names = set(modules)
    scopes = {
        node.name: {prop.key: prop.value for prop in node.metadata_props}.get(_SCOPES_KEY, "[]")
        for node in model.graph.node
    }
    return [name for name, text in scopes.items() if module_names & set(ast.literal_eval(text))]


def _range_overrides(ranges: Mapping[str, ValueRange]) -> dict[str, Any]:
    return {name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()}


def _calibration_reader(calibration_images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class ImageReader(CalibrationDataReader):
        """Returns the images batch by batch."""

        def __init__(self, batches: Sequence[Tensor]) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT_NAME: batch.numpy()}

    # The ranges are known already, but the quantizer requires at least one batch.
    return ImageReader(split_into_batches(calibration_images)[:1])


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence the quantizer's advice to optimize the graph first, which torch's exporter has done."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous_level)
