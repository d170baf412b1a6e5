"""`reslab data check`: check a dataset before training on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.option_groups import LabelOptions
from reslab.cli.options import DataDir, JsonFlag, MaxPixels, html_option, limit_pixels
from reslab.cli.output import print_json, print_table, write_page
from reslab.data.dataset_names import require_dataset_name
from reslab.report.format import format_int, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reslab.data.check.check import DataCheck, Finding

data_app = typer.Typer(help="Check a dataset before training.")


@data_app.command("check")
def check(
    *,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder, CSV file, shards, or name of a dataset.")],
    train_transform: Annotated[
        str | None,
        typer.Option(
            "--train-transform",
            metavar="TRANSFORMS",
            help="Training transform of the sample batch.",
            show_default="as `reslab train`",
        ),
    ] = None,
    html_path: Annotated[
        Path | None,
        html_option("HTML report to write.", "data-check-NAME.html"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="INTEGER", help="Random seed of the sample batch.")] = 0,
    data_dir: DataDir = None,
    labels: LabelOptions,
    max_pixels: MaxPixels = None,
    as_json: JsonFlag = False,
) -> None:
    """Read every image once and report counts, sizes, broken files, duplicates and train/test leakage.

    Exit code 1 if there are errors, which would stop training.
    """
    require_dataset_name(path)
    from reslab.cli.data_check_page import build_data_check_page
    from reslab.data.check.check import Severity, check_data
    from reslab.data.check.findings import list_findings

    with limit_pixels(max_pixels):
        result = check_data(path, data_dir, **labels.arguments())
    findings = list_findings(result)
    output_path = html_path or Path(f"data-check-{result.listing.name}.html")
    transform = default_train_transform(result) if train_transform is None else train_transform
    write_page(output_path, build_data_check_page(result, findings, transform, seed))
    if as_json:
        texts = [{"severity": one.severity, "kind": one.kind, "text": one.text} for one in findings]
        print_json({**result.to_dict(), "findings": texts, "html": str(output_path)})
    else:
        print_table(*_count_table(result))
        print()
        _print_findings(result, findings)
    raise typer.Exit(int(any(finding.severity is Severity.ERROR for finding in findings)))


def _count_table(check_result: "DataCheck") -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of what is counted in the images of each split, by the form of their labels."""
    from reslab.cli.data_check_page import value_rows

    if check_result.masks:
        titles = [f"{split} {unit}" for split in check_result.masks for unit in ("images", "pixels")]
        return ["class", *titles], _mask_rows(check_result)
    if check_result.boxes:
        titles = [title for split in check_result.boxes for title in (f"{split} images", "boxes")]
        return ["class", *titles], _box_rows(check_result)
    if check_result.labels.values:
        return ["value", "split", "images", "min", "mean", "std", "max"], value_rows(check_result)
    return ["class", *check_result.counts], _class_rows(check_result)


def _print_findings(check_result: "DataCheck", findings: "Sequence[Finding]") -> None:
    for finding in findings:
        print(f"{finding.severity}: {finding.text}")
    if not findings:
        balance = ", the classes are balanced" if any(check_result.counts.values()) else ""
        print(f"no problems found: all files are readable, no image is duplicated{balance}")


def default_train_transform(check_result: "DataCheck") -> str:
    """Return the training transform that `reslab train` would choose for this dataset."""
    from reslab.data.formats.box_files import TRAIN_TRANSFORM
    from reslab.data.transforms.pipeline import TransformPipeline
    from reslab.training.options import default_recipe

    if not check_result.readable:
        return ""
    if check_result.boxes:
        return TRAIN_TRANSFORM
    first_image = check_result.readable[0]
    size = (
        TransformPipeline(check_result.eval_transform)
        .apply_image(first_image.dataset.preview(first_image.index), 0)
        .shape
    )
    return default_recipe(check_result.listing.name, tuple(size), pretrained=True).train_transform


def _class_rows(check_result: "DataCheck") -> list[list[str]]:
    from reslab.data.check.statistics import NO_CLASS

    rows = [
        [name, *(format_int(class_counts[name]) for class_counts in check_result.counts.values())]
        for name in check_result.listing.classes
        if any(check_result.counts.values())
    ]
    without = check_result.labels.num_without_class
    if without is not None:
        rows.append([NO_CLASS, *map(format_int, without.values())])
    return [*rows, ["all" if without is None else "images", *map(format_int, check_result.num_images.values())]]


def _mask_rows(check_result: "DataCheck") -> list[list[str]]:
    """Return, of each class and of void, the images that show it and its share of the pixels of a split."""
    rows = {name: [name] for name in (*check_result.listing.classes, "void")}
    for statistics in check_result.masks.values():
        images = [*statistics.images_per_class.tolist(), int((statistics.void > 0).sum())]
        pixels = [*statistics.pixels_per_class.tolist(), int(statistics.void.sum())]
        for row, num_images, num_pixels in zip(rows.values(), images, pixels, strict=True):
            row += [format_int(num_images), format_percent(num_pixels / max(1, sum(pixels)), 2)]
    totals = [cell for statistics in check_result.masks.values() for cell in (format_int(len(statistics.void)), "")]
    return [*rows.values(), ["all", *totals]]


def _box_rows(check_result: "DataCheck") -> list[list[str]]:
    """Return, of each class, the images that show it and its boxes in each split; then all images and boxes."""
    rows = [[name] for name in check_result.listing.classes]
    totals = ["all"]
    for split, statistics in check_result.boxes.items():
        pairs = zip(statistics.images_per_class.tolist(), statistics.objects_per_class.tolist(), strict=True)
        for row, pair in zip(rows, pairs, strict=True):
            row += map(format_int, pair)
        totals += [format_int(check_result.num_images[split]), format_int(statistics.num_objects)]
    return [*rows, totals]
