"""The report of an export, `NAME.report.md`: what it is, and how it was verified."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import format_int, format_metric, format_number, format_percent, format_split
from reslab.spec.task import DEFAULT_TASK, Metric, all_metrics


def format_export_note(metadata: Mapping[str, Any]) -> str:
    """Return Markdown on an export: format, precision, difference of outputs, agreement, accuracy and versions."""
    num_images, split = format_int(metadata["num_images"]), format_split(metadata["split"])
    metric = known_metric(metadata["metric"])
    values = [format_metric(metric, metadata[key]) for key in ("value", "exported_value")]
    rows = [
        ("Network", metadata["model"]),
        ("Format, precision", f"{metadata['format']}, {metadata['precision']}"),
        ("Size", f"{format_int(metadata['num_bytes'])} bytes"),
        ("Batch norms folded", f"{metadata['num_batch_norms_folded']} of {metadata['num_batch_norms']}"),
        ("Compared on", f"{num_images} {split} images of {metadata['data']}"),
        (
            "Largest difference of outputs",
            f"{format_number(metadata['max_difference'], 3)} of {metadata['difference_of']}",
        ),
        (f"{metric.title.capitalize()}, network and export", ", ".join(values)),
        ("Tolerance", _tolerance_text(metadata)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())),
    ]
    if metadata["agreement"] is not None:
        rows.insert(
            6, (f"Same {metadata['same']}, of all {metadata['agreement_of']}", format_percent(metadata["agreement"]))
        )
    rows += _output_rows(metadata)
    if metadata["num_calibration_images"]:
        rows.insert(4, ("int8 calibration", f"{format_int(metadata['num_calibration_images'])} training images"))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    title = f"# Export of {metadata['model']} to {metadata['format']}"
    return f"{title}\n\n{_verification_text(metadata)}\n\n| | |\n| --- | --- |\n{table}\n"


def _output_rows(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the outputs are, and what turns them into predictions."""
    task, names = metadata["task"] or {}, metadata["classes"] or ()
    rows = [("Task", str(task.get("name", DEFAULT_TASK)))]
    for field, values in task.items():
        if isinstance(values, list) and len(values) == len(names):
            pairs = zip(names, values, strict=True)
            rows.append((field.capitalize(), ", ".join(f"{name} {value:.7g}" for name, value in pairs)))
    return rows


def _verification_text(metadata: Mapping[str, Any]) -> str:
    text = f"Reloaded in its own runtime and verified on {format_int(metadata['num_images'])} images"
    if metadata["precision"] == "float32":
        return f"{text}: every prediction equals that of the original network."
    title, drop = known_metric(metadata["metric"]).title, metadata["metric_drop"]
    return f"{text}: {f'{drop:.2f} {_drop_unit(metadata)} of {title} lost' if drop > 0 else f'no {title} lost'}."


def _drop_unit(metadata: Mapping[str, Any]) -> str:
    return "points" if known_metric(metadata["metric"]).is_fraction else "percent"


def _tolerance_text(metadata: Mapping[str, Any]) -> str:
    title = known_metric(metadata["metric"]).title
    if metadata["max_drop"] is not None:
        return f"a loss of {title} of at most {metadata['max_drop']:g} {_drop_unit(metadata)}"
    same = (
        "" if metadata["agreement"] is None else f", and the same {metadata['same']} of all {metadata['agreement_of']}"
    )
    return f"a difference of 0.0001{same}"


def known_metric(name: str) -> Metric:
    """Return a metric of any task by its name."""
    return next(metric for metric in all_metrics() if metric.name == name)
