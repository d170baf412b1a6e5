"""int8 after training: scales measured on real pictures, weights and activations in eight bits."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.graphs import IMAGES
from reslab.spec.errors import refuse

LEAST_IMAGES = 16
_BATCH = 32


def quantise(model: Any, images: Tensor) -> Any:
    """An `onnx.ModelProto` whose convolutions and linear layers compute in int8, by ONNX Runtime's static quantisation.

    QDQ form; weights int8, symmetric, a scale for each output channel; activations uint8 with scales from the values
    that `images` (N, C, H, W, normalised) give. Raises ValueError for fewer than LEAST_IMAGES images.
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
            extra_options={"WeightSymmetric": True},
        )
        return onnx.load(after)


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the pictures batch by batch."""

        def __init__(self, batches: Sequence[Tensor]) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch.numpy()}

    return Reader(torch.split(images.float().cpu(), _BATCH))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It advises, through the root logger, to optimise the graph first; torch's exporter did."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
