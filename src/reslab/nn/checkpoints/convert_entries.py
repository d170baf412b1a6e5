"""Convert the entries of a checkpoint into the parameters of a network that computes the same another way.

* A convolution with a bias ahead of a batch norm, in a network whose convolution has none: the bias is subtracted from
  the norm's running mean, (W x + b) - m = W x - (m - b).
* An inverse standard deviation s = 1 / sqrt(v + eps) in place of a variance: v = 1 / s^2 - eps, with the network's eps.
* A network with biases where the file's convolutions have none (`KeyScheme.zero_biases`): they are zero.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from reslab.nn.checkpoints.match_keys import CheckpointEntry, KeyMatching
from reslab.nn.network import ResidualNetwork


def convert_entries(
    network: ResidualNetwork, matching: KeyMatching, model_state: Mapping[str, Tensor]
) -> tuple[KeyMatching, list[str]]:
    """Return the entries with biases folded, variances and zero biases; and messages of what was done."""
    entries, messages = dict(matching.entries), []
    for name, entry in entries.items():
        if entry.file_key.endswith(".inv_std") and name.endswith(".running_var"):
            eps = network.get_submodule(name.rpartition(".")[0]).eps if name in model_state else network.arch.norm_eps
            assert isinstance(eps, float)
            variance = (entry.tensor.double().pow(-2) - eps).clamp(min=0).to(entry.tensor.dtype)
            entries[name] = replace(entry, tensor=variance)
    num_folded = _fold_biases(network, entries, model_state)
    if num_folded:
        messages.append(f"subtracted the biases of {num_folded} convolutions from the running means after them")
    if matching.key_scheme.zero_biases:
        _add_zero_biases(network, entries, model_state)
    return replace(matching, entries=entries), messages


def _fold_biases(
    network: ResidualNetwork, entries: dict[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> int:
    biases = [name for name in entries if name.endswith(".bias") and name not in model_state]
    biases = [name for name in biases if f"{name.removesuffix('bias')}weight" in model_state]
    if not biases:
        return 0
    norms, num_folded = norms_after_convs(network), 0
    for name in biases:
        mean = f"{norms.get(name.removesuffix('.bias'), '')}.running_mean"
        if mean in entries and entries[mean].tensor.shape == entries[name].tensor.shape:
            entries[mean] = replace(entries[mean], tensor=entries[mean].tensor - entries[name].tensor)
            del entries[name]
            num_folded += 1
    return num_folded


def _add_zero_biases(
    network: ResidualNetwork, entries: dict[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> None:
    for name, tensor in model_state.items():
        path = name.removesuffix(".bias")
        is_conv = path != name and isinstance(network.get_submodule(path), nn.Conv2d)
        if is_conv and name not in entries and f"{path}.weight" in entries:
            entries[name] = CheckpointEntry(entries[f"{path}.weight"].file_key, torch.zeros(tensor.shape))


class _LayerTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


def norms_after_convs(network: nn.Module) -> dict[str, str]:
    """Return, by the name of a convolution, that of the batch norm that is the only reader of its output."""
    graph = _LayerTracer().trace(network)
    modules = dict(network.named_modules())
    norms = {}
    for node in graph.nodes:
        readers = list(node.users)
        is_conv = node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d)
        reader = readers[0] if is_conv and len(readers) == 1 and readers[0].op == "call_module" else None
        if reader is not None and isinstance(modules[str(reader.target)], nn.BatchNorm2d):
            norms[str(node.target)] = str(reader.target)
    return norms
