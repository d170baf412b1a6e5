"""The builders of the operations in `reslab.spec.operations`; importing the package registers them."""

from reslab.nn.operations import attention, convs, layers, multipath, norms

__all__ = ["attention", "convs", "layers", "multipath", "norms"]
