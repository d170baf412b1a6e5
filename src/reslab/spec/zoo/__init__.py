"""The networks by name: literal tables, most lines a change of another; each network carries its source."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.cifar import CIFAR
from reslab.spec.zoo.imagenet import IMAGENET
from reslab.spec.zoo.tutorials import TUTORIALS

ARCHS: dict[str, Arch] = {name: replace(arch, name=name) for name, arch in (IMAGENET | CIFAR | TUTORIALS).items()}
