"""The builders of the operations in `reslab.spec.operations`; importing the package registers them."""

from reslab.nn.operations import acts, attention, convs, layers, multipath, norms

__all__ = ["acts", "attention", "convs", "layers", "multipath", "norms"]
