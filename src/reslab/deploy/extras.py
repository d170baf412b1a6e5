"""Packages that only some formats and backends need: found, or missed with the command that brings them."""

import importlib.util

from reslab.spec.errors import invalid

# Extra of pyproject.toml -> what of it is imported here.
EXTRAS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "serve": ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"),
    "timm": ("timm",),
}


class MissingExtraError(ValueError):
    """An extra that was asked for is not installed."""


def has_extra(extra: str) -> bool:
    """Whether every package of this extra is installed; "" is what everybody has."""
    return not missing_packages(extra)


def missing_packages(extra: str) -> tuple[str, ...]:
    """The packages of this extra that are not installed."""
    return tuple(name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None) if extra else ()


def require_extra(extra: str, purpose: str) -> None:
    """Raises MissingExtraError, with the command that installs it, where the extra is not there."""
    missing = missing_packages(extra)
    if missing:
        got = f"an installation without {' and '.join(missing)}"
        raise MissingExtraError(
            str(invalid(f"the extra {extra} for {purpose}", got, next_step=f"pip install 'reslab[{extra}]'"))
        )
