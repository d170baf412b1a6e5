"""The description made into modules."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.nn.block import Residual

__all__ = ["Residual"]


def __getattr__(name: str) -> Any:
    """`reslab.nn.Residual`, loaded when it is asked for, so that importing a module of this room imports no other."""
    if name != "Residual":
        raise AttributeError(f"module 'reslab.nn' has no attribute {name!r}")
    from reslab.nn.block import Residual

    return Residual
