"""The report of an export, `NAME.report.md`: what it is, and how it was verified."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import format_int, format_number, format_percent, format_split


def format_export_note(metadata: Mapping[str, Any]) -> str:
    """Return Markdown on an export: format, precision, difference of outputs, agreement, accuracy and versions."""
    num_images, split = format_int(metadata["num_images"]), format_split(metadata["split"])
    accuracies = [format_percent(metadata[key]) for key in ("top1", "exported_top1")]
    rows = [
        ("Network", metadata["model"]),
        ("Format, precision", f"{metadata['format']}, {metadata['precision']}"),
        ("Size", f"{format_int(metadata['num_bytes'])} bytes"),
        ("Batch norms folded", f"{metadata['num_batch_norms_folded']} of {metadata['num_batch_norms']}"),
        ("Compared on", f"{num_images} {split} images of {metadata['data']}"),
        ("Largest difference of outputs", f"{format_number(metadata['max_difference'], 3)} of the largest output"),
        ("Same class", format_percent(metadata["agreement"])),
        ("Accuracy, network and export", ", ".join(accuracies)),
        ("Tolerance", _tolerance_text(metadata)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())),
    ]
    if metadata["num_calibration_images"]:
        rows.insert(4, ("int8 calibration", f"{format_int(metadata['num_calibration_images'])} training images"))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    title = f"# Export of {metadata['model']} to {metadata['format']}"
    return f"{title}\n\n{_verification_text(metadata)}\n\n| | |\n| --- | --- |\n{table}\n"


def _verification_text(metadata: Mapping[str, Any]) -> str:
    text = f"Reloaded in its own runtime and verified on {format_int(metadata['num_images'])} images"
    if metadata["precision"] == "float32":
        return f"{text}: every prediction equals that of the original network."
    drop = metadata["accuracy_drop_points"]
    return f"{text}: {f'{drop:.2f} points of accuracy lost' if drop > 0 else 'no accuracy lost'}."


def _tolerance_text(metadata: Mapping[str, Any]) -> str:
    if metadata["max_drop"] is None:
        return "a difference of 0.0001, and the same class on every image"
    return f"an accuracy drop of at most {metadata['max_drop']:g} points"
