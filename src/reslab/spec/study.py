"""A study: a table or a figure of a paper as rows to run, values it reports, and claims to judge.

What a study measures of a network: names with their unit, what they are, and which way is better.

Figures of a study: which rows stand in which panel, and how they are drawn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reslab.spec.arch import parse_arch_overrides
from reslab.spec.errors import invalid, unknown_name

_METRIC_PATH = re.compile(r"[a-z][a-z_0-9]*(\.[a-z_0-9]+)+$")


@dataclass(frozen=True)
class Metric:
    """A figure of a row: its `unit`, and what it is in `words`."""

    name: str
    unit: str
    description: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("test_error", "%", "error on the test pictures, of the weights of the last step, in eval mode"),
        Metric("test_error_top5", "%", "share of the test pictures whose class is not among the first five"),
        Metric("test_loss", "", "loss on the test pictures, of the weights of the last step, in eval mode"),
        Metric("train_error", "%", "error along the last epoch of training, as its batches came"),
        Metric("train_loss", "", "loss along the last epoch of training, as its batches came"),
        Metric("train_error_eval", "%", "error on the training pictures after the last step, in eval mode"),
        Metric("train_loss_eval", "", "loss on the training pictures after the last step, in eval mode"),
        Metric("train_error_batch", "%", "error on the training pictures after the last step, never in eval mode"),
        Metric("test_error_batch", "%", "error on the test pictures after the last step, never in eval mode"),
        Metric("gap", "%", "test error less the error on the training pictures, both in eval mode"),
        Metric("steps_to_train_error", "steps", "steps until the training error first fell to a fixed value"),
        Metric("train_seconds", "s", "time of training, without evaluation"),
        Metric("params", "", "trained numbers"),
        Metric("macs", "", "multiply-adds for one image"),
    )
}

# What paths into answers are called; any other is told as a path.
_ANALYSIS_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("gradients.slope.decades", "", "powers of ten by which the gradient grows from last unit to first"),
        Metric("responses.mean_std", "", "standard deviation of a layer's response, the mean over the layers"),
        Metric(
            "lesion.deletions.error.median", "", "share of the pictures wrong without one unit, the median over units"
        ),
        Metric(
            "lesion.permutations.error.mean",
            "",
            "share of the pictures wrong with units permuted, the mean of the draws",
        ),
        Metric("lesion.paths.contribution.peak", "", "length of those paths that carry the most gradient together"),
        Metric("landscape.non_convex_fraction", "", "share of the points where the loss surface is far from convex"),
    )
}


def check_metric(name: str) -> None:
    """ValueError for a name that is neither in the table nor a path into the answer of a question.

    `lesion.mean_increase` is the field `mean_increase` of what the question `lesion` answers.
    """
    if name not in METRICS and not _METRIC_PATH.match(name):
        raise unknown_name("metric", name, METRICS, "or QUESTION.FIELD, such as lesion.mean_increase")


def get_metric(name: str) -> Metric:
    """The metric of that name; one of a question has its path for words and no unit."""
    check_metric(name)
    return (
        METRICS.get(name)
        or _ANALYSIS_METRICS.get(name)
        or Metric(name, "", f"{name.partition('.')[2]} as the question {name.split('.')[0]} found")
    )


FIGURE_KINDS: dict[str, str] = {
    "error_curves": "training error dashed, test error bold, against iterations; a panel for each group of rows",
    "loss_and_error": "training loss dashed on the left axis, test error bold on the right, against iterations",
    "train_then_test": "training error in the left panel, test error in the right, against iterations",
    "lines": "a metric against a number (depth, bias of a gate), a line for each group of rows",
    "gradients": "norm of the loss's gradient at each unit's input; the median of the seeds in a band of all",
    "responses": "standard deviation of each layer's response, in layer order above and sorted below",
    "answers": "what a question found in each network, of the first seed",
}


@dataclass(frozen=True)
class FigurePanel:
    """A group of rows under one title; `at` is each row's place on the axis where the drawing has one."""

    title: str
    rows: tuple[str, ...]
    x: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.x and len(self.x) != len(self.rows):
            raise invalid(f"a place for each of {len(self.rows)} rows", f"{len(self.x)} in {self.title!r}")


