"""The short text that lies beside an export: what it is, and how it was proved."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import count, number, percent


def export_note(facts: Mapping[str, Any]) -> str:
    """Markdown from the facts of `export`: format, precision, difference, agreement, accuracy, versions."""
    rows = [
        ("Network", facts["model"]),
        ("Format, precision", f"{facts['format']}, {facts['precision']}"),
        ("Size", f"{count(facts['num_bytes'])} bytes"),
        ("Batch norms folded", f"{facts['num_norms_folded']} of {facts['num_norms']}"),
        ("Compared on", f"{count(facts['num_images'])} pictures of {facts['data']} ({facts['split']})"),
        ("Largest difference of outputs", f"{number(facts['largest_difference'], 3)} of the largest output"),
        ("Same class", percent(facts["agreement"])),
        ("Accuracy, network and export", f"{percent(facts['top1'])}, {percent(facts['exported_top1'])}"),
        ("Allowed", _allowed(facts)),
        ("Made with", ", ".join(f"{name} {found}" for name, found in facts["versions"].items())),
    ]
    if facts["num_calibration_images"]:
        rows.insert(4, ("Scales of int8 from", f"{count(facts['num_calibration_images'])} training pictures"))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"# Export of {facts['model']} to {facts['format']}\n\n{_verdict(facts)}\n\n| | |\n| --- | --- |\n{table}\n"


def _verdict(facts: Mapping[str, Any]) -> str:
    where = f"loaded again in its own runtime and asked about {count(facts['num_images'])} pictures"
    if facts["precision"] == "float32":
        return f"It was {where}: every picture got the class that the network gives it."
    drop = facts["drop_points"]
    lost = f"{drop:.2f} points of accuracy lost" if drop > 0 else "no accuracy lost"
    return f"It was {where}: {lost}."


def _allowed(facts: Mapping[str, Any]) -> str:
    if facts["max_drop"] is None:
        return "a difference of 0.0001, and no other class on any picture"
    return f"a loss of {facts['max_drop']:g} points of accuracy at most"
