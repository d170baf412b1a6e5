"""The worst mistakes: the images put in a wrong class with the greatest certainty."""

from collections.abc import Sequence
from typing import Any

from reslab.report.format import count, percent
from reslab.report.page import Mistake, RunPage
from reslab.report.thumbnails import thumbnail

MOST_MISTAKES = 24


def mistake_parts(page: RunPage) -> dict[str, Any]:
    """The most certain mistakes first, at most MOST_MISTAKES of them, and how many there are in all."""
    worst = sorted(page.mistakes, key=lambda mistake: -mistake.probability)[:MOST_MISTAKES]
    num_samples = int(page.scores.get("num_samples") or 0)
    num_wrong = num_samples - int(page.scores.get("num_correct") or 0) if num_samples else len(page.mistakes)
    return {
        "mistakes": [_shown(mistake, page.classes) for mistake in worst],
        "mistakes_words": _words(len(worst), num_wrong, num_samples),
    }


def _words(num_shown: int, num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "There is none to show: every image was put in its class." if num_samples else ""
    if num_shown == 0:
        return ""
    if num_shown < num_wrong:
        return f"The {num_shown} of {count(num_wrong)} mistakes that the network was most sure of, the surest first."
    if num_shown == 1:
        return "The only mistake, and how sure the network was of it."
    return f"All {num_shown} mistakes, those the network was most sure of first."


def _shown(mistake: Mistake, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": thumbnail(mistake.image),
        "true": _name(mistake.true, classes),
        "predicted": _name(mistake.predicted, classes),
        "probability": percent(mistake.probability, 0 if mistake.probability < 0.995 else 1),
        "width": round(100 * min(1.0, max(0.0, mistake.probability)), 1),
        "name": mistake.name,
    }


def _name(index: int, classes: Sequence[str]) -> str:
    return str(classes[index]) if 0 <= index < len(classes) else f"class {index}"