@dataclass(frozen=True)
class FigureSpec:
    """One figure: its `kind`, its panels, and `where` the paper has it; `axis` and `metric` are for `lines`.

    `question` names the answer that it shows, where that is not the kind's name (`gradients@init`).
    """

    kind: str
    title: str
    panels: tuple[FigurePanel, ...]
    location: str = ""
    x_label: str = ""
    metric: str = ""
    analysis: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FIGURE_KINDS:
            raise unknown_name("kind of figure", self.kind, FIGURE_KINDS)
        if self.kind == "answers" and not self.analysis:
            raise invalid("a question for a figure of answers", f"none in {self.title!r}", nearest="'lesion'")
        if self.kind == "lines" and not all(panel.x for panel in self.panels):
            raise invalid("a place on the axis for each row of a figure of lines", f"none in {self.title!r}")

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows it shows, each once."""
        return tuple(dict.fromkeys(name for panel in self.panels for name in panel.rows))


SCALES = ("smoke", "short", "full")
RELATIONS = ("<", ">", "within")
PROVENANCES = ("verified", "from_memory", "derived")

_TERM = re.compile(r"\s+([+-])\s+")


def _check_overrides(overrides: Iterable[str]) -> None:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise invalid("settings as KEY=VALUE", repr(override), nearest="'optimizer.lr=0.1'")


@dataclass(frozen=True)
class ReportedValue:
    """A value that a paper prints: `statistic` of which runs, by which `protocol`, `where`.

    `value` is None where there is none, and `note` says why (`fail: above 20 %`). `std` is the spread where it is
    printed. `confidence`: `read` in the paper, `recalled` from memory, `derived` by computation. `metric` is the row's
    own where empty.
    """

    value: float | None
    statistic: str = "single"
    protocol: str = "single view"
    location: str = ""
    std: float | None = None
    note: str = ""
    provenance: str = "from_memory"
    metric: str = ""

    def __post_init__(self) -> None:
        if self.metric:
            check_metric(self.metric)
        if self.provenance not in PROVENANCES:
            raise unknown_name("provenance", self.provenance, PROVENANCES)


@dataclass(frozen=True)
class ScalePreset:
    """What a scale takes away from the paper's procedure, in `words` for a person; what is empty or 0 is the row's own.

    `settings` override those of the row (`duration=600 steps`, `model.widths=8,16,32`). `num_images` training pictures
    are taken, the same share of each class. `asking` changes the questions (`lesion.num_images=64`), and `train_error`
    is the error in percent whose steps `steps_to_train_error` counts. `views` replaces the row's protocol of
    evaluation, `single` for one view.
    """

    description: str
    overrides: tuple[str, ...] = ()
    data: str = ""
    num_images: int = 0
    seeds: int = 0
    model: str = ""
    recipe: str = ""
    analysis_overrides: tuple[str, ...] = ()
    target_train_error: float = 0.0
    tta: str = ""

    def __post_init__(self) -> None:
        _check_overrides(self.overrides)
        _check_overrides(self.analysis_overrides)
        for name in ("num_images", "seeds", "target_train_error"):
            if not getattr(self, name) >= 0:
                raise invalid(f"{name} of at least 0 (0: the row's own)", getattr(self, name), nearest="0")


FULL_PRESET = ScalePreset("nothing is cut: the paper's procedure")


@dataclass(frozen=True)
class ScalePresets:
    """The cut of each scale."""

    smoke: ScalePreset
    short: ScalePreset
    full: ScalePreset = FULL_PRESET

    def for_scale(self, scale: str) -> ScalePreset:
        """The cut of a scale; ValueError for an unknown one."""
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        preset: ScalePreset = getattr(self, scale)
        return preset


@dataclass(frozen=True)
class AnalysisRequest:
    """A question put to each network of a study (or to `rows`), its weights trained, or at initialisation (`init`)."""

    analysis: str
    overrides: tuple[str, ...] = ()
    weights: str = "final"
    rows: tuple[str, ...] = ()
    num_images: int = 128

    def __post_init__(self) -> None:
        _check_overrides(self.overrides)
        if self.weights not in ("final", "init"):
            raise unknown_name("weights", self.weights, ("final", "init"))
        if self.num_images < 1:
            raise invalid("at least 1 picture to ask with", self.num_images, nearest="128")


@dataclass(frozen=True)
class RowSpec:
    """One network trained by one recipe on one data set: a line of a table, or a curve of a figure.

    `axes` change the network (`order=bn-after-add`), `settings` recipe and network as `--set` does. Without a `recipe`
    the network stays at initialisation. `members` are the rows whose probabilities are averaged, for an ensemble, which
    has no model of its own. `metric` is a name of `reslab.spec.study`; `also` are reported values of further metrics.
    `views` is the protocol of evaluation (`ten-crop(224)`). `cuts` replace those of the study.
    """

    name: str
    model: str = ""
    data: str = ""
    recipe: str = ""
    arch_overrides: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    metric: str = "test_error"
    reported: ReportedValue | None = None
    more_reported: tuple[ReportedValue, ...] = ()
    members: tuple[str, ...] = ()
    tta: str = ""
    presets: ScalePresets | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip() or _TERM.search(self.name) or "," in self.name:
            raise invalid("a row's name without commas or spaces around + and -", repr(self.name))
        if bool(self.model) == bool(self.members):
            raise invalid("a model, or members of an ensemble", f"both or neither in row {self.name!r}")
        if self.seeds < 1:
            raise invalid("at least 1 seed", self.seeds, nearest="1")
        check_metric(self.metric)
        if not all(reported.metric for reported in self.more_reported):
            raise invalid("a metric for each further value", f"none in row {self.name!r}", nearest="metric='test_loss'")
        parse_arch_overrides(self.arch_overrides)
        _check_overrides(self.overrides)


@dataclass(frozen=True)
class Claim:
    """What a paper says, so that it can be judged: `left` `relation` `right`, each a sum of rows, or a number.

    `plain-56 > plain-20` by more than `margin`; `within`: |left - right| <= margin. A side may be a difference
    (`plain-56 - plain-20`). `metric` is that of the rows where it is empty. `deterministic`: no seed changes it.
    """

    text: str
    left: str
    relation: str
    right: str | float
    metric: str = ""
    margin: float = 0.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise unknown_name("relation", self.relation, RELATIONS)
        if not self.margin >= 0 or (self.relation == "within" and not self.margin):
            raise invalid("a margin of at least 0, above 0 for `within`", self.margin, nearest="0.5")
        if self.metric:
            check_metric(self.metric)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows it speaks of, each once."""
        return tuple(dict.fromkeys(name for side in (self.left, self.right) for _, name in parse_terms(side)))


