"""The results of a regression on a page: metrics of each target, predicted against true values, largest errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reslab.metrics.regression import RegressionMetrics
from reslab.report.format import format_number
from reslab.report.pages.components import TaskResults, gallery_item, make_panel
from reslab.spec.task import TaskByName

MAX_SCATTERS = 6


@dataclass(frozen=True)
class RegressionRow:
    """A target and its metrics."""

    name: str
    metrics: RegressionMetrics


@dataclass(frozen=True)
class RegressionError:
    """An image, uint8 pixels (H, W) or (H, W, 3), with the true and the predicted value of each target."""

    image: np.ndarray
    true: Sequence[float]
    predicted: Sequence[float]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class RegressionResults(TaskResults):
    """The results of a regression: `true` and `predicted` are the values of each target, one list a target."""

    task = TaskByName("regression")
    template: ClassVar[str] = "regression.html"
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("predictions", "scatter_panels", "Predicted against true values"),
        ("targets", "target_rows", "Metrics of each target"),
        ("errors", "regression_errors", "Largest errors"),
    )

    rows: Sequence[RegressionRow] = ()
    true: Sequence[Sequence[float]] = ()
    predicted: Sequence[Sequence[float]] = ()
    errors: Sequence[RegressionError] = ()

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template."""
        return {
            "scatter_panels": self._scatter_panels(),
            "target_rows": [_target_row(row) for row in self.rows],
            "regression_errors": [self._error_item(error) for error in self.errors],
        }

    def _scatter_panels(self) -> list[dict[str, Any]]:
        if not self.rows:
            return []
        from reslab.report.plots.curves import plot_predicted_against_true

        panels = []
        for number, (row, true, predicted) in enumerate(zip(self.rows, self.true, self.predicted, strict=True)):
            if number == MAX_SCATTERS:
                break
            figure = plot_predicted_against_true(true, predicted, row.name)
            caption = f"One dot an image; on the line, both are equal. R² {_format_defined(row.metrics.r2, 3)}."
            alt_text = f"{row.name}: predicted against true values. {caption}"
            panels.append(make_panel(figure, f"scatter{number}", title=row.name, alt_text=alt_text, caption=caption))
        return panels

    def _error_item(self, error: RegressionError) -> dict[str, Any]:
        captions = []
        for row, true, predicted in zip(self.rows, error.true, error.predicted, strict=True):
            text = f"{format_number(predicted, 3)}, true {format_number(true, 3)}"
            captions.append((row.name, text, ""))
        return gallery_item(error.image, error.name, captions, "")


def _target_row(row: RegressionRow) -> list[str]:
    names = ("mae", "rmse", "r2", "bias", "pearson")
    return [row.name, *(_format_defined(getattr(row.metrics, name)) for name in names)]


def _format_defined(value: float, digits: int = 4) -> str:
    """Format a metric; `–` where it is not defined, such as the correlation with values that are all equal."""
    return format_number(None if math.isnan(value) else value, digits)
