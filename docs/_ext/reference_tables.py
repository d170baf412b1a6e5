"""The generated parts of the reference pages as Markdown, from the registries and commands of reslab.

A page holds `<!-- generated: NAME -->`; `expand` replaces it by the text of `GENERATED[NAME]` when the site is built.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import course_tables
from markup import escape

import reslab
from reslab.report.format import markdown_table

MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.M)
_EXCEPTION = re.compile(r"^class (\w+)\([\w, ]*(?:Error|Exception|Interrupt)\b[\w, ]*\):", re.M)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")


def expand(page: str) -> str:
    """Return the page with every marker replaced. Raises KeyError for an unknown name."""
    return MARKER.sub(lambda match: GENERATED[match[1]]().strip(), page)


def link_arxiv(text: str) -> str:
    """Return the text with every arXiv identifier as a link."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def code(value: object) -> str:
    """Return a value as inline code; an empty one is empty."""
    text = str(value)
    return f"`{text}`" if text else ""


def code_list(values: Iterable[object]) -> str:
    """Return values as inline code, separated by commas."""
    return ", ".join(code(value) for value in values)


def title(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


# Networks and their parts


def models() -> str:
    """A table for each family of networks, told apart by the table of the zoo that holds them."""
    from reslab.report.format import format_shape
    from reslab.spec.zoo import ARCHS

    families: dict[str, list[list[str]]] = {}
    for name, arch in ARCHS.items():
        row = [code(name), str(arch.depth), format_shape(arch.input_size), str(arch.num_classes)]
        families.setdefault(_family_of(name), []).append([*row, link_arxiv(arch.reference)])
    columns = ["name", "depth", "input", "classes", "reference"]
    return "\n".join(
        f"## {family}\n\n{markdown_table(columns, rows, 'lrrrl')}" for family, rows in sorted_families(families)
    )


FAMILIES = {
    "CIFAR": "For small images (CIFAR)",
    "IMAGENET": "For ImageNet: ResNet, ResNeXt, Wide ResNet",
    "VARIANTS": "Variants for ImageNet",
    "MULTIPATH": "Res2Net, ResNeSt, SKNet, legacy SE networks",
    "RESNETV2": "ResNet v2 (pre-activation), BiT",
    "REGNET": "RegNet",
    "NFNET": "Networks without norms (NFNet)",
    "CONVNEXT": "ConvNeXt",
    "TUTORIALS": "Of tutorials and books",
}
"""The headings of the networks by their table in `spec/zoo/`."""


def _family_of(name: str) -> str:
    from reslab.spec import zoo

    return next((family for table, family in FAMILIES.items() if name in getattr(zoo, table)), "Others")


def sorted_families(families: dict[str, list[list[str]]]) -> list[tuple[str, list[list[str]]]]:
    """Return the families in the order of FAMILIES, then the others."""
    order = [*FAMILIES.values(), "Others"]
    return sorted(families.items(), key=lambda item: order.index(item[0]))


# Recipes


def recipes() -> str:
    """The overview of the recipes, then each with all its values: those that differ from the defaults, and the rest."""
    from reslab.spec.recipes import RECIPES

    rows = [
        [
            f"[{name}](#{name})",
            recipe.duration,
            recipe.batch_size,
            recipe.optimizer.name,
            f"{recipe.optimizer.lr:g}",
            recipe.schedule.name,
            link_arxiv(recipe.reference),
        ]
        for name, recipe in RECIPES.items()
    ]
    columns = ["recipe", "duration", "batch", "optimizer", "rate", "schedule", "reference"]
    return "\n".join([markdown_table(columns, rows), *map(_recipe, RECIPES.values())])


def _recipe(recipe: Any) -> str:
    from reslab.cli.lists import changed_keys, flatten_recipe, format_value

    values, changed = flatten_recipe(recipe), changed_keys(recipe)
    own = [[code(key), code(format_value(values[key]))] for key in changed]
    rest = [[code(key), code(format_value(value))] for key, value in values.items() if key not in changed]
    parts = [f"({recipe.name})=\n## {recipe.name}", link_arxiv(recipe.reference) + ".", escape(recipe.notes)]
    parts += [
        f"```bash\nreslab train --recipe {recipe.name}\n```",
        markdown_table(["key", "value"], own) if own else "",
    ]
    table = markdown_table(["key", "value"], rest)
    parts.append(f":::{{dropdown}} The other values, which are the defaults\n{table}:::\n")
    return "\n\n".join(part for part in parts if part)


def losses() -> str:
    """The losses, schedules and optimizers of recipes."""
    from reslab.spec.loss import LOSSES
    from reslab.spec.optim import OPTIMIZERS, SCHEDULES

    loss_rows = [
        [code(name), code(loss.example), ", ".join(f"`{p[0]}` {p[1]:g} to {p[2]:g}" for p in loss.params),
         escape(loss.reference)]
        for name, loss in LOSSES.items()
    ]  # fmt: skip
    schedule_rows = [[code(name), escape(text)] for name, text in SCHEDULES.items()]
    optimizer_rows = [[code(name), f"{rate:g}"] for name, rate in OPTIMIZERS.items()]
    return "\n\n".join(
        (
            "## Losses",
            markdown_table(["loss", "example", "arguments", "definition"], loss_rows),
            "## Learning-rate schedules",
            markdown_table(["schedule", "factor on the learning rate"], schedule_rows),
            "## Optimizers",
            markdown_table(["optimizer", "usual rate at a batch of 128"], optimizer_rows),
        )
    )


# Data, metrics, tasks


def datasets() -> str:
    """The datasets by name, and the formats that a path may have."""
    from reslab.data.named import DATASETS

    rows = [
        [
            code(info.name),
            len(info.classes) or "of the files",
            {1: "gray", 3: "RGB"}.get(info.channels, info.channels),
            numbers(info.mean) or "computed",
            numbers(info.std) or "computed",
            link_arxiv(info.reference),
        ]
        for info in DATASETS.values()
    ]
    return markdown_table(["name", "classes", "images", "mean", "std", "reference"], rows)


def numbers(values: Sequence[float]) -> str:
    """Return numbers separated by commas."""
    return ", ".join(f"{value:g}" for value in values)


def data_formats() -> str:
    """The formats that a path may have, each with the first sentence of the function that opens it."""
    from reslab.data.registry import FORMATS

    rows = [[code(name), escape(first_sentence(data_format.open))] for name, data_format in FORMATS.items()]
    return markdown_table(["format", "what is read"], rows)


def first_sentence(item: object) -> str:
    """Return the first line of a docstring."""
    return (item.__doc__ or "").strip().partition("\n")[0]


def study_metrics() -> str:
    """The metrics of a study's rows."""
    from reslab.spec.study import METRICS

    rows = [[code(metric.name), metric.unit, escape(metric.description)] for metric in METRICS.values()]
    return markdown_table(["metric", "unit", "definition"], rows)


def metrics() -> str:
    """The public functions of `reslab.metrics`."""
    return _functions_of("reslab.metrics")


def _functions_of(package: str) -> str:
    rows = []
    for module_name in public_modules(package):
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module_name and not name.startswith("_"):
                rows.append([f"{{py:obj}}`{module_name}.{name}`", escape(first_sentence(value))])
    return markdown_table(["name", "what it is"], rows)


def public_modules(package: str) -> list[str]:
    """Return the names of the public modules of a package, without those of its subpackages."""
    import pkgutil

    module = importlib.import_module(package)
    names = [info.name for info in pkgutil.iter_modules(module.__path__) if not info.ispkg]
    return [f"{package}.{name}" for name in names if not name.startswith("_") and name != "__main__"]


def tasks() -> str:
    """The tasks, each with the form of its targets, its metrics and its losses, the default first."""
    from reslab.spec.loss import LOSSES
    from reslab.spec.task import TASKS, Task

    def suited(task: Task) -> list[str]:
        names = [name for name, loss in LOSSES.items() if task.target in loss.targets]
        return sorted(names, key=lambda name: name != task.loss)

    rows = [
        [
            code(name),
            task.target.value,
            ", ".join(metric.title for metric in task.metrics),
            code_list(suited(task)),
            link_arxiv(task.reference),
        ]
        for name, task in TASKS.items()
    ]
    return markdown_table(["task", "targets", "metrics", "loss", "reference"], rows)


# Deployment and checkpoints


def backends() -> str:
    """The inference backends."""
    from reslab.deploy.backends.registry import BACKENDS

    rows = [
        [code(info.name), code(info.extra), ", ".join(info.devices), code_list(info.precisions)]
        for info in BACKENDS.values()
    ]
    return markdown_table(["backend", "extra", "devices", "precisions"], rows)


def export_formats() -> str:
    """The export formats."""
    from reslab.deploy.export.formats import EXPORT_FORMATS

    rows = [
        [
            code(item.name),
            code(item.suffix) or "a folder",
            code(item.extra),
            code_list(item.precisions),
            item.description,
        ]
        for item in EXPORT_FORMATS.values()
    ]
    return markdown_table(["format", "file", "extra", "precisions", "content"], rows)


def checkpoint_formats() -> str:
    """The files that weights are read from."""
    from reslab.nn.checkpoints.foreign_formats import CONTAINERS

    rows = [[one.name, code_list(one.suffixes), one.description, code(one.extra)] for one in CONTAINERS]
    return markdown_table(["container", "suffixes", "written by", "extra"], rows)


def key_schemes() -> str:
    """The names of weights that are translated."""
    from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES

    rows = [[scheme.name, escape(scheme.reference), escape(scheme.difference)] for scheme in KEY_SCHEMES]
    return markdown_table(["key scheme", "code base", "computes differently"], rows)


# Analyses and studies


def analyses() -> str:
    """The analyses with their options."""
    from reslab.analysis.registry import ANALYSES

    rows = []
    for analysis in ANALYSES.values():
        options = ", ".join(
            f"`{item.name}={getattr(analysis.options, item.name)}`" for item in fields(analysis.options)
        )
        rows.append([code(analysis.name), escape(analysis.summary), options, link_arxiv(analysis.reference)])
    return markdown_table(["analysis", "result", "options and defaults", "reference"], rows)


def studies() -> str:
    """The studies."""
    from reslab.spec.papers import STUDIES

    rows = [
        [code(study.name), escape(study.title), len(study.rows), len(study.claims), link_arxiv(study.reference)]
        for study in STUDIES.values()
    ]
    return markdown_table(["study", "title", "rows", "claims", "reference"], rows, "llrrl")


# Limits


def errors() -> str:
    """The public exceptions of the packages that a program uses."""
    rows = []
    for path in sorted((Path(reslab.__file__).parent).rglob("*.py")):
        parts = path.relative_to(Path(reslab.__file__).parent).with_suffix("").parts
        names = _EXCEPTION.findall(path.read_text(encoding="utf-8")) if parts[0] != "cli" else []
        for name in names:
            item = getattr(importlib.import_module(".".join(["reslab", *parts])), name)
            if issubclass(item, BaseException) and not name.startswith("_"):
                bases = code_list(base.__name__ for base in item.__bases__)
                rows.append([f"{{py:class}}`~{item.__module__}.{name}`", bases, escape(first_sentence(item))])
    return markdown_table(["error", "is a", "meaning"], rows)


def decode_limits() -> str:
    """The limits on decoding an image, with the help of each field."""
    from reslab.data.decode_limits import DecodeLimits

    rows = [
        [code(item.name), limit_value(item.default), escape(item.metadata.get("help", ""))]
        for item in fields(DecodeLimits)
    ]
    return markdown_table(["limit", "default", "meaning"], rows)


def server_limits() -> str:
    """The settings of the server that limit something."""
    from reslab.deploy.server.settings import ServerSettings

    rows = [
        [code(item.name), limit_value(item.default)]
        for item in fields(ServerSettings)
        if isinstance(item.default, int | float) and not isinstance(item.default, bool)
    ]
    return markdown_table(["limit", "default"], rows, "lr")


def checkpoint_limits() -> str:
    """The limits on a checkpoint file."""
    from reslab.nn.checkpoints.limits import ReadLimits

    rows = [[code(item.name), limit_value(item.default)] for item in fields(ReadLimits)]
    return markdown_table(["limit", "default"], rows, "lr")


def arch_limits() -> str:
    """The limits on an architecture that comes from a file."""
    from reslab.spec import dense as module

    rows = [[code(name), limit_value(value)] for name, value in vars(module).items() if name.startswith("MAX_")]
    return markdown_table(["limit", "value"], rows, "lr")


def limit_value(value: object) -> str:
    """Return a limit as text: integers with separators, None as none."""
    if value is MISSING or value is None:
        return "by the file"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# Command line


def cli() -> str:
    """Every command with its usage, arguments, options by group, and examples."""
    from reslab.cli.commands import COMMANDS, PANELS

    overview = []
    for panel in PANELS:
        rows = [
            [f"[`reslab {command.name}`](#reslab-{command.name})", escape(command.help)]
            for command in COMMANDS.values()
            if command.panel == panel
        ]
        overview.append(f"**{panel}**\n\n{markdown_table(['command', 'what it does'], rows)}")
    return "\n\n".join([*overview, _global_options(), *(_command(command) for command in COMMANDS.values())])


def _global_options() -> str:
    import typer

    from reslab.cli.app import app

    params = typer.main.get_command(app).params
    return f"## Options of every command\n\n{_option_tables(params)}"


def _command(command: Any) -> str:
    from reslab.cli.app import load_command

    loaded = load_command(command)
    name = f"reslab {command.name}"
    children = getattr(loaded, "commands", {})
    parts = [f"(reslab-{command.name})=\n## {name}"]
    if not children:
        return "\n\n".join([*parts, _command_body(name, loaded)])
    parts.append(escape(command.help))
    for child_name, child in children.items():
        parts += [f"### {name} {child_name}", _command_body(f"{name} {child_name}", child)]
    return "\n\n".join(parts)


def _command_body(name: str, command: Any) -> str:
    from reslab.cli.commands import EXAMPLES

    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([name, *map(_argument_usage, arguments), "[OPTIONS]"])
    examples = "\n".join(EXAMPLES.get(name.removeprefix("reslab "), ()))
    argument_rows = [[code(_argument_name(param)), escape(param.help or "")] for param in arguments]
    parts = [escape(command.help or ""), f"```text\n{usage}\n```"]
    if argument_rows:
        parts.append(markdown_table(["argument", "meaning"], argument_rows))
    parts.append(_option_tables(command.params))
    if examples:
        parts.append(f"```bash\n{examples}\n```")
    return "\n\n".join(part for part in parts if part)


def _argument_name(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _argument_usage(param: Any) -> str:
    text = _argument_name(param) + ("..." if param.nargs == -1 else "")
    return text if param.required else f"[{text}]"


def _option_tables(params: Iterable[Any]) -> str:
    panels: dict[str, list[list[str]]] = {}
    for param in params:
        if param.param_type_name == "option" and not param.hidden and "--help" not in param.opts:
            rows = panels.setdefault(str(param.rich_help_panel or "Options"), [])
            rows.append([_option_names(param), _default_text(param), escape(param.help or "")])
    return "\n\n".join(
        f"**{panel}**\n\n{markdown_table(['option', 'default', 'meaning'], rows)}" for panel, rows in panels.items()
    )


def _option_names(param: Any) -> str:
    names = sorted(param.opts, key=len)
    metavar = f" {param.metavar}" if param.metavar else ""
    others = "".join(f", {code(name)}" for name in param.secondary_opts)
    return ", ".join([*map(code, names[:-1]), code(names[-1] + metavar)]) + others


def _default_text(param: Any) -> str:
    if isinstance(param.show_default, str):
        return escape(param.show_default)
    is_shown = param.default not in (None, False, "", (), []) and not callable(param.default)
    return code(param.default) if is_shown else ""


GENERATED: dict[str, Callable[[], str]] = {
    "models": models,
    "recipes": recipes,
    "losses": losses,
    "datasets": datasets,
    "data-formats": data_formats,
    "metrics": metrics,
    "study-metrics": study_metrics,
    "tasks": tasks,
    "backends": backends,
    "export-formats": export_formats,
    "checkpoint-formats": checkpoint_formats,
    "key-schemes": key_schemes,
    "analyses": analyses,
    "studies": studies,
    "errors": errors,
    "decode-limits": decode_limits,
    "server-limits": server_limits,
    "checkpoint-limits": checkpoint_limits,
    "arch-limits": arch_limits,
    "cli": cli,
    "coverage-counts": course_tables.coverage_counts,
    "coverage-gaps": course_tables.coverage_gaps,
    "coverage-by-source": course_tables.coverage_by_source,
    "course-defects": course_tables.course_defects,
}
