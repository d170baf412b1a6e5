"""A study: a table or figure of a paper as rows to run, reported values, claims to test, and figures to draw."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name

_METRIC_PATH = re.compile(r"[a-z][a-z_0-9]*(\.[a-z_0-9]+)+$")


@dataclass(frozen=True)
class StudyMetric:
    """A metric of a row, its unit and a description for readers."""

    name: str
    unit: str
    description: str


METRICS: dict[str, StudyMetric] = {
    metric.name: metric
    for metric in (
        StudyMetric("test_error", "%", "error on the test images, with the weights of the last step, in eval mode"),
        StudyMetric("test_error_top5", "%", "share of the test images whose class is not among the top five"),
        StudyMetric("test_loss", "", "loss on the test images, with the weights of the last step, in eval mode"),
        StudyMetric("test_ap", "%", "COCO's AP on the test images, the mean over IoU thresholds from 0.5 to 0.95"),
        StudyMetric("test_ap50", "%", "COCO's AP at an IoU of 0.5 on the test images"),
        StudyMetric("test_voc_map", "%", "VOC's mean average precision (all points) on the test images"),
        StudyMetric("train_error", "%", "running average of the error over the last epoch of training"),
        StudyMetric("train_loss", "", "running average of the loss over the last epoch of training"),
        StudyMetric("train_error_eval", "%", "error on the training images after the last step, in eval mode"),
        StudyMetric("train_loss_eval", "", "loss on the training images after the last step, in eval mode"),
        StudyMetric("train_error_batch", "%", "error on the training images after the last step, in training mode"),
        StudyMetric("test_error_batch", "%", "error on the test images after the last step, in training mode"),
        StudyMetric("gap", "%", "test error minus training error, both in eval mode"),
        StudyMetric("steps_to_train_error", "steps", "steps until the training error first reached a fixed value"),
        StudyMetric("train_seconds", "s", "training time without evaluation"),
        StudyMetric("params", "", "number of parameters"),
        StudyMetric("macs", "", "multiply-adds for one image"),
    )
}

# Descriptions of common metrics of analyses; any other is described by its path.
_ANALYSIS_METRICS: dict[str, StudyMetric] = {
    metric.name: metric
    for metric in (
        StudyMetric(
            "gradients.slope.decades",
            "",
            "growth of the gradient norm from the last block to the first, in powers of ten",
        ),
        StudyMetric("responses.mean_std", "", "standard deviation of a layer's response, mean over the layers"),
        StudyMetric(
            "lesion.deletions.error.median",
            "",
            "share of wrong predictions after deleting one block, median over blocks",
        ),
        StudyMetric(
            "lesion.permutations.error.mean",
            "",
            "share of wrong predictions with permuted blocks, mean of the draws",
        ),
        StudyMetric("lesion.paths.contribution.peak", "", "length of the paths that together carry the most gradient"),
        StudyMetric("landscape.non_convex_fraction", "", "share of points where the loss surface is far from convex"),
    )
}


def check_metric(name: str) -> None:
    """Raise ValueError for a name that is neither in `METRICS` nor a path into the result of an analysis.

    `lesion.mean_increase` is the field `mean_increase` of the result of the analysis `lesion`.
    """
    if name not in METRICS and not _METRIC_PATH.match(name):
        raise unknown_name("metric", name, METRICS, "or ANALYSIS.FIELD, such as lesion.mean_increase")


def get_metric(name: str) -> StudyMetric:
    """Return the metric of this name. A metric of an analysis has no unit. Raises ValueError as `check_metric` does."""
    check_metric(name)
    return (
        METRICS.get(name)
        or _ANALYSIS_METRICS.get(name)
        or StudyMetric(name, "", f"{name.partition('.')[2]} of the analysis {name.split('.')[0]}")
    )


# The caption of each kind; `{split}` is the split whose curve is shown, test or validation.
FIGURE_KINDS: dict[str, str] = {
    "error_curves": "training error dashed, {split} error bold, against iterations; one panel per group of rows",
    "loss_and_error": "training loss dashed on the left axis, {split} error bold on the right, against iterations",
    "train_then_test": "training error in the left panel, {split} error in the right, against iterations",
    "lines": "a metric against a number (depth, bias of a gate), one line per group of rows",
    "gradients": "norm of the loss gradient at each block's input: median of the seeds, with a band over all seeds",
    "responses": "standard deviation of each layer's response, in layer order above and sorted below",
    "analysis": "the result of an analysis of each network, from the first seed",
}


@dataclass(frozen=True)
class FigurePanel:
    """A group of rows under one title; `x` is each row's position on the x axis of a `lines` figure."""

    title: str
    rows: tuple[str, ...]
    x: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.x and len(self.x) != len(self.rows):
            raise invalid(f"an x for each of {len(self.rows)} rows", f"{len(self.x)} in {self.title!r}")


