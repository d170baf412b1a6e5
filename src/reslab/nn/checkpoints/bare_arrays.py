"""Names for the arrays of `.npz` files that have none (`arr_0`, `arr_1`, ...), and torch's layout for named kernels.

Bare arrays are the parameters of a network in the order of its layers, as `np.savez(FILE, *values)` writes them:
`lasagne.layers.get_all_param_values`, and scripts that imitate it.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from reslab.nn.checkpoints.load_report import invalid_checkpoint

_BARE_NAME = re.compile(r"arr_(\d+)")
# Lasagne's order of the parameters of a batch norm. The inverse standard deviation contains Lasagne's epsilon.
NORM_LEAVES = ("bias", "weight", "running_mean", "inv_std")


def name_arrays(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return the entries of an `.npz` file with names of layers and in torch's layout.

    Bare arrays are named by layer: a 4-D array is a kernel O I H W (a correlation: Lasagne's `flip_filters=False`), a
    2-D one the weight of a linear layer (in, out); the 1-D arrays after them are a bias where their number leaves a
    remainder of one after division by 4, and norms of 4 arrays each: beta, gamma, mean, inverse standard deviation.
    Names with slashes are Google's (BiT): `kernel` (H, W, I, O), `gamma`, `beta`. Others stay as they are.

    Raises CheckpointError for bare arrays that are no such layers.
    """
    numbers = [match[1] if (match := _BARE_NAME.fullmatch(name)) else "" for name in tensors]
    if tensors and all(numbers):
        arrays = [tensors[f"arr_{number}"] for number in sorted(numbers, key=int)]
        return _name_layers(arrays, file)
    if any(name.endswith("/kernel") for name in tensors):
        return {_dotted(name): to_torch_layout(tensor, name) for name, tensor in tensors.items()}
    return dict(tensors)


LEAVES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""The names of the variables of a Keras layer in torch."""


def _dotted(name: str) -> str:
    path, _, leaf = name.rpartition("/")
    return f"{path.replace('/', '.')}.{LEAVES.get(leaf, leaf)}"


def to_torch_layout(tensor: Tensor, name: str) -> Tensor:
    """Return a kernel of TensorFlow (H, W, I, O) or (in, out) as torch has it; another tensor unchanged."""
    if name.endswith("depthwise_kernel") and tensor.ndim == 4:
        height, width, channels, factor = tensor.shape
        return tensor.permute(2, 3, 0, 1).reshape(channels * factor, 1, height, width).contiguous()
    if not name.endswith("kernel"):
        return tensor
    return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor.T.contiguous()


def _name_layers(arrays: Sequence[Tensor], file: str) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    start = 0
    while start < len(arrays):
        first = arrays[start]
        has_weight = first.ndim in (2, 4)
        end = start + has_weight
        while end < len(arrays) and arrays[end].ndim == 1 and arrays[end].shape == arrays[start + has_weight].shape:
            end += 1
        vectors = range(start + has_weight, end)
        if has_weight:
            is_kernel = first.ndim == 4
            named[f"arr_{start}.weight"] = first if is_kernel else _linear_weight(first, arrays[start + 1 : end])
        if has_weight and len(vectors) % 4 == 1:
            named[f"arr_{start}.bias"] = arrays[start + 1]
            vectors = vectors[1:]
        if len(vectors) % 4 or end == start:
            got = f"{file}, whose arr_{start} has shape {list(first.shape)} with {len(vectors)} vectors after it"
            required = "arrays W, [b], then beta, gamma, mean and inverse standard deviation of each norm"
            raise invalid_checkpoint(required, got, next_step="save it with names: np.savez(FILE, **arrays)")
        for i in vectors[::4]:
            named |= {f"arr_{i}.{leaf}": arrays[i + k] for k, leaf in enumerate(NORM_LEAVES)}
        start = end
    return named


def _linear_weight(weight: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """Return the weight of a linear layer as (out, in); only a bias of its first size shows that it is one already."""
    is_torch = bool(biases) and len(biases[0]) == weight.shape[0] != weight.shape[1]
    return weight if is_torch else weight.T.contiguous()