@dataclass(frozen=True)
class Study:
    """A table or figure of a paper (`he2015/degradation`): its rows, its claims, what is asked of each network.

    `figures` are drawn from what is found, `differences` are where the procedure is not the paper's.
    """

    name: str
    title: str
    reference: str
    rows: tuple[RowSpec, ...]
    presets: ScalePresets
    claims: tuple[Claim, ...] = ()
    analyses: tuple[AnalysisRequest, ...] = ()
    figures: tuple[FigureSpec, ...] = ()
    differences: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        for name in names:
            if names.count(name) > 1:
                raise invalid("every row's name once", f"{name!r} twice in {self.name}")
        referenced = [name for claim in self.claims for name in claim.rows]
        referenced += [name for request in self.analyses for name in request.rows]
        referenced += [name for row in self.rows for name in row.members]
        referenced += [name for figure in self.figures for name in figure.rows]
        for name in referenced:
            if name not in names:
                raise unknown_name(f"row of {self.name}", name, names)

    def get_row(self, name: str) -> RowSpec:
        """The row of that name; ValueError with the nearest names where there is none."""
        match = next((row for row in self.rows if row.name == name), None)
        if match is None:
            raise unknown_name(f"row of {self.name}", name, [row.name for row in self.rows])
        return match

    def tta_for(self, row: RowSpec, scale: str) -> str:
        """The protocol by which a row is evaluated at a scale; empty for one view."""
        tta = self.preset_for(row, scale).tta or row.tta
        return "" if tta == "single" else tta

    def preset_for(self, row: RowSpec, scale: str) -> ScalePreset:
        """What `scale` cuts from a row."""
        return (row.presets or self.presets).for_scale(scale)


def parse_terms(side: str | float) -> list[tuple[float, str]]:
    """`"a - b"` as [(1, "a"), (-1, "b")]; a number has no terms."""
    if as_number(side) is not None:
        return []
    parts = _TERM.split(str(side).strip())
    signs = ["+", *parts[1::2]]
    return [(1.0 if sign == "+" else -1.0, name) for sign, name in zip(signs, parts[::2], strict=True)]


def as_number(side: str | float) -> float | None:
    """The number a side of a claim is, or None."""
    try:
        return float(side)
    except ValueError:
        return None
