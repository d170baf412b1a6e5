"""Everything that the template of a run's page names."""

from typing import Any

from reslab.report.page import RunPage
from reslab.report.pages.classification import calibration_parts
from reslab.report.pages.run import training_parts
from reslab.report.pages.run_text import run_summary
from reslab.report.parts.classes import class_parts, confusion_parts
from reslab.report.parts.cost import cost_parts
from reslab.report.parts.mistakes import mistake_parts
from reslab.report.parts.scores import score_parts

_SECTIONS = (
    ("training", "curves", "Training"),
    ("confusion", "confusion", "What is taken for what"),
    ("mistakes", "mistakes_words", "The worst mistakes"),
    ("classes", "class_rows", "Class by class"),
    ("calibration", "calibration", "As sure as right?"),
    ("cost", "cost_tiles", "Cost"),
    ("facts", "facts", "Facts"),
)


def run_parts(page: RunPage) -> dict[str, Any]:
    """The values of `run.html`, by name; a part that is empty leaves its section out."""
    parts: dict[str, Any] = {
        "kind": page.kind,
        "title": page.title,
        "summary": page.summary or run_summary(page.scores),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        **score_parts(page.scores),
        **training_parts(page.log),
        **confusion_parts(page.confusion, page.classes),
        **class_parts(page.confusion, page.classes),
        **mistake_parts(page),
        **calibration_parts(page.calibration, str(page.scores.get("split") or "")),
        **cost_parts(page),
    }
    parts["sections"] = [(anchor, name) for anchor, part, name in _SECTIONS if parts[part]]
    return parts
