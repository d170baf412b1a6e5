"""The tables in the reference equal the tables in the code. `python tests/test_docs.py` writes them."""

import ast
import re
import runpy
from pathlib import Path

from reslab.cli.lists import format_value
from reslab.nn.checkpoints.foreign_formats import CONTAINERS
from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES
from reslab.nn.checkpoints.read import KEY_PREFIXES
from reslab.report.format import markdown_table
from reslab.spec.config import non_default_fields
from reslab.spec.dense import ModelKind
from reslab.spec.operations import OPERATIONS, Family
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import MERGE_OPS, SHORTCUTS, MergeRole
from reslab.spec.transform_grammar import parse_transforms
from reslab.spec.transforms import TRANSFORMS, TransformArg, TransformKind
from reslab.spec.zoo.dense import DENSE_ARCHS

DOCS = Path(__file__).parent.parent / "docs"
WEIGHTS_PAGE = DOCS / "how-to" / "load-weights-from-elsewhere.md"
DENSE_PAGE = DOCS / "reference" / "networks-dense.md"
GRAMMAR, TRANSFORM_PAGE = DOCS / "reference" / "grammar.md", DOCS / "reference" / "transforms.md"


def tables() -> dict[str, str]:
    """The tables of the pages, each by the marker ahead of it."""
    return {**grammar_tables(), **transform_tables(), **checkpoint_tables(), **dense_tables()}


def dense_tables() -> dict[str, str]:
    """A table for each kind of networks on a backbone."""
    columns = ["name", "backbone", "values", "reference"]
    rows: dict[ModelKind, list[list[str]]] = {ModelKind.SEGMENTATION: [], ModelKind.DETECTION: []}
    for arch in DENSE_ARCHS.values():
        values = {key: value for key, value in non_default_fields(arch).items() if key not in _COLUMNS}
        text = ", ".join(f"`{key}={format_value(value)}`" for key, value in values.items())
        rows[arch.kind].append([f"`{arch.name}`", f"`{arch.backbone.name}`", text, arch.reference])
    return {kind.value: markdown_table(columns, lines) for kind, lines in rows.items()}


_COLUMNS = ("name", "reference", "backbone")


def checkpoint_tables() -> dict[str, str]:
    """The tables of the page on weights of others."""
    containers = [
        [
            one.name,
            ", ".join(f"`{suffix}`" for suffix in one.suffixes),
            one.description,
            f"`{one.extra}`" if one.extra else "",
        ]
        for one in CONTAINERS
    ]
    schemes = [[scheme.name, scheme.reference] for scheme in KEY_SCHEMES]
    return {
        "containers": markdown_table(["container", "suffixes", "written by", "extra"], containers),
        "schemes": markdown_table(["key scheme", "code base"], schemes),
    }


def transform_tables() -> dict[str, str]:
    """A table for each kind of transforms."""
    columns = ["transform", "effect", "arguments", "reference", "in other libraries"]
    rows: dict[TransformKind, list[list[str]]] = {kind: [] for kind in TransformKind}
    for spec in TRANSFORMS.values():
        args = "<br>".join(map(describe_arg, spec.args))
        other_names = ", ".join(f"`{name}`" for name in spec.other_names)
        rows[spec.kind].append([f"`{spec.example}`", spec.summary, args, spec.reference, other_names])
    return {f"transforms-{kind.value}": markdown_table(columns, rows[kind]) for kind in TransformKind}


def describe_arg(arg: TransformArg) -> str:
    """An argument with its type, range, default and meaning."""
    default = "required" if arg.default is None else f"default {arg.default}"
    type_and_range = f"{arg.type_text.replace(' | ', ' or ')} {arg.range_text}".strip()
    return f"`{arg.name}` ({type_and_range}, {default}): {arg.summary}"


def grammar_tables() -> dict[str, str]:
    """The tables of the grammar of networks."""
    orders = [[f"`{name}`", f"`{order.layout}`", order.reference] for name, order in ORDERS.items()]
    shortcuts = [[f"`{name}`", shortcut.description, shortcut.reference] for name, shortcut in SHORTCUTS.items()]
    roles = {
        MergeRole.MERGE: "operation",
        MergeRole.SHORTCUT: "modifier of the shortcut",
        MergeRole.BRANCH: "modifier of the branch",
        MergeRole.BRANCHES: "combination of branches",
    }
    merges = [
        [
            roles[op.role],
            f"`{name}{'(' + ', '.join(param.name for param in op.params) + ')' if op.params else ''}`",
            op.description,
            op.reference,
        ]
        for name, op in MERGE_OPS.items()
    ]
    operations = {
        f"{family}s": markdown_table(
            [str(family), "arguments", "effect", "reference"],
            [
                [f"`{name}`", ", ".join(f"`{param.name}`" for param in item.params), item.description, item.reference]
                for name, item in OPERATIONS[family].items()
            ],
        )
        for family in (Family.LAYER, Family.CONV, Family.NORM)
    }
    return operations | {
        "orders": markdown_table(["order", "layout", "reference"], orders),
        "shortcuts": markdown_table(["shortcut", "module", "reference"], shortcuts),
        "merges": markdown_table(["role", "operation", "effect", "reference"], merges),
    }


