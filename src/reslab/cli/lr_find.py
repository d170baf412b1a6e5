"""`reslab lr-find`: suggest a learning rate from a few steps at rising rates, with a plot."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.option_groups import ComputeOptions, NetworkOptions, TrainingDataOptions
from reslab.cli.options import JsonFlag, Panel, Seed, html_option
from reslab.cli.output import print_result, write_page
from reslab.cli.overrides import (
    ConfigFile,
    RecipeName,
    TrainOverrides,
    check_overrides,
    merge_config,
    parse_overrides,
    read_config_file,
    require_model_and_recipe,
)
from reslab.runtime.allocator import keep_freed_memory

if TYPE_CHECKING:
    from reslab.training.lr_finder import LRFinderResult
    from reslab.training.options import TrainOptions


_OWN_OPTIONS = ("min_lr", "max_lr", "num_steps", "html_path", "as_json")


@dataclass(frozen=True, kw_only=True)
class RangeTestOptions:
    """The learning rates of the test, by the names of `find_lr`."""

    min_lr: Annotated[float, typer.Option("--min-lr", metavar="FLOAT", help="First learning rate.")] = 1e-5
    max_lr: Annotated[float, typer.Option("--max-lr", metavar="FLOAT", help="Last learning rate.")] = 10.0
    num_steps: Annotated[
        int, typer.Option("--num-steps", metavar="INTEGER", help="Number of steps, one per learning rate.")
    ] = 100


@dataclass(frozen=True, kw_only=True)
class TestedRecipeOptions:
    """The recipe whose learning rate is looked for, and the values of it that are changed."""

    recipe: RecipeName = None
    config_path: ConfigFile = None
    overrides: TrainOverrides = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "-b",
            "--batch-size",
            metavar="INTEGER",
            min=1,
            rich_help_panel=Panel.TRAINING,
            help="Global batch size.",
            show_default="the recipe's",
        ),
    ] = None
    seed: Seed = 0

    @property
    def flags(self) -> dict[str, Any]:
        """The keys of the recipe that have a flag, with the values that were given."""
        return {} if self.batch_size is None else {"batch_size": self.batch_size}


def lr_find(
    context: typer.Context,
    *,
    data: TrainingDataOptions,
    network: NetworkOptions,
    recipe: TestedRecipeOptions,
    rates: RangeTestOptions,
    html_path: Annotated[
        Path | None,
        html_option("HTML page with the plot.", "lr-find.html"),
    ] = None,
    compute: ComputeOptions,
    as_json: JsonFlag = False,
) -> None:
    """Suggest a learning rate: train a few steps at rising rates and find where the loss stops falling.

    If the losses give no clear answer, the command says so and suggests nothing.
    """
    keep_freed_memory()
    options = _train_options(data, network, recipe)
    from reslab.runtime.device import choose_device
    from reslab.training.lr_finder import find_lr

    with data.reading.limits():
        result = find_lr(options, choose_device(compute.device), workers=compute.workers, **vars(rates))
    # Without a finite loss there is nothing to plot.
    output_path = (html_path or (None if as_json else Path("lr-find.html"))) if result.lrs else None
    next_command = _next_command(context, result)
    if output_path is not None:
        _write_page(output_path, result, next_command)
    print_result(_lr_find_payload(result, output_path, next_command), _lr_find_rows(result), as_json=as_json)
    if not as_json:
        # Not wrapped as the rows are: a command is pasted in one piece.
        print(f"\n{next_command}")


def _train_options(data: TrainingDataOptions, network: NetworkOptions, recipe: TestedRecipeOptions) -> "TrainOptions":
    """Return the options of `train`. Raises ValueError for a mistake in them, most of them before torch is imported."""
    dataset = data.dataset()
    require_model_and_recipe(network.model, recipe.recipe, data.reading.labels.task)
    flags = {**recipe.flags, "model": network.model, "data": dataset, "image_size": data.image_size}
    overrides = merge_config(read_config_file(recipe.config_path), parse_overrides(recipe.overrides), flags)
    check_overrides({**overrides, **recipe.flags}, network.model, recipe.recipe)
    from reslab.training.options import TrainOptions, split_overrides

    recipe_overrides, arch_overrides = split_overrides(overrides, **recipe.flags, image_size=data.image_size)
    return TrainOptions(
        model=network.model,
        data=dataset,
        recipe=recipe.recipe,
        seed=recipe.seed,
        recipe_overrides=recipe_overrides,
        arch_overrides=arch_overrides,
        **network.arguments(),
        **data.arguments(),
    )


def _write_page(html_path: Path, result: "LRFinderResult", next_command: str) -> None:
    from reslab.report.pages.lr_find import LRFinderPage

    page = LRFinderPage(
        title=f"{result.model} on {result.data}",
        summary=explain(result),
        lrs=result.lrs,
        losses=result.losses,
        smoothed_losses=result.smoothed_losses,
        suggested_lr=result.suggested_lr,
        lowest_loss_lr=result.lowest_loss_lr,
        rise_lr=result.rise_lr,
        diverged=result.diverged,
        next_command=next_command,
        metadata={
            "network": result.model,
            "data": result.data,
            "recipe": result.recipe,
            "recipe's learning rate": f"{result.recipe_lr:g}",
            "batch size": str(result.batch_size),
        },
    )
    write_page(html_path, page)


def _lr_find_payload(result: "LRFinderResult", html_path: Path | None, next_command: str) -> dict[str, Any]:
    return {**vars(result), "next": next_command, "html": None if html_path is None else str(html_path)}


def _lr_find_rows(result: "LRFinderResult") -> list[tuple[str, str]]:
    suggested = "none" if result.suggested_lr is None else f"{result.suggested_lr:.2g}"
    tested = "none: the loss was not finite at the first rate"
    if result.lrs:
        tested = (
            f"{result.lrs[0]:.2g} to {result.lrs[-1]:.2g}, {len(result.lrs)} steps at batch size {result.batch_size}"
        )
    return [
        ("learning rate", suggested),
        ("reason", explain(result)),
        ("tested", tested + (", stopped when the loss diverged" if result.diverged else "")),
        ("recipe", f"{result.recipe}, learning rate {result.recipe_lr:g}"),
    ]


def explain(result: "LRFinderResult") -> str:
    """Return the reason for the suggestion in one or two sentences, or for its absence with what to do."""
    from reslab.training.lr_finder import LRVerdict

    rise = "does not rise again" if result.rise_lr is None else f"rises from {result.rise_lr:.2g} on"
    match result.verdict:
        case LRVerdict.CLEAR:
            return f"The loss is lowest at a learning rate of {result.lowest_loss_lr:.2g}, and it {rise}."
        case LRVerdict.NO_FALL:
            return (
                f"No clear suggestion: the loss does not fall clearly, and it {rise}. "
                f"Keep the recipe's learning rate, {result.recipe_lr:g}, or repeat the test with more --num-steps."
            )
        case LRVerdict.STILL_FALLING:
            return (
                "No clear suggestion: the loss still falls at the highest learning rate. "
                "Repeat the test with a higher --max-lr."
            )
        case LRVerdict.STARTS_TOO_HIGH:
            return (
                "No clear suggestion: the loss rises or diverges at the first learning rates. "
                "Repeat the test with a lower --min-lr."
            )


def _next_command(context: typer.Context, result: "LRFinderResult") -> str:
    """Return the command to run next, with the options that this one was given."""
    from reslab.training.lr_finder import LRVerdict

    match result.verdict:
        case LRVerdict.CLEAR:
            return _command_with(context, "train", lr=f"{result.suggested_lr:.2g}")
        case LRVerdict.NO_FALL:
            return _command_with(context, "train")
        case LRVerdict.STILL_FALLING:
            return _command_with(context, "lr-find", max_lr=f"{10 * context.params['max_lr']:g}")
        case LRVerdict.STARTS_TOO_HIGH:
            return _command_with(context, "lr-find", min_lr=f"{context.params['min_lr'] / 1000:g}")


def _command_with(context: typer.Context, name: str, **changes: str) -> str:
    """Return `reslab NAME` with the options given to this command, those of `changes` in place of their own.

    Options that only `lr-find` knows are left out for `train`, as is a learning rate in --set beside --lr.
    """
    arguments = ["reslab", name]
    for parameter in context.command.params:
        key = parameter.name or ""
        source = context.get_parameter_source(key)
        if source is None or source.name != "COMMANDLINE" or key in changes:
            continue
        if key in _OWN_OPTIONS and (name == "train" or key in ("html_path", "as_json")):
            continue
        value = context.params[key]
        for item in value if isinstance(value, list | tuple) else [value]:
            if "lr" in changes and str(item).replace(" ", "").startswith("optimizer.lr="):
                continue
            option = [] if parameter.param_type_name == "argument" else [max(parameter.opts, key=len)]
            arguments += option if item is True else [*option, str(item)]
    for key, text in changes.items():
        arguments += [f"--{key.replace('_', '-')}", text]
    return shlex.join(arguments)
