"""Provenance of a run: hardware, package versions, command line, git commit."""

import importlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from reslab.runtime.device import hardware_info

_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "scikit-learn")


def provenance(device: torch.device, num_threads: int | None) -> dict[str, Any]:
    """Return what the metadata of a run or of a study's result record: `hardware`, `versions`, `command`, `commit`."""
    return {
        "hardware": hardware_info(device, num_threads),
        "versions": package_versions(),
        "command": command_line(),
        "commit": git_commit(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of reslab, Python, the operating system and the numerical packages."""
    reslab_version = importlib.import_module("reslab").__version__
    result = {"reslab": reslab_version, "python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def command_line() -> str:
    """Return the command line of this process, quoted for a shell."""
    return shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])


def git_commit() -> str | None:
    """Return the git commit of the current folder, with `+changes` if tracked files differ; None outside a checkout."""
    head = _git("rev-parse", "HEAD")
    return None if not head else head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*args: str) -> str:
    try:
        process = subprocess.run(["git", *args], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()
