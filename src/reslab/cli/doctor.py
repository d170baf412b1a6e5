"""`reslab doctor`: what this machine has, and what that means for reslab."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_pairs
from reslab.data.cache import cache_dir

CORE = [
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "safetensors",
    "rich",
    "typer",
    "matplotlib",
    "jinja2",
    "scikit-learn",
]
EXTRAS = {
    "timm": ["timm", "huggingface_hub"],
    "yaml": ["PyYAML"],
    "tensorboard": ["tensorboard"],
    "webdataset": ["webdataset"],
}


def doctor(json: Json = False) -> None:
    """Tell versions, devices, precisions, caches and extras."""
    facts = examine()
    if json:
        print_json(facts)
        return
    print_pairs(_lines(facts))


def examine() -> dict[str, Any]:
    """Everything `reslab doctor` tells, as plain data."""
    return {
        "reslab": installed("reslab"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {name: installed(name) for name in CORE},
        "extras": {extra: {name: installed(name) for name in names} for extra, names in EXTRAS.items()},
        "devices": devices(),
        "caches": caches(),
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def devices() -> list[dict[str, Any]]:
    """Each device by name, with the precisions it computes in; the first is the one `--device auto` takes."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        precisions = ["float32", "float16"] + ["bfloat16"] * (facts.major >= 8)
        memory = round(facts.total_memory / 2**30, 1)
        found.append({"device": f"cuda:{index}", "name": facts.name, "memory_gib": memory, "precisions": precisions})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "precisions": ["float32", "float16"]})
    name = platform.processor() or platform.machine()
    found.append({"device": "cpu", "name": name, "threads": torch.get_num_threads(), "precisions": _cpu_precisions()})
    return found


def _cpu_precisions() -> list[str]:
    import torch

    # bfloat16 always computes on a CPU; it is only quick where the processor has instructions for it.
    quick = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return ["float32", "float64", "bfloat16" if quick else "bfloat16 (slow here)"]


def caches() -> dict[str, dict[str, Any]]:
    """The folders where weights and data sets are kept, and whether they are there."""
    import torch

    folders = {"published weights": Path(torch.hub.get_dir()) / "checkpoints", "data": cache_dir()}
    return {name: {"path": str(path), "exists": path.is_dir()} for name, path in folders.items()}


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(name, str(facts[name])) for name in ("reslab", "python", "platform", "cores")]
    lines += [(name, found or "MISSING: pip install " + name) for name, found in facts["versions"].items()]
    for extra, names in facts["extras"].items():
        missing = [name for name, found in names.items() if found is None]
        told = ", ".join(f"{name} {found}" for name, found in names.items() if found)
        lines.append((f"extra {extra}", told if not missing else f"not there: pip install 'reslab[{extra}]'"))
    for device in facts["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        lines.append((f"device {device['device']}", f"{device['name']}{memory}: {', '.join(device['precisions'])}"))
    for name, cache in facts["caches"].items():
        lines.append((f"cache: {name}", cache["path"] + ("" if cache["exists"] else " (nothing there yet)")))
    if sys.platform == "win32":
        lines.append(("note", "reslab is developed and tested on Linux"))
    return lines
