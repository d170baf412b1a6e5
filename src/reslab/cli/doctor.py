"""`reslab doctor`: what is installed and which devices this machine has."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import Any

from reslab.cli.options import (
    JsonFlag,
)
from reslab.cli.output import print_result
from reslab.runtime.allocator import Allocator, keep_freed_memory
from reslab.runtime.files import cache_dir


@dataclass(frozen=True)
class RequiredPackage:
    """A required package, with required and installed versions; `extra` is empty if it is always required."""

    name: str
    extra: str
    required: str
    installed: str | None
    is_satisfied: bool

    def describe(self) -> str:
        """Return `timm 1.0.27`, `timm missing` or `timm 0.9 (needs >=1.0.20)`."""
        if self.installed is None:
            return f"{self.name} missing"
        return f"{self.name} {self.installed}" + ("" if self.is_satisfied else f" (needs {self.required})")


def required_packages(distribution: str = "reslab") -> list[RequiredPackage]:
    """Return the packages that the metadata of an installed distribution requires on this platform.

    An extra's references to other extras of the distribution itself are left out.
    """
    from packaging.requirements import Requirement

    try:
        package_metadata = metadata(distribution)
    except PackageNotFoundError:
        return []
    extras = ["", *(package_metadata.get_all("Provides-Extra") or [])]
    packages = []
    for requirement in map(Requirement, package_metadata.get_all("Requires-Dist") or []):
        extra = next(
            (name for name in extras if requirement.marker is None or requirement.marker.evaluate({"extra": name})),
            None,
        )
        if extra is not None and requirement.name != distribution:
            installed = _installed_version(requirement.name)
            is_satisfied = installed is not None and requirement.specifier.contains(installed, prereleases=True)
            packages.append(
                RequiredPackage(requirement.name, extra, str(requirement.specifier), installed, is_satisfied)
            )
    return packages


def doctor(as_json: JsonFlag = False) -> None:
    """Print versions, devices, precisions, caches and optional packages."""
    environment = collect_environment()
    print_result(environment, _environment_rows(environment), as_json=as_json)


def collect_environment() -> dict[str, Any]:
    """Return everything that `reslab doctor` prints, as plain data."""
    packages = required_packages()
    return {
        "reslab": _installed_version("reslab"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {package.name: package.installed for package in packages if not package.extra},
        "extras": {
            extra: _extra_payload(extra, [package for package in packages if package.extra == extra])
            for extra in dict.fromkeys(package.extra for package in packages if package.extra)
        },
        "allocator": keep_freed_memory().value,
        "devices": list_devices(),
        "caches": list_caches(),
    }


def _extra_payload(extra: str, packages: list[RequiredPackage]) -> dict[str, Any]:
    """Return whether an extra is usable, its packages, and the command that installs what is missing, if anything."""
    is_installed = all(package.is_satisfied for package in packages)
    return {
        "installed": is_installed,
        "packages": {package.name: package.installed for package in packages},
        "required": {package.name: package.required for package in packages},
        "text": ", ".join(package.describe() for package in packages),
        "install_command": None if is_installed else f"pip install 'reslab[{extra}]'",
    }


def _installed_version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
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
    from reslab.nn.checkpoints.published import hub_checkpoints_dir

    folders = {"published weights": hub_checkpoints_dir(), "data": cache_dir()}
    return {name: {"path": str(path), "exists": os.path.isdir(path)} for name, path in folders.items()}


_ALLOCATOR_ADVICE = {
    Allocator.TUNED.value: "; LD_PRELOAD of tcmalloc or jemalloc may be faster still",
    Allocator.DEFAULT.value: "; LD_PRELOAD of tcmalloc or jemalloc makes training on the CPU faster",
}


def _environment_rows(environment: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(name, str(environment[name])) for name in ("reslab", "python", "platform", "cores")]
    lines.append(("allocator", environment["allocator"] + _ALLOCATOR_ADVICE.get(environment["allocator"], "")))
    lines += [
        (name, package_version or "missing: pip install " + name)
        for name, package_version in environment["versions"].items()
    ]
    for name, extra in environment["extras"].items():
        command_text = f"; {extra['install_command']}" if extra["install_command"] else ""
        lines.append((f"extra {name}", extra["text"] + command_text))
    for device in environment["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        lines.append((f"device {device['device']}", f"{device['name']}{memory}: {', '.join(device['precisions'])}"))
    for name, cache in environment["caches"].items():
        lines.append((f"cache: {name}", cache["path"] + ("" if cache["exists"] else " (empty)")))
    if sys.platform == "win32":
        lines.append(("note", "reslab is developed and tested on Linux"))
    return lines
