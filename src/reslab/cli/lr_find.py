"""`reslab lr-find`: suggest a learning rate from a few steps at rising rates, with a plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    BatchSize,
    DataArgument,
    DataDir,
    DataOption,
    Device,
    JsonFlag,
    ModelName,
    Panel,
    Pretrained,
    RecipeName,
    Seed,
    SkipBadImages,
    TrainOverrides,
    ValFraction,
    Workers,
    parse_overrides,
    parse_pretrained,
    resolve_data_option,
)
from reslab.cli.output import print_json, print_pairs, write_html

if TYPE_CHECKING:
    from reslab.training.lr_finder import LRFinderResult


def lr_find(
    data_argument: DataArgument = None,
    data: DataOption = None,
    model: ModelName = None,
    recipe: RecipeName = None,
    min_lr: Annotated[float, typer.Option("--min-lr", metavar="FLOAT", help="First learning rate.")] = 1e-5,
    max_lr: Annotated[float, typer.Option("--max-lr", metavar="FLOAT", help="Last learning rate.")] = 10.0,
    num_steps: Annotated[
        int, typer.Option("--num-steps", metavar="INTEGER", help="Number of steps, one per learning rate.")
    ] = 100,
    html_path: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            rich_help_panel=Panel.OUTPUT,
            help="HTML page with the plot.",
            show_default="lr-find.html",
        ),
    ] = None,
    data_dir: DataDir = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    pretrained: Pretrained = None,
    val_fraction: ValFraction = None,
    skip_bad_images: SkipBadImages = False,
    device: Device = "auto",
    workers: Workers = None,
    overrides: TrainOverrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Suggest a learning rate: train a few steps at rising rates and find where the loss falls fastest."""
    dataset = resolve_data_option(data_argument, data)
    from reslab.runtime.device import choose_device
    from reslab.training.lr_finder import find_lr
    from reslab.training.options import TrainOptions, split_overrides

    recipe_overrides, arch_overrides = split_overrides(parse_overrides(overrides), batch_size=batch_size)
    options = TrainOptions(
        model=model,
        data=dataset,
        recipe=recipe,
        seed=seed,
        recipe_overrides=recipe_overrides,
        arch_overrides=arch_overrides,
        pretrained=parse_pretrained(pretrained),
        data_dir=data_dir,
        val_fraction=val_fraction,
        skip_bad_images=skip_bad_images,
    )
    result = find_lr(options, choose_device(device), min_lr=min_lr, max_lr=max_lr, num_steps=num_steps, workers=workers)
    output_path = html_path or (None if as_json else Path("lr-find.html"))
    if output_path is not None:
        _write_html(output_path, result)
    if as_json:
        print_json(_lr_find_payload(result, output_path))
    else:
        print_pairs(_lr_find_rows(result, output_path))


def _write_html(html_path: Path, result: "LRFinderResult") -> None:
    from reslab.report.pages.lr_find import LRFinderPage
    from reslab.report.render import render_page

    page = LRFinderPage(
        title=f"{result.model} on {result.data}",
        lrs=result.lrs,
        losses=result.losses,
        smoothed_losses=result.smoothed_losses,
        suggested_lr=result.suggested_lr,
        lowest_loss_lr=result.lowest_loss_lr,
        diverged=result.diverged,
        metadata={
            "network": result.model,
            "data": result.data,
            "recipe": result.recipe,
            "batch size": str(result.batch_size),
        },
    )
    write_html(html_path, render_page(page))


def _lr_find_payload(result: "LRFinderResult", html_path: Path | None) -> dict[str, Any]:
    return {**vars(result), "html": None if html_path is None else str(html_path)}


def _lr_find_rows(result: "LRFinderResult", html_path: Path | None) -> list[tuple[str, str]]:
    if result.suggested_lr is None:
        lr_text = "none: the loss never fell; lower --min-lr or increase --num-steps"
    else:
        lr_text = (
            f"{result.suggested_lr:.2g}, where the loss falls fastest (lowest loss at {result.lowest_loss_lr:.2g})"
        )
    tested = f"{result.lrs[0]:.2g} to {result.lrs[-1]:.2g}, {len(result.lrs)} steps at batch size {result.batch_size}"
    return [
        ("learning rate", lr_text),
        ("tested", tested + (", stopped when the loss diverged" if result.diverged else "")),
        ("next", "reslab train ... --lr LR (at this batch size)"),
    ]
