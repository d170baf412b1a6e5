"""Files of other frameworks, recognized by their first bytes: Keras, Caffe, and pickles of NumPy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.nn.checkpoints.caffe_format import read_caffemodel
from reslab.nn.checkpoints.keras_format import is_keras_archive, read_keras
from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.pickles import is_torch_pickle, read_head, read_numpy_pickle, unsafe_names

_HDF5_SIGNATURE, _ZIP_SIGNATURE, _PICKLE_START = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80"
_CAFFE_SUFFIX = ".caffemodel"


@dataclass(frozen=True)
class ForeignFormat:
    """A container of weights: its suffixes, who writes it, and the extra that reads it (empty: none)."""

    name: str
    suffixes: tuple[str, ...]
    description: str
    extra: str = ""


# For the documentation and error messages; `read_foreign_file` recognizes a file by its content.
CONTAINERS: tuple[ForeignFormat, ...] = (
    ForeignFormat("torch", (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin"), "`torch.save`, also of Lightning"),
    ForeignFormat("safetensors", (".safetensors",), "reslab, timm, Hugging Face"),
    ForeignFormat("named arrays", (".npz",), "`np.savez(FILE, **arrays)`; Google's BiT and other TensorFlow names"),
    ForeignFormat("bare arrays", (".npz",), "`np.savez(FILE, *arrays)`: `arr_0`, `arr_1`, ..., as Lasagne orders them"),
    ForeignFormat("Keras", (".h5", ".hdf5", ".keras"), "Keras 2 and 3: `save`, `save_weights`", "keras"),
    ForeignFormat("Caffe", (_CAFFE_SUFFIX,), "BVLC Caffe, both generations of layers"),
    ForeignFormat("pickled arrays", (".pkl",), "detectron2: dictionaries of NumPy arrays; nothing in it is run"),
)


def read_foreign_file(path: Path, head: bytes, limits: ReadLimits) -> tuple[Any, bool] | None:
    """Return the content of a file of another framework, and whether its entries are in the network's order.

    None for the formats of torch, NumPy and safetensors, and for pickles without arrays. Raises CheckpointError for a
    damaged file and one that declares more than `limits`.
    """
    if head.startswith(_HDF5_SIGNATURE) or (head.startswith(_ZIP_SIGNATURE) and is_keras_archive(path)):
        return read_keras(path, limits)
    if head.startswith(_PICKLE_START) and not is_torch_pickle(head) and not unsafe_names(read_head(path)):
        content = read_numpy_pickle(path, limits)
        return None if content is None else (content, True)
    if path.suffix.lower() == _CAFFE_SUFFIX:
        return read_caffemodel(path), True
    return None
