"""Every block of Python and shell in the documents is run at small scale, or checked: it parses, and its names exist.

Run here: the commands that only list and print (`RUN_COMMANDS`), and the Python of `RUN_PAGES`, with trainings of two
steps. `tests/test_plugins.py` runs the guide on plugins and CONTRIBUTING.md; `make docs` runs the cells of the course.
"""

import ast
import functools
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import reslab
from reslab.analysis.registry import ANALYSES
from reslab.cli import app
from reslab.cli.overrides import parse_overrides
from reslab.spec.recipe import apply_recipe_overrides
from reslab.spec.recipes import find_recipe
from reslab.spec.zoo.dense import find_dense_arch
from reslab.spec.zoo.resolve import find_model_name

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md")]
)
RUN_COMMANDS = ("models", "recipes", "transforms", "studies", "doctor")
RUN_PAGES = (
    "README.md",
    "docs/index.md",
    "docs/tutorial/first-run.md",
    "docs/how-to/analyze-a-network.md",
    "docs/reference/metrics.md",
)
_BLOCK = re.compile(r"^( *)(`{3,})([\w{}-]*)[^\n]*\n(.*?)^\1\2 *$", re.M | re.S)
_ASSIGNMENT = re.compile(r"^(\w+)='([^']*)'$")
SHELL, PYTHON = ("bash", "console", "sh"), ("python",)


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str


def read_blocks(languages: tuple[str, ...]) -> list[Block]:
    return [
        Block(str(path.relative_to(ROOT)), match[3], match[4])
        for path in PAGES
        for match in _BLOCK.finditer(path.read_text(encoding="utf-8"))
        if match[3] in languages
    ]


def by_page(languages: tuple[str, ...]) -> dict[str, list[Block]]:
    pages: dict[str, list[Block]] = {}
    for block in read_blocks(languages):
        pages.setdefault(block.page, []).append(block)
    return pages


SHELL_PAGES, PYTHON_PAGES = by_page(SHELL), by_page(PYTHON)


# Shell


def command_lines(block: Block) -> list[str]:
    """Return the lines that a reader types: in a console those after a prompt, with their continuations."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def simple_commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command, without redirections; variables set in the block are replaced."""
    variables: dict[str, str] = {}
    for line in command_lines(block):
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        skip = False
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";|&"):
                if words:
                    yield words
                words = []
            elif word and set(word) <= set("<>"):
                skip = True
            elif skip:
                skip = False
            elif "=" in word and not words and re.match(r"\w+=", word):
                name, _, value = word.partition("=")
                variables[name] = value
            else:
                words.append(word)


def reslab_arguments(words: list[str]) -> list[str] | None:
    """Return the arguments of reslab in a command, also where torchrun or srun starts it; None for another program."""
    for index, word in enumerate(words):
        if word in ("reslab", ".venv/bin/reslab"):
            return words[index + 1 :]
    return None


COMMAND_LINES = [
    pytest.param(arguments, id=f"{page}: {' '.join(arguments)[:60]}")
    for page, blocks in SHELL_PAGES.items()
    for block in blocks
    for words in simple_commands(block)
    if (arguments := reslab_arguments(words)) is not None
]


def test_the_documents_show_many_commands() -> None:
    shown = {param.values[0][0] for param in COMMAND_LINES}
    assert len(COMMAND_LINES) > 80
    assert {"train", "eval", "predict", "export", "serve", "analyze", "study", "bench", "lr-find", "data"} <= shown


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_a_command_in_the_documents_parses_and_its_names_exist(arguments: list[str]) -> None:
    name, *rest = [word for word in arguments if word not in ("--allow-nonfinite", "--debug")]
    command = app.load_command(app.COMMANDS[name])
    children = getattr(command, "commands", {})
    if children:
        command, rest = children[rest[0]], rest[1:]
    context = command.make_context(name, app.join_channel_values(rest))
    check_names(context.params)


