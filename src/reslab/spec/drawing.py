"""Figures of a study: which rows stand in which panel, and how they are drawn."""

from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown

KINDS: dict[str, str] = {
    "error_curves": "training error dashed, test error bold, against iterations; a panel for each group of rows",
    "loss_and_error": "training loss dashed on the left axis, test error bold on the right, against iterations",
    "train_then_test": "training error in the left panel, test error in the right, against iterations",
    "lines": "a metric against a number (depth, bias of a gate), a line for each group of rows",
    "gradients": "norm of the loss's gradient at each unit's input; the median of the seeds in a band of all",
    "responses": "standard deviation of each layer's response, in layer order above and sorted below",
    "answers": "what a question found in each network, of the first seed",
}


@dataclass(frozen=True)
class Panel:
    """A group of rows under one title; `at` is each row's place on the axis where the drawing has one."""

    title: str
    rows: tuple[str, ...]
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.at and len(self.at) != len(self.rows):
            raise refuse(f"a place for each of {len(self.rows)} rows", f"{len(self.at)} in {self.title!r}")


@dataclass(frozen=True)
class Drawing:
    """One figure: its `kind`, its panels, and `where` the paper has it; `axis` and `metric` are for `lines`.

    `question` names the answer that it shows, where that is not the kind's name (`gradients@init`).
    """

    kind: str
    title: str
    panels: tuple[Panel, ...]
    where: str = ""
    axis: str = ""
    metric: str = ""
    question: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of figure", self.kind, KINDS)
        if self.kind == "answers" and not self.question:
            raise refuse("a question for a figure of answers", f"none in {self.title!r}", nearest="'lesion'")
        if self.kind == "lines" and not all(panel.at for panel in self.panels):
            raise refuse("a place on the axis for each row of a figure of lines", f"none in {self.title!r}")

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows it shows, each once."""
        return tuple(dict.fromkeys(name for panel in self.panels for name in panel.rows))
