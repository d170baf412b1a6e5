"""The short text that lies beside an export: what it is, and how it was proved."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import format_int, format_number, format_percent


def format_export_note(metadata: Mapping[str, Any]) -> str:
    """Markdown from the facts of `export`: format, precision, difference, agreement, accuracy, versions."""
    rows = [
        ("Network", metadata["model"]),
        ("Format, precision", f"{metadata['format']}, {metadata['precision']}"),
        ("Size", f"{format_int(metadata['num_bytes'])} bytes"),
        ("Batch norms folded", f"{metadata['num_batch_norms_folded']} of {metadata['num_batch_norms']}"),
        ("Compared on", f"{format_int(metadata['num_images'])} pictures of {metadata['data']} ({metadata['split']})"),
        ("Largest difference of outputs", f"{format_number(metadata['max_difference'], 3)} of the largest output"),
        ("Same class", format_percent(metadata["agreement"])),
        (
            "Accuracy, network and export",
            f"{format_percent(metadata['top1'])}, {format_percent(metadata['exported_top1'])}",
        ),
        ("Allowed", _tolerance_text(metadata)),
        ("Made with", ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())),
    ]
    if metadata["num_calibration_images"]:
        rows.insert(4, ("Scales of int8 from", f"{format_int(metadata['num_calibration_images'])} training pictures"))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"# Export of {metadata['model']} to {metadata['format']}\n\n{_verification_text(metadata)}\n\n| | |\n| --- | --- |\n{table}\n"


def _verification_text(metadata: Mapping[str, Any]) -> str:
    procedure = f"loaded again in its own runtime and asked about {format_int(metadata['num_images'])} pictures"
    if metadata["precision"] == "float32":
        return f"It was {procedure}: every picture got the class that the network gives it."
    drop = metadata["accuracy_drop_points"]
    drop_text = f"{drop:.2f} points of accuracy lost" if drop > 0 else "no accuracy lost"
    return f"It was {procedure}: {drop_text}."


def _tolerance_text(metadata: Mapping[str, Any]) -> str:
    if metadata["max_drop"] is None:
        return "a difference of 0.0001, and no other class on any picture"
    return f"a loss of {metadata['max_drop']:g} points of accuracy at most"
