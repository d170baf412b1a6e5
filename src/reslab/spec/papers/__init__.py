"""The studies by name: tables and figures of papers and tutorials as data, each with its source."""

from reslab.spec.errors import unknown
from reslab.spec.papers.he2015 import HE2015
from reslab.spec.study import Study

STUDIES: dict[str, Study] = {study.name: study for study in (*HE2015,)}


def get_study(name: str) -> Study:
    """The study of that name; ValueError with the nearest names where there is none."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES, "`reslab studies` lists all")
    return STUDIES[name]