@dataclass(frozen=True)
class FigureSpec:
    """One figure: a kind of `FIGURE_KINDS`, its panels, and its `location` in the paper.

    `x_label` and `metric` are for `lines`. `analysis` names the result to show, if it differs from the kind
    (`gradients@init`).
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
        if self.kind == "analysis" and not self.analysis:
            raise invalid("an analysis for a figure of kind analysis", f"none in {self.title!r}", nearest="'lesion'")
        if self.kind == "lines" and not all(panel.x for panel in self.panels):
            raise invalid("an x for each row of a figure of kind lines", f"none in {self.title!r}")

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of its rows, each once."""
        return tuple(dict.fromkeys(name for panel in self.panels for name in panel.rows))


@dataclass(frozen=True)
class DataFolder:
    """Data of a study that have no reader by name: a folder in the data directory, and what it must contain."""

    folder: str
    contents: str


DATA_FOLDERS: dict[str, DataFolder] = {
    "voc07+12": DataFolder(
        "VOC07+12", "PASCAL VOC's layout, with trainval of 2007 and 2012 in train.txt and test of 2007 in test.txt"
    ),
    "voc07++12": DataFolder(
        "VOC07++12", "PASCAL VOC's layout, with all of 2007 and train of 2012 in train.txt, and val of 2012 in val.txt"
    ),
    "coco2014": DataFolder("COCO2014", "COCO's layout, with train2014, val2014 and annotations"),
    "bccd": DataFolder("BCCD", "PASCAL VOC's layout, such as github.com/Shenggan/BCCD_Dataset (364 images)"),
}
"""The folders of data by their names in rows and presets."""

SCALES = ("smoke", "short", "full")
RELATIONS = ("<", ">", "within")
PROVENANCES = ("verified", "from_memory", "derived")

_TERM = re.compile(r"\s+([+-])\s+")


def _check_overrides(overrides: Iterable[str], *, unique: bool = False) -> None:
    keys = [override.partition("=")[0].strip() for override in overrides]
    if unique and len(set(keys)) < len(keys):
        raise invalid("each key once", ", ".join(keys))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise invalid("overrides as KEY=VALUE", repr(override), nearest="'optimizer.lr=0.1'")


@dataclass(frozen=True)
class ReportedValue:
    """A value that a paper reports.

    `statistic`: of which runs (`median of 5`). `protocol`: how images were evaluated. `location`: where it is printed.
    `value` is None if the paper prints none, and `note` says why (`fail: above 20 %`). `std` is the printed spread.
    `provenance`: `verified` against the paper, `from_memory`, or `derived` by computation. `metric`: empty for the
    row's metric.
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
    """A scale's changes to the paper's procedure, with a description for readers. Empty or 0: the row's own value.

    * `overrides` replace those of the row (`duration=600 steps`, `model.widths=8,16,32`).
    * `num_images`: the number of training images, the same share of each class.
    * `analysis_overrides` change the analyses (`lesion.num_images=64`).
    * `target_train_error`: the training error in percent for `steps_to_train_error`.
    * `tta` replaces the row's test-time augmentation; `single`: one view.
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

    @property
    def changes_procedure(self) -> bool:
        """True if it changes anything but the number of seeds."""
        return any(
            (self.overrides, self.data, self.num_images, self.model, self.recipe, self.analysis_overrides, self.tta)
        )

    @property
    def changes_duration(self) -> bool:
        """True if it trains for another number of epochs or steps than the paper."""
        return any(override.partition("=")[0].strip() == "duration" for override in self.overrides)

    def __post_init__(self) -> None:
        _check_overrides(self.overrides)
        _check_overrides(self.analysis_overrides)
        for name in ("num_images", "seeds", "target_train_error"):
            if not getattr(self, name) >= 0:
                raise invalid(f"{name} of at least 0 (0: the row's own)", getattr(self, name), nearest="0")


