"""int8 after training: scales measured on real pictures, weights and activations in eight bits."""

import ast
import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reslab.deploy.export.graphs import IMAGES
from reslab.deploy.export.quantization import Range, batches, measure_ranges
from reslab.nn.network import Network
from reslab.spec.errors import refuse

LEAST_IMAGES = 16
# Where torch's exporter notes the modules that a node comes from.
_SCOPES = "pkg.torch.onnx.name_scopes"


def quantise(model: Any, images: Tensor, network: Network) -> Any:
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
        raise refuse(f"at least {LEAST_IMAGES} images to measure the scales on", len(images), str(LEAST_IMAGES))
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


def quantised_units(network: Network) -> list[str]:
    """The units that int8 computes: all but the first, or that one where it is the only one."""
    names = [name for name, _ in network.units()]
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
