"""Compare every network of timm's residual families with ours, and write the table of the documentation.

    python benchmarks/zoo.py                   # all names; writes docs/reference/networks.md and the golden counts
    python benchmarks/zoo.py 'regnet*'         # some names; writes nothing

Each network: timm's parameter count and multiply-adds; timm's weights, every one and every statistic drawn at random,
loaded through our loader; outputs in float64 and eval mode at 64x64 pixels. Networks above 150 million parameters are
compared with one block in each stage where timm can build that, else by their counts.
"""

import argparse
import fnmatch
import json
import math
import time
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.zoo import ARCHS

ROOT = Path(__file__).parents[1]
MODULES = ("resnet", "resnetv2", "nfnet", "res2net", "resnest", "sknet", "senet", "regnet", "convnext")
MAX_PARAMS = 150e6
LIMIT = 1e-9
# Why a name of timm's is not in the zoo.
MISSING = {
    "ecaresnet50d_pruned": "pruned: every convolution has a width of its own",
    "ecaresnet101d_pruned": "pruned: every convolution has a width of its own",
}
# timm's option for the number of blocks; names that take none are built whole.
DEPTH_OPTIONS = {"convnext": "depths", "nfnet": "depths", "regnet": ""}


@dataclass(frozen=True)
class Comparison:
    """One network: counts of both, and the largest difference of the outputs divided by the largest output."""

    name: str
    params: int
    timm_params: int
    macs: int
    difference: float | None
    note: str = ""

    @property
    def is_equal(self) -> bool:
        """True if counts and outputs agree."""
        return self.params == self.timm_params and (self.difference is None or self.difference <= LIMIT)


def timm_names() -> dict[str, str]:
    """Return the names of the families with their module."""
    return {
        name: module for module in MODULES for name in timm.list_models(module=module) if not name.startswith("test_")
    }


def draw_all(module: nn.Module) -> None:
    """Draw every parameter and buffer: timm starts many at zero, and a wrong branch would then change nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = torch.empty(tensor.shape, dtype=tensor.dtype).normal_(generator=generator)
        if name.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif tensor.ndim > 1:
            drawn = drawn * math.sqrt(2 / max(tensor[0].numel(), 1))
        elif not name.endswith(("bias", "running_mean")):
            drawn = 1 + 0.3 * drawn
        with torch.no_grad():
            tensor.copy_(drawn)


def count_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Return the multiply-adds of convolutions and linear layers of any module on the meta device."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            total += output[0].numel() * math.prod(module.kernel_size) * module.in_channels // module.groups
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(torch.empty((1, *size), device="meta"))
    for handle in handles:
        handle.remove()
    return total


def output_difference(arch: Arch, name: str, options: dict[str, Any]) -> float:
    """Return the largest difference of the outputs, divided by the largest output of timm's network."""
    theirs = timm.create_model(name, **options).double().eval()
    draw_all(theirs)
    with torch.device("meta"):
        ours = ResidualNetwork(arch)
    ours = ours.double().to_empty(device="cpu").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(ours, unwrap_checkpoint(name, theirs.state_dict()))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Some of timm's norms compute in float32 whatever their input.
    to_float, torch.Tensor.float = torch.Tensor.float, lambda tensor: tensor  # type: ignore[method-assign,assignment]
    try:
        with torch.no_grad():
            y, expected = ours(x), theirs(x)
    finally:
        torch.Tensor.float = to_float  # type: ignore[method-assign]
    return float((y - expected).abs().max() / expected.abs().max())


def compare(name: str, module: str) -> Comparison:
    """Return the comparison of one network."""
    arch = ARCHS[name]
    with torch.device("meta"):
        ours, theirs = ResidualNetwork(arch), timm.create_model(name)
    params, timm_params = (sum(p.numel() for p in model.parameters()) for model in (ours, theirs))
    macs = count_macs(theirs, arch.input_size)
    if params <= MAX_PARAMS:
        return Comparison(name, params, timm_params, macs, output_difference(arch, name, {}))
    option = DEPTH_OPTIONS.get(module, "layers")
    depths = (1,) * len(arch.depths)
    if not option or "_bit" in name:
        return Comparison(name, params, timm_params, macs, None, "counts alone")
    difference = output_difference(override(arch, {"depths": depths}), name, {option: depths})
    return Comparison(name, params, timm_params, macs, difference, "outputs with one block a stage")


def data_line(arch: Arch) -> str:
    """Return the axes that differ from the defaults: the whole description of the network."""
    default = Arch("", "", arch.depths, arch.widths)
    axes = [field.name for field in fields(Arch) if field.name not in ("name", "reference")]
    shown = [axis for axis in axes if axis in ("depths", "widths") or getattr(arch, axis) != getattr(default, axis)]
    return " ".join(f"{axis}={_text(getattr(arch, axis))}" for axis in shown)


def _text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f'"{text}"' if " " in text or not text else text


def write_table(comparisons: list[Comparison]) -> None:
    """Write docs/reference/networks.md."""
    num_equal = sum(comparison.is_equal for comparison in comparisons)
    lines = [
        "# The networks of timm as data",
        "",
        f"{num_equal} of the {len(comparisons) + len(MISSING)} names in timm {timm.__version__}'s modules "
        f"{', '.join(MODULES)} are in the zoo. Each has timm's parameter count, takes timm's weights, and gives timm's "
        "outputs (float64, eval mode, every weight and statistic drawn at random; the column is the largest difference "
        "divided by the largest output). `python benchmarks/zoo.py` writes this page.",
        "",
        "| name | parameters | difference | data |",
        "|---|---|---|---|",
    ]
    for comparison in comparisons:
        result = "" if comparison.difference is None else f"{comparison.difference:.0e}"
        data = data_line(ARCHS[comparison.name]).replace("|", "\\|")
        result = f"{result} ({comparison.note})" if comparison.note else result
        lines.append(f"| `{comparison.name}` | {comparison.params:,} | {result} | `{data}` |")
    lines += ["", "Not in the zoo:", "", "| name | reason |", "|---|---|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in MISSING.items()]
    (ROOT / "docs/reference/networks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_golden(comparisons: list[Comparison]) -> None:
    """Add the counts of timm's own modules to tests/golden/networks.json, where a network has none."""
    path = ROOT / "tests/golden/networks.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    source = f"parameters and hooked multiply-adds of timm {timm.__version__}'s own module (benchmarks/zoo.py)"
    for item in comparisons:
        line = {"params": item.timm_params, "macs": item.macs, "output": [1000], "source": source}
        golden.setdefault(item.name, line)
    lines = [f"  {json.dumps(name)}: {json.dumps(golden[name])}" for name in golden]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Compare the networks and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*")
    pattern = parser.parse_args().pattern
    comparisons = []
    for name, module in timm_names().items():
        if name in MISSING or not fnmatch.fnmatchcase(name, pattern):
            continue
        start = time.monotonic()
        comparison = compare(name, module)
        comparisons.append(comparison)
        state = "equal" if comparison.is_equal else "DIFFERENT"
        print(
            f"{name:28} {comparison.params:>13,} {comparison.difference} {state} {time.monotonic() - start:.1f} s",
            flush=True,
        )
    print(f"{sum(item.is_equal for item in comparisons)} of {len(comparisons)} equal")
    if pattern == "*":
        write_table(comparisons)
        write_golden(comparisons)


if __name__ == "__main__":
    main()
