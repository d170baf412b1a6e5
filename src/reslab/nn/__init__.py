"""Modules built from the values of `reslab.spec`: operations, block, network, features, checkpoints."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.nn.block import Residual

__all__ = ["Residual"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing one module of this package imports no other.
    if name != "Residual":
        raise AttributeError(f"module 'reslab.nn' has no attribute {name!r}")
    from reslab.nn.block import Residual

    return Residual