def check_names(values: dict[str, Any]) -> None:
    """Check the names of networks, recipes and analyses, and the keys of --set, among the parsed values."""
    recipe_name = values.get("recipe")
    recipe = find_recipe(recipe_name or "digits")
    model = values.get("model")
    if isinstance(model, str) and re.fullmatch(r"[a-z0-9_]+", model):
        assert find_dense_arch(model) or find_model_name(model), model
    if values.get("name") and "target_specs" in values:
        assert values["name"] in ANALYSES
    overrides = parse_overrides(values.get("overrides"))
    keys = {key: value for key, value in overrides.items() if not key.startswith("model.")}
    if "recipe" in values and keys:
        apply_recipe_overrides(recipe, keys)


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_other_programs_in_the_documents_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for block in SHELL_PAGES[page]:
        for words in simple_commands(block):
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.M), words
            for extras in re.findall(r"\[([a-z,]+)\]", " ".join(words)) if words[:2] == ["pip", "install"] else ():
                assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(",")), words
            if words[:2] == ["python", "-c"]:
                check_python(ast.parse(words[2]))


RUNNABLE = [param for param in COMMAND_LINES if param.values[0][0] in RUN_COMMANDS]


@pytest.mark.parametrize("arguments", RUNNABLE)
def test_a_command_that_lists_or_prints_runs(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert app.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 1


# Python


def check_python(tree: ast.Module) -> None:
    """Check that every name imported from reslab exists, and every keyword of a call to one of them."""
    names: dict[str, Any] = {"reslab": reslab}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reslab":
            module = importlib.import_module(str(node.module))
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "reslab":
            assert hasattr(reslab, node.attr), f"reslab.{node.attr}"
        if isinstance(node, ast.Call):
            check_call(node, names)


def check_call(node: ast.Call, names: dict[str, Any]) -> None:
    function = node.func
    if isinstance(function, ast.Name):
        target = names.get(function.id)
    elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "reslab":
        target = getattr(reslab, function.attr)
    else:
        return
    if target is None:
        return
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        unknown = [keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg not in parameters]
        assert unknown == [], (ast.unparse(node), unknown)


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_in_the_documents_parses_and_its_names_exist(page: str) -> None:
    for block in PYTHON_PAGES[page]:
        check_python(ast.parse(block.text))


@pytest.mark.parametrize("page", RUN_PAGES)
def test_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reslab, "train", functools.partial(train_two_steps, reslab.train))
    write_digit(tmp_path / "seven.png")
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in PYTHON_PAGES[page]:
        exec(compile(block.text, page, "exec"), namespace)
    assert namespace["__name__"] == "page"
    assert len(namespace) > 2  # the builtins, and what the page defines


def train_two_steps(train: Any, model: Any, data: Any, epochs: float = 0, **options: Any) -> Any:
    """Train as the page says, but for two steps and without a report, on a network with a block a stage."""
    overrides = {"duration": "2 steps", "model.depths": "1,1,1", **options.pop("overrides", {})}
    return train(model, data, overrides=overrides, output="run", **options)


def write_digit(path: Path) -> None:
    Image.fromarray(reslab.open_dataset("digits").split("test").load_image(7)[0].numpy()).save(path)


def test_the_checks_find_a_wrong_name() -> None:
    text = "$ A='-b 2'\n$ reslab train x/ $A > out.txt  # a comment\n  output\n$ ls | reslab predict - \\\n   --csv\n"
    commands = [["reslab", "train", "x/", "-b", "2"], ["ls"], ["reslab", "predict", "-", "--csv"]]
    assert list(simple_commands(Block("page", "console", text))) == commands
    with pytest.raises(AssertionError, match="no_such"):
        check_python(ast.parse("import reslab\nreslab.train('resnet18', no_such=1)"))
    with pytest.raises(AttributeError):
        check_python(ast.parse("from reslab.training.train import no_such"))
    with pytest.raises(Exception, match="no-such"):
        app.load_command(app.COMMANDS["train"]).make_context("train", ["--no-such"])
    with pytest.raises(ValueError, match="no_such"):
        check_names({"recipe": "digits", "overrides": ["no_such=1"]})