def fill(page: str) -> str:
    """The page with the table after each marker replaced by the one from the code."""
    for marker, table in tables().items():
        page = re.sub(
            rf"<!-- {marker} -->\n\n(?:\|.*\n)*\n?",
            lambda _, m=marker, t=table: f"<!-- {m} -->\n\n{t.strip()}\n\n",
            page,
        )
    return page


def test_the_reference_lists_what_the_code_has() -> None:
    page = GRAMMAR.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in (*ORDERS, *SHORTCUTS))
    assert fill(page) == page


def test_the_page_on_segmentation_and_detection_lists_the_networks() -> None:
    page = DENSE_PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in DENSE_ARCHS)
    assert fill(page) == page


def test_the_page_on_weights_lists_containers_schemes_and_prefixes() -> None:
    page = WEIGHTS_PAGE.read_text(encoding="utf-8")
    assert fill(page) == page
    assert all(f"| {scheme.name} " in page for scheme in KEY_SCHEMES)
    prefixes = ", ".join(f"`{prefix}`" for prefix in KEY_PREFIXES)
    assert prefixes in " ".join(page.split())


def test_the_transforms_are_listed_and_drawn() -> None:
    page = TRANSFORM_PAGE.read_text(encoding="utf-8")
    assert fill(page) == page
    assert all(f"`{spec.example}`" in page for spec in TRANSFORMS.values())
    assert "../images/transforms.png" in page
    drawn = runpy.run_path(str(DOCS / "images" / "make_transforms.py"))["EXPRESSIONS"]
    assert {call.name for expression in drawn for call in parse_transforms(expression)} == set(TRANSFORMS)
    assert 10_000 < (DOCS / "images" / "transforms.png").stat().st_size < 250_000


def test_the_figures_of_the_grammar_are_those_of_the_code() -> None:
    files = runpy.run_path(str(DOCS / "images" / "make_drawings.py"))["draw_all"]()
    assert {name: (DOCS / "images" / name).read_text(encoding="utf-8") for name in files} == files
    assert all(f"../images/{name}" in GRAMMAR.read_text(encoding="utf-8") for name in files)


ROOT = Path(__file__).parent.parent


def rows_of_changes() -> list[str]:
    """The rows of the table of CONTRIBUTING.md that says what to change to add something."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.search(r"\| to add \| change \|\n\|---\|---\|\n((?:\|.*\n)+)", page)
    assert table is not None
    return table[1].splitlines()


def test_every_name_and_path_in_contributing_exists() -> None:
    rows = rows_of_changes()
    assert len(rows) >= 15
    for row in rows:
        quoted = re.findall(r"`([^`]+)`", row)
        paths = {text: (ROOT / "src" / "reslab" / text, ROOT / text) for text in quoted if re.search(r"/|\.\w+$", text)}
        files: list[Path] = []
        for text, candidates in paths.items():
            path = next((candidate for candidate in candidates if candidate.exists()), None)
            assert path is not None, f"{text} does not exist: {row}"
            files += path.rglob("*.py") if path.is_dir() else [path]
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for name in (text.lstrip("@") for text in quoted if text not in paths and not text.startswith("--")):
            assert re.search(rf"(?:def|class) {name}\b|^ *{name}(?::.*| )=|^ *{name}: ", source, re.M), (name, row)


def test_contributing_lists_the_packages_in_the_order_of_the_import_rules() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", page, re.M)
    rules = re.search(r"^PACKAGES = (\[.*\])$", (ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8"), re.M)
    assert rules is not None
    assert listed == ast.literal_eval(rules[1])


def test_the_readme_counts_nothing_that_grows() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    number = r"(?:\d[\d,]*|\w+teen|twenty|thirty|dozens)"
    assert re.findall(rf"\b{number} (?:networks|analyses|studies|recipes|transforms|commands)\b", page) == []


if __name__ == "__main__":
    for path in (GRAMMAR, TRANSFORM_PAGE, WEIGHTS_PAGE, DENSE_PAGE):
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
