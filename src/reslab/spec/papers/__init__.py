"""All studies by name: tables and figures of papers and tutorials as data, each with its source.

A module has the studies of one paper, or of a group: `analyses` and `variants` list theirs.
"""

from reslab.spec.errors import unknown_name
from reslab.spec.papers.analyses import LI2018, VEIT2016
from reslab.spec.papers.he2015 import HE2015
from reslab.spec.papers.he2015_imagenet import HE2015_DETECTION, HE2015_IMAGENET
from reslab.spec.papers.he2016 import HE2016
from reslab.spec.papers.he2016_deep import HE2016_DEEP
from reslab.spec.papers.textbooks import D2L, STEVENS2020
from reslab.spec.papers.variants import GOYAL2017, HUANG2016, ZAGORUYKO2016
from reslab.spec.study import Study

_PAPERS = (
    *(HE2015, HE2015_IMAGENET, HE2015_DETECTION, HE2016, HE2016_DEEP, ZAGORUYKO2016, HUANG2016),
    *(VEIT2016, GOYAL2017, LI2018, D2L, STEVENS2020),
)
STUDIES: dict[str, Study] = {study.name: study for paper in _PAPERS for study in paper}


def get_study(name: str) -> Study:
    """Return the study of this name. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES, "`reslab studies` lists them all")
    return STUDIES[name]
