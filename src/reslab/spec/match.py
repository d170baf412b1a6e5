"""How the shortcut gets the branch's shape; identity wherever the shapes agree, unless the match stands on every
unit."""

from dataclasses import dataclass

from reslab.spec.errors import unknown


@dataclass(frozen=True)
class Match:
    """`kind`: the module it builds. `every`: it stands on every unit, also where the shapes agree."""

    kind: str
    does: str
    source: str
    every: bool = False

    @property
    def projects(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("project", "conv1x1", "avg-project")


MATCHES: dict[str, Match] = {
    "pad": Match("pad", "strided, zeros after (option A)", "He et al. 2015, Sec. 4.1 and 4.2"),
    "pad-split": Match(
        "pad-split",
        "strided, half of the zeros before, half after (option A)",
        "github.com/akamaster/pytorch_resnet_cifar10",
    ),
    "avg-pad": Match("avg-pad", "2x2 average pool, zeros after", "Han, Kim and Kim 2017, arXiv:1610.02915, Sec. 3.3"),
    "project": Match("project", "1x1 convolution and norm (option B)", "He et al. 2015, Sec. 4.1"),
    "project-all": Match(
        "project", "1x1 convolution and norm on every unit (option C)", "He et al. 2015, Sec. 4.1", every=True
    ),
    "conv1x1": Match("conv1x1", "a bare 1x1 convolution", "Zhang et al., Dive into Deep Learning, Sec. 8.6"),
    "conv1x1-all": Match(
        "conv1x1", "a bare 1x1 convolution on every unit", "He et al. 2016, Sec. 3.1, Table 1 (a reading)", every=True
    ),
    "avg-project": Match(
        "avg-project",
        "2x2 average pool, 1x1 convolution, norm (ResNet-D)",
        "He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c)",
    ),
}


def get_match(name: str) -> Match:
    """The match of this name; ValueError with the nearest names where there is none."""
    if name not in MATCHES:
        raise unknown("match", name, MATCHES)
    return MATCHES[name]
