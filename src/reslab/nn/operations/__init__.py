"""Modules for the operations of expressions; importing the package registers their builders.

The operations are those of `reslab.spec.operations`.
"""

from reslab.nn.operations import attention, convs, layers, multipath, norms

__all__ = ["attention", "convs", "layers", "multipath", "norms"]
