"""All networks by name: literal tables, where most entries change another one. Every network names its source."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.layout import layout_stages
from reslab.spec.plugins import Table
from reslab.spec.zoo.cifar import CIFAR
from reslab.spec.zoo.imagenet import IMAGENET, RESNETV2
from reslab.spec.zoo.successors import CONVNEXT, NFNET, REGNET
from reslab.spec.zoo.tutorials import TUTORIALS
from reslab.spec.zoo.variants import MULTIPATH, VARIANTS

_TABLES = (IMAGENET, VARIANTS, MULTIPATH, RESNETV2, REGNET, NFNET, CONVNEXT, CIFAR, TUTORIALS)
ARCHS: Table[Arch] = Table(
    "model", {name: replace(arch, name=name) for table in _TABLES for name, arch in table.items()}, is_saved=False
)


def register_arch(name: str, arch: Arch) -> Arch:
    """Register an architecture, usually `replace(another, ...)`, under a name; return it.

    Raises ValueError for a name that is taken, and for an architecture that cannot be built.
    """
    arch = replace(arch, name=name)
    layout_stages(arch)
    ARCHS.register(name, arch)
    return arch
