"""Optional packages of formats, backends and metrics: which are installed, and the error with the install command."""

import importlib.util

from reslab.spec.errors import invalid

# Extra of pyproject.toml -> its packages that are imported here.
EXTRAS: dict[str, tuple[str, ...]] = {
    "detection": ("faster_coco_eval",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "serve": ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"),
    "timm": ("timm",),
    "yaml": ("yaml",),
}


class MissingExtraError(ValueError):
    """A required extra is not installed."""


def has_extra(extra: str) -> bool:
    """Return whether every package of this extra is installed; true for ""."""
    return not missing_packages(extra)


def missing_packages(extra: str) -> tuple[str, ...]:
    """Return the packages of this extra that are not installed."""
    return tuple(name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None) if extra else ()


def require_extra(extra: str, purpose: str) -> None:
    """Raise MissingExtraError, with the install command, if the extra is not installed."""
    missing = missing_packages(extra)
    if missing:
        got = f"an installation without {' and '.join(missing)}"
        raise MissingExtraError(
            str(invalid(f"the extra {extra} for {purpose}", got, next_step=f"pip install 'reslab[{extra}]'"))
        )