FULL_PRESET = ScalePreset("the paper's procedure")


@dataclass(frozen=True)
class ScalePresets:
    """The preset of each scale."""

    smoke: ScalePreset
    short: ScalePreset
    full: ScalePreset = FULL_PRESET

    def for_scale(self, scale: str) -> ScalePreset:
        """Return the preset of a scale. Raises ValueError for an unknown one."""
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        preset: ScalePreset = getattr(self, scale)
        return preset


@dataclass(frozen=True)
class AnalysisRequest:
    """An analysis of each network of a study (or of `rows`), with trained weights or at initialization (`init`)."""

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
            raise invalid("num_images of at least 1", self.num_images, nearest="128")


@dataclass(frozen=True)
class RowSpec:
    """One network trained with one recipe on one dataset: a line of a table, or a curve of a figure.

    * `arch_overrides` change the network (`order=bn-after-add`), `overrides` recipe and network like `--set`.
    * Without a `recipe` the network stays at initialization.
    * `members`: the rows of an ensemble, whose probabilities are averaged; an ensemble has no model of its own.
    * `metric`: a name in `METRICS`, or a path into an analysis. `more_reported`: values of further metrics.
    * `tta`: test-time augmentation (`ten-crop(224)`). `presets` replace those of the study.
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
            raise invalid("a row name without commas or spaces around + and -", repr(self.name))
        if bool(self.model) == bool(self.members):
            raise invalid("a model, or members of an ensemble", f"both or neither in row {self.name!r}")
        if self.seeds < 1:
            raise invalid("at least 1 seed", self.seeds, nearest="1")
        check_metric(self.metric)
        if not all(reported.metric for reported in self.more_reported):
            raise invalid("a metric for each further value", f"none in row {self.name!r}", nearest="metric='test_loss'")
        _check_overrides(self.arch_overrides, unique=True)
        _check_overrides(self.overrides)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper in testable form: `left` `relation` `right`, each a sum of rows or a number.

    `plain-56 > plain-20` by more than `margin`; `within`: |left - right| <= margin. A side may be a difference
    (`plain-56 - plain-20`). `metric`: empty for the rows' metric. `deterministic`: it does not depend on the seed.
    `is_ours`: a test of our own, which the source does not state.
    """

    text: str
    left: str
    relation: str
    right: str | float
    metric: str = ""
    margin: float = 0.0
    deterministic: bool = False
    is_ours: bool = False

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise unknown_name("relation", self.relation, RELATIONS)
        if not self.margin >= 0 or (self.relation == "within" and not self.margin):
            raise invalid("a margin of at least 0, above 0 for `within`", self.margin, nearest="0.5")
        if self.metric:
            check_metric(self.metric)

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows it compares, each once."""
        return tuple(dict.fromkeys(name for side in (self.left, self.right) for _, name in parse_terms(side)))


@dataclass(frozen=True)
class Study:
    """A table or figure of a paper (`he2015/degradation`): rows, claims, analyses and figures.

    `differences`: how the procedure differs from the source's. `source`: its kind (paper, book, tutorial).
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
    source: str = "paper"

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
        """Return the row of this name. Raises ValueError for an unknown name, with the nearest ones."""
        match = next((row for row in self.rows if row.name == name), None)
        if match is None:
            raise unknown_name(f"row of {self.name}", name, [row.name for row in self.rows])
        return match

    def tta_for(self, row: RowSpec, scale: str) -> str:
        """Return the test-time augmentation of a row at a scale; empty for one view."""
        tta = self.preset_for(row, scale).tta or row.tta
        return "" if tta == "single" else tta

    def preset_for(self, row: RowSpec, scale: str) -> ScalePreset:
        """Return the preset of a row at a scale."""
        return (row.presets or self.presets).for_scale(scale)


def parse_terms(side: str | float) -> list[tuple[float, str]]:
    """Return `"a - b"` as [(1, "a"), (-1, "b")]; a number has no terms."""
    if as_number(side) is not None:
        return []
    parts = _TERM.split(str(side).strip())
    signs = ["+", *parts[1::2]]
    return [(1.0 if sign == "+" else -1.0, name) for sign, name in zip(signs, parts[::2], strict=True)]


def as_number(side: str | float) -> float | None:
    """Return the side of a claim as a number, or None if it names rows."""
    try:
        return float(side)
    except ValueError:
        return None
