"""The pages of the API, one for each package, and docstrings in plain text as reStructuredText.

The docstrings have paragraphs, bullets (`* `), terms followed by indented lines, and code in single backticks.
Everything else in them is text, such as the `*`, `_` and `|` of formulas.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import reslab

_MARKUP = re.compile(r"([\\*_|`])")
_CODE = re.compile(r"``?([^`\n]+)``?")


def to_rst(lines: Sequence[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    out: list[str] = []
    for block in _blocks(lines):
        out += [*_block_to_rst(block), ""]
    return out


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []
    if block:
        yield block


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block_to_rst(block: Sequence[str]) -> list[str]:
    if _indent(block[0]) >= 4:  # a formula or an example
        return ["::", "", *(f"    {line}" for line in block)]
    items: list[list[str]] = []
    for line in block:
        if not items or (_indent(line) == 0 and (line.startswith("* ") or _is_term(items[-1]))):
            items.append([line])
        else:
            items[-1].append(line)
    out: list[str] = []
    for item in items:
        out += [*_item_to_rst(item), ""]
    return out


def _is_term(item: Sequence[str]) -> bool:
    """Return whether an item is a term with indented lines, so that a line without indentation begins another."""
    return len(item) > 1 and not item[0].startswith("* ") and _indent(item[-1]) > 0


def _item_to_rst(item: Sequence[str]) -> list[str]:
    if item[0].startswith("* "):
        return [f"* {escape(' '.join([item[0][2:], *(line.strip() for line in item[1:])]))}"]
    plain = [line for line in item if _indent(line) == 0]
    indented = [line.strip() for line in item if _indent(line) > 0]
    text = [escape(" ".join(plain))]
    return [*text, *([f"    {escape(' '.join(indented))}"] if indented else [])]


def escape(text: str) -> str:
    """Return plain text with code in backticks as reStructuredText."""
    parts: list[str] = []
    position = 0
    for match in _CODE.finditer(text):
        parts += [_MARKUP.sub(r"\\\1", text[position : match.start()]), _literal(match, text)]
        position = match.end()
    return "".join([*parts, _MARKUP.sub(r"\\\1", text[position:])])


def _literal(match: re.Match[str], text: str) -> str:
    before, after = text[: match.start()][-1:], text[match.end() :][:1]
    # Inline markup must be separated from letters; an escaped space separates without a gap.
    left = "\\ " if before.isalnum() else ""
    right = "\\ " if after.isalnum() else ""
    return f"{left}``{match[1].strip()}``{right}"


# References


def names_a_value(target: str) -> bool:
    """Return whether a dotted name is a value of a module of reslab that is no class or function, such as a TypeVar.

    Such names stand in signatures and have no entry in the API. False for a name that does not exist.
    """
    module_name, _, name = target.rpartition(".")
    try:
        value = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        return False
    return not inspect.isclass(value) and not inspect.isfunction(value)


# Pages


def packages() -> list[str]:
    """Return the names of the packages with public modules, but for the command line, which is not for import."""
    result = [info.name for info in pkgutil.walk_packages(reslab.__path__, "reslab.") if info.ispkg]
    return [name for name in sorted(result) if modules_of(name) and name != "reslab.cli"]


def modules_of(package: str) -> list[str]:
    """Return the public modules of a package, without its subpackages."""
    path = importlib.import_module(package).__path__
    names = [info.name for info in pkgutil.iter_modules(path) if not info.ispkg and not info.name.startswith("_")]
    return [f"{package}.{name}" for name in names]


def package_page(package: str) -> str:
    """Return the page of a package: its docstring, then its modules."""
    parts = [_heading(package, "="), f".. automodule:: {package}", "   :members:", ""]
    for module in modules_of(package):
        short = module.removeprefix(f"{package}.")
        parts += [_heading(short, "-"), f".. automodule:: {module}", "   :members:", ""]
    return "\n".join(parts) + "\n"


def _heading(text: str, underline: str) -> str:
    shown = text.replace("_", "\\_")
    return f"{shown}\n{underline * len(shown)}\n"


def public_page() -> str:
    """Return the page of the names that `import reslab` gives, each with its full documentation in its module."""
    parts = [_heading("reslab", "="), *to_rst((reslab.__doc__ or "").splitlines())]
    for name in reslab.__all__:
        item = getattr(reslab, name)
        summary = (inspect.getdoc(item) or "").partition("\n")[0]
        parts.append(f":py:obj:`reslab.{name} <{item.__module__}.{item.__qualname__}>`\n    {escape(summary)}\n")
    return "\n".join(parts) + "\n"


def write_pages(folder: Path) -> None:
    """Write the pages of the API; a page that has not changed keeps its time."""
    pages = {"reslab": public_page()} | {package: package_page(package) for package in packages()}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
