"""The range of every value in a graph that loses least in eight bits, measured on pictures.

int8 after training: scales measured on real pictures, weights and activations in eight bits.
"""

import ast
import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.deploy.export.graphs import IMAGES
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid

NUM_BINS = 2048
NUM_STEPS = 255
Range = tuple[float, float]
# So many pixels are computed at once: every value of the graph is kept meanwhile.
_PIXELS = 2**18
# Parts of each end that are tried, and how often the two take turns.
_PARTS = torch.linspace(1, 0.3, 71, dtype=torch.float64)
_TURNS = 2
_FLOAT32 = "tensor(float)"


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """The pictures in parts of at most 2**18 pixels, at least one each."""
    return torch.split(images.float().cpu(), max(1, _PIXELS // images[0, 0].numel()))


def measure_ranges(model: Any, images: Tensor) -> dict[str, Range]:
    """(low, high) for every float value of an `onnx.ModelProto` on these `images` (N, C, H, W).

    Rounding to 255 steps between them and cutting off what lies outside costs sum_x (q(x) - x)^2. Each end is a part,
    from 1 to 0.3, of the lowest or highest value that was seen (0 always between them).
    """
    session, names = _watched(model)
    seen: dict[str, Range] = {}
    for name, values in _values(session, names, images):
        low, high = seen.get(name, (0.0, 0.0))
        seen[name] = min(low, float(values.min())), max(high, float(values.max()))
    seen = {name: ends for name, ends in seen.items() if ends[0] < ends[1]}
    counts = {name: torch.zeros(NUM_BINS) for name in seen}
    for name, values in _values(session, list(seen), images):
        counts[name] += torch.histc(values, NUM_BINS, *seen[name])
    return {name: best_range(counts[name], ends) for name, ends in seen.items()}


def best_range(counts: Tensor, ends: Range) -> Range:
    """The range inside `ends` that costs least for values that fall so often (`counts`) into its bins: each end in turn
    is moved inwards to the part of it that does best, the other held."""
    low, high = (torch.tensor([end], dtype=torch.float64) for end in ends)
    middles = torch.linspace(*ends, 2 * len(counts) + 1, dtype=torch.float64)[1::2]
    for _ in range(_TURNS):
        high = _cheapest(counts, middles, low.expand(len(_PARTS)), _PARTS * ends[1])[1]
        low = _cheapest(counts, middles, _PARTS * ends[0], high.expand(len(_PARTS)))[0]
    return float(low), float(high)


def _cheapest(counts: Tensor, middles: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Of the ranges (low, high), each (n,), the one that costs least, each end (1,)."""
    step = ((high - low) / NUM_STEPS)[:, None]
    zero = (-low[:, None] / step).round()
    rounded = ((middles / step).round() + zero).clamp(0, NUM_STEPS) - zero
    best = ((rounded * step - middles) ** 2 * counts).sum(1).argmin()
    return low[best][None], high[best][None]


def _watched(model: Any) -> tuple[Any, list[str]]:
    """A session of the graph that hands out every float value, and their names."""
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in copy.graph.output}
    names = [name for node in copy.graph.node for name in node.output if name and name not in known]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    floats = [output.name for output in session.get_outputs() if output.type == _FLOAT32]
    return session, [IMAGES, *floats]


def _values(session: Any, names: list[str], images: Tensor) -> Iterator[tuple[str, Tensor]]:
    computed = [name for name in names if name != IMAGES]
    for x in batches(images):
        found: Mapping[str, Any] = dict(zip(computed, session.run(computed, {IMAGES: x.numpy()}), strict=True))
        for name in names:
            yield name, x if name == IMAGES else torch.from_numpy(found[name])


LEAST_IMAGES = 16
# Where torch's exporter notes the modules that a node comes from.
_SCOPES = "pkg.torch.onnx.name_scopes"


def quantise(model: Any, images: Tensor, network: ResidualNetwork) -> Any:
    """The graph of `network`, an `onnx.ModelProto`, with the units after the first in int8, by ONNX Runtime's static
    quantisation.

    QDQ form; weights int8, symmetric, a scale for each output channel; activations uint8 with the ranges that lose
    least on `images` (N, C, H, W, normalised; `measure_ranges`). Stem, first unit, pooling and head stay in float32:
    they are a small part of the work, and what is lost there is lost for all that follows, or for the decision.
    Raises ValueError for fewer than LEAST_IMAGES images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if len(images) < LEAST_IMAGES:
        raise invalid(f"at least {LEAST_IMAGES} images to measure the scales on", len(images), str(LEAST_IMAGES))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=nodes_within(model, quantised_units(network)),
            extra_options={"WeightSymmetric": True, "TensorQuantOverrides": _overrides(measure_ranges(model, images))},
        )
        return onnx.load(after)


def quantised_units(network: ResidualNetwork) -> list[str]:
    """The units that int8 computes: all but the first, or that one where it is the only one."""
    names = [name for name, _ in network.blocks()]
    return names[1:] or names


def nodes_within(model: Any, modules: Sequence[str]) -> list[str]:
    """The nodes of a graph that come from one of these modules, by the scopes that torch's exporter notes."""
    wanted = set(modules)
    scopes = {node.name: {p.key: p.value for p in node.metadata_props}.get(_SCOPES, "[]") for node in model.graph.node}
    return [name for name, text in scopes.items() if wanted & set(ast.literal_eval(text))]


def _overrides(ranges: Mapping[str, Range]) -> dict[str, Any]:
    return {name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()}


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the pictures batch by batch."""

        def __init__(self, batches: Sequence[Tensor]) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch.numpy()}

    return Reader(batches(images)[:1])  # the ranges are known; it wants a picture all the same


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It advises, through the root logger, to optimise the graph first; torch's exporter did."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
