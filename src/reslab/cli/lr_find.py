"""`reslab lr-find`: which learning rate to try, from a few steps at rising rates, with a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    Batch,
    DataArgument,
    DataDir,
    DataName,
    Device,
    Json,
    ModelName,
    Pretrained,
    RecipeName,
    Settings,
    SkipBadImages,
    ValFraction,
    Workers,
    one_data_set,
    read_pretrained,
    read_settings,
)
from reslab.cli.output import print_json, print_pairs, say

if TYPE_CHECKING:
    from reslab.training.lr_finder import RateSearch


def lr_find(
    folder: DataArgument = None,
    data: DataName = None,
    model: ModelName = None,
    recipe: RecipeName = None,
    lowest: Annotated[float, typer.Option("--from", help="The first rate.")] = 1e-5,
    highest: Annotated[float, typer.Option("--to", help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option("--steps", help="Steps in all, one a rate.")] = 100,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Where the picture goes. [default: lr-find.html]")
    ] = None,
    data_dir: DataDir = None,
    batch: Batch = None,
    seed: Annotated[int, typer.Option("--seed", help="Everything random follows from it.")] = 0,
    pretrained: Pretrained = None,
    val_fraction: ValFraction = None,
    skip_bad_images: SkipBadImages = False,
    device: Device = "auto",
    workers: Workers = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Take a few training steps at rising learning rates, and say at which the loss falls steepest."""
    place = one_data_set(folder, data)
    from reslab.runtime.device import choose_device
    from reslab.training.lr_finder import search_rate
    from reslab.training.options import Asked, split_settings

    chosen, axes = split_settings(read_settings(settings), None, batch, None)
    asked = Asked(
        model,
        place,
        recipe,
        seed,
        chosen,
        axes,
        read_pretrained(pretrained),
        data_dir=data_dir,
        val_fraction=val_fraction,
        skip_bad_images=skip_bad_images,
    )
    found = search_rate(asked, choose_device(device), lowest=lowest, highest=highest, num_steps=steps, workers=workers)
    target = page or (None if json else Path("lr-find.html"))
    if target is not None:
        _write_page(target, found)
    if json:
        print_json(_facts(found, target))
    else:
        print_pairs(_summary(found, target))


def _write_page(target: Path, found: "RateSearch") -> None:
    from reslab.report.pages.lr_find import LRFinderPage
    from reslab.report.render import render_lr_finder_page

    shown = LRFinderPage(
        title=f"{found.model} on {found.data}",
        lrs=found.rates,
        losses=found.losses,
        smoothed_losses=found.smoothed,
        suggested_lr=found.suggestion,
        lowest_loss_lr=found.lowest,
        diverged=found.stopped_early,
        metadata={"network": found.model, "data": found.data, "recipe": found.recipe, "batch": str(found.batch)},
    )
    target.write_text(render_lr_finder_page(shown), encoding="utf-8")
    say(f"picture: {target}")


def _facts(found: "RateSearch", page: Path | None) -> dict[str, Any]:
    return {**vars(found), "page": None if page is None else str(page)}


def _summary(found: "RateSearch", page: Path | None) -> list[tuple[str, str]]:
    if found.suggestion is None:
        rate = "none: the loss never fell; try a lower --from, or more --steps"
    else:
        rate = f"{found.suggestion:.2g}, where the loss falls steepest (it is lowest at {found.lowest:.2g})"
    tested = f"{found.rates[0]:.2g} to {found.rates[-1]:.2g}, {len(found.rates)} steps of batch {found.batch}"
    return [
        ("rate to try", rate),
        ("tested", tested + (", stopped where the loss diverged" if found.stopped_early else "")),
        ("next", "reslab train ... --lr RATE (for this batch)"),
    ]
