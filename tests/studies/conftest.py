"""A study of two tiny networks on a few digits, its store, and a place to do it in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reslab.spec.study import Asked, Claim, Cut, Cuts, Row, Study
from reslab.studies.job import Place
from reslab.studies.store import Store

TINY = (
    "model.depths=1,1,1",
    "model.widths=2,2,2",
    "model.stem=conv3(2) norm act",
    "length=4 steps",
    "schedule.milestones=3 steps",
    "augment=none",
    "batch=16",
)


@pytest.fixture
def study() -> Study:
    """A residual network and its plain twin; four steps of 16 digits of 40."""
    cut = Cut("tiny", tuple(word for word in TINY if word != "augment=none"), data="digits", num_images=40, seeds=2)
    cut = replace(cut, settings=(*cut.settings, "augment="))
    return Study(
        name="test/tiny",
        title="Two tiny networks",
        source="a test",
        rows=(
            Row("plain", "plain20_cifar", "cifar10", "he2015-cifar"),
            Row("residual", "resnet20_cifar", "cifar10", "he2015-cifar"),
        ),
        cuts=Cuts(cut, cut),
        claims=(Claim("plain tests worse than residual", "plain", ">", "residual"),),
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A store of its own; what is said goes nowhere."""
    return Place(Store(tmp_path / "store"), device="cpu")


@pytest.fixture
def said(place: Place) -> tuple[Place, list[str]]:
    """The place, and the list of what is said there."""
    lines: list[str] = []
    return replace(place, say=lines.append), lines


Changed = Callable[..., Study]


@pytest.fixture
def changed(study: Study) -> Changed:
    """The study with other settings of its cut."""

    def change(asked: tuple[Asked, ...] = (), **cut: Any) -> Study:
        found = replace(study.cuts.smoke, **cut)
        return replace(study, cuts=Cuts(found, found), asked=asked)

    return change
