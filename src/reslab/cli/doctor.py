"""`reslab doctor`: what is installed and which devices this machine has."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reslab.cli.options import (
    JsonFlag,
)
from reslab.cli.output import print_json, print_pairs
from reslab.data.cache import cache_dir

CORE_PACKAGES = [
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
EXTRA_PACKAGES = {
    "timm": ["timm", "huggingface_hub"],
    "yaml": ["PyYAML"],
    "tensorboard": ["tensorboard"],
    "webdataset": ["webdataset"],
}


def doctor(as_json: JsonFlag = False) -> None:
    """Print versions, devices, precisions, caches and optional packages."""
    environment = collect_environment()
    if as_json:
        print_json(environment)
        return
    print_pairs(_environment_rows(environment))


def collect_environment() -> dict[str, Any]:
    """Return everything that `reslab doctor` prints, as plain data."""
    return {
        "reslab": installed_version("reslab"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {name: installed_version(name) for name in CORE_PACKAGES},
        "extras": {extra: {name: installed_version(name) for name in names} for extra, names in EXTRA_PACKAGES.items()},
        "devices": list_devices(),
        "caches": list_caches(),
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def list_devices() -> list[dict[str, Any]]:
    """Return each device with its precisions; `--device auto` takes the first."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        precisions = ["float32", "float16"] + ["bfloat16"] * (properties.major >= 8)
        memory = round(properties.total_memory / 2**30, 1)
        devices.append(
            {"device": f"cuda:{index}", "name": properties.name, "memory_gib": memory, "precisions": precisions}
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU", "precisions": ["float32", "float16"]})
    name = platform.processor() or platform.machine()
    devices.append({"device": "cpu", "name": name, "threads": torch.get_num_threads(), "precisions": _cpu_precisions()})
    return devices


def _cpu_precisions() -> list[str]:
    import torch

    # Every CPU computes bfloat16, but only one with instructions for it is fast.
    is_fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return ["float32", "float64", "bfloat16" if is_fast else "bfloat16 (slow here)"]


def list_caches() -> dict[str, dict[str, Any]]:
    """Return the cache folders of weights and datasets, and whether they exist."""
    import torch

    folders = {"published weights": Path(torch.hub.get_dir()) / "checkpoints", "data": cache_dir()}
    return {name: {"path": str(path), "exists": path.is_dir()} for name, path in folders.items()}


def _environment_rows(environment: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(name, str(environment[name])) for name in ("reslab", "python", "platform", "cores")]
    lines += [
        (name, package_version or "MISSING: pip install " + name)
        for name, package_version in environment["versions"].items()
    ]
    for extra, names in environment["extras"].items():
        missing = [name for name, package_version in names.items() if package_version is None]
        versions_text = ", ".join(
            f"{name} {package_version}" for name, package_version in names.items() if package_version
        )
        lines.append(
            (f"extra {extra}", versions_text if not missing else f"not installed: pip install 'reslab[{extra}]'")
        )
    for device in environment["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        lines.append((f"device {device['device']}", f"{device['name']}{memory}: {', '.join(device['precisions'])}"))
    for name, cache in environment["caches"].items():
        lines.append((f"cache: {name}", cache["path"] + ("" if cache["exists"] else " (empty)")))
    if sys.platform == "win32":
        lines.append(("note", "reslab is developed and tested on Linux"))
    return lines
