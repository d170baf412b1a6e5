"""The Markdown pages agree with the repository: links and paths exist, and every command parses."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reslab.cli.app import _split_plugins, load_command
from reslab.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]
GENERATED = {ROOT / "docs" / "reference" / "api" / "reslab.rst"}
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\s*(?:\$ |    )(?:[^#`]*?(?:-m |/bin/|\| ))?reslab ([a-z].*)$", re.MULTILINE)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `reslab` command in the page's examples, without redirections and shell variables."""
    for line in _COMMAND.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        if "$" not in line:
            words = shlex.split(re.split(r"\s[|<>]\s", line)[0], comments=True)
            yield [word.removesuffix("...") for word in words]


def parse(args: list[str]) -> Any:
    """Parse a command line without running it; raises typer's error for a word that the command does not take."""
    args, _ = _split_plugins(args)
    command, args = load_command(COMMANDS[args[0]]), args[1:]
    if hasattr(command, "commands"):
        command, args = command.commands[args[0]], args[1:]
    context: Any = command.make_context(command.name, list(args))
    return context


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = _CODE.sub("", text)
    links = [page.parent / link for link in re.findall(r"\]\(([^)#\s]+)", prose) if not link.startswith("http")]
    paths = [ROOT / path for path in re.findall(r"`((?:docs|benchmarks|tests|src)/[\w./-]+)`", text)]
    assert [path for path in (*links, *paths) if not path.exists() and path not in GENERATED] == []


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=page_name)
def test_every_command_parses(page: Path) -> None:
    assert [args for args in commands(page) if parse(args).args] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_name)
def test_every_command_named_in_the_text_exists(page: Path) -> None:
    names = re.findall(r"`reslab ([a-z][a-z-]*)", page.read_text(encoding="utf-8"))
    assert set(names) <= set(COMMANDS)


def test_the_pages_have_commands() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 60
