"""The large figures at the head of a page."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import count, number, percent
from reslab.report.pages.run_text import interval_words, split_words


def tile(name: str, value: str, *notes: str, colour: str = "") -> dict[str, Any]:
    """A large figure with its name above and small print below."""
    return {"name": name, "value": value, "notes": [note for note in notes if note], "colour": colour}


def score_parts(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, the number of images behind them, and how the weights were chosen."""
    return {"tiles": _tiles(scores), "chosen": str(scores.get("chosen") or "").strip().rstrip(".")}


def _tiles(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_samples = int(scores.get("num_samples") or 0)
    if not num_samples:
        return []
    num_correct = int(scores["num_correct"])
    num_wrong = num_samples - num_correct
    of = f"{count(num_correct)} of {count(num_samples)} {split_words(scores.get('split'))} images"
    tiles = [tile("accuracy", percent(num_correct / num_samples), of, interval_words(scores))]
    if scores.get("top5") is not None:
        tiles.append(tile("top-5 accuracy", percent(scores["top5"]), "the true class among the first five"))
    tiles.append(tile("mistakes", count(num_wrong), _rate(num_wrong, num_samples)))
    if "loss" in scores:
        tiles.append(tile("loss", number(scores["loss"]), "mean over the images"))
    return [*tiles, *_on_training(scores)]


def _on_training(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the training images were judged: the finished weights on them, and the averages along the last epoch."""
    kinds = (("train", "the finished weights"), ("train_average", "along the last epoch"))
    return [
        tile("on training images", percent(scores[f"{kind}_top1"]), words, f"loss {number(scores[f'{kind}_loss'])}")
        for kind, words in kinds
        if "train_top1" in scores and f"{kind}_top1" in scores
    ]


def _rate(num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "every image right"
    if 3 * num_wrong > num_samples:
        return f"{percent(num_wrong / num_samples, 1)} of the images"
    return f"one image in {count(round(num_samples / num_wrong))}"
