"""The plan of the house, held against the imports: which room may use which, and who owns which dependency."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
STRATA = ["spec", "runtime", "metrics", "nn", "data", "report", "training", "analysis", "deploy", "studies", "cli"]
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "engine", "misc"}
# Dependency -> the rooms that may import it; late imports and those for type checkers count too.
OWNERS = {
    "matplotlib": {"report"},
    "torch.distributed": {"runtime"},
    "argparse": {"cli"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
}
NUMERIC = {"torch", "torchvision", "numpy"}


@dataclass(frozen=True)
class Module:
    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def room(self) -> str:
        """`reslab.nn.block` stands in `nn`; `reslab` and `reslab.__main__`, which stand at the door, in none."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in STRATA else ""


def read_modules(root: Path) -> list[Module]:
    modules = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package))
    return modules


def imported(module: Module) -> Iterator[str]:
    """Every dotted name the module imports, at the top or late inside a function, relative ones made absolute."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.name.split(".")
                kept = parts[: len(parts) - node.level + module.is_package]
                origin = ".".join([*kept, origin] if origin else kept)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def upward_arrows(modules: list[Module]) -> list[str]:
    found = []
    for module in modules:
        for target in imported(module) if module.room else ():
            parts = target.split(".")
            if parts[0] != "reslab":
                continue
            room = parts[1] if len(parts) > 1 else ""
            if room not in STRATA:
                found.append(f"{module.name} imports {target}, which stands above every room")
            elif STRATA.index(room) > STRATA.index(module.room):
                found.append(f"{module.name} imports {target}, but {module.room} comes before {room}")
    return found


def edges(modules: list[Module]) -> dict[str, set[str]]:
    """Module -> modules of ours it imports; `from reslab.nn import unit` counts as `reslab.nn.block`."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = set()
        for target in imported(module):
            owner = target if target in known else target.rpartition(".")[0]
            if owner in known and owner != module.name:
                targets.add(owner)
        graph[module.name] = targets
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return []

    for name in graph:
        if cycle := visit(name, []):
            return cycle
    return []


def misplaced(modules: list[Module]) -> list[str]:
    found = []
    for module in modules:
        for target in imported(module):
            if module.room == "spec" and target.split(".")[0] in NUMERIC:
                found.append(f"{module.name} imports {target}: spec/ is the standard library only")
            for package, rooms in OWNERS.items():
                if is_under(target, package) and module.room not in rooms:
                    found.append(f"{module.name} imports {target}: it belongs to {', '.join(sorted(rooms))}/")
    return found


def attribute_path(node: ast.AST) -> str:
    """`torch.distributed.init_process_group` for that chain of attributes, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := attribute_path(node.value)):
        return f"{inner}.{node.attr}"
    return ""


def misused(modules: list[Module]) -> list[str]:
    """print(), input(), exit() and torch.distributed reached by attribute, outside the rooms that own them."""
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and module.room != "cli" and module.name != "reslab.__main__":
                called = attribute_path(node.func)
                if called in {"print", "input", "exit", "quit", "sys.exit"}:
                    found.append(f"{module.name}:{node.lineno} calls {called}")
            if attribute_path(node) == "torch.distributed" and module.room != "runtime":
                found.append(f"{module.name}:{getattr(node, 'lineno', 0)} uses torch.distributed")
    return found


MODULES = read_modules(SRC)


def test_the_rooms_are_those_of_the_plan() -> None:
    rooms = {path.name for path in (SRC / "reslab").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(STRATA)
    assert {module.room for module in MODULES} >= {"spec", "cli"}


def test_no_arrow_points_up() -> None:
    assert upward_arrows(MODULES) == []


def test_there_is_no_cycle() -> None:
    assert find_cycle(edges(MODULES)) == []


def test_every_dependency_stays_in_its_room() -> None:
    assert misplaced(MODULES) == []
    assert misused(MODULES) == []


def test_no_module_has_a_vague_name() -> None:
    assert [module.name for module in MODULES if set(module.name.split(".")) & VAGUE] == []


def parsed(name: str, code: str, is_package: bool = False) -> Module:
    return Module(name, ast.parse(code), is_package)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("reslab.spec.arch", "from reslab.nn.block import Unit"),
        ("reslab.nn.block", "def late():\n    from reslab import training"),
        ("reslab.nn.block", "from ..cli import app"),
        ("reslab.nn.block", "import reslab"),
    ],
)
def test_an_upward_arrow_is_seen(name: str, code: str) -> None:
    assert upward_arrows([parsed(name, code)])


def test_a_downward_arrow_is_let_be() -> None:
    assert upward_arrows([parsed("reslab.cli.train", "from reslab.spec.arch import Arch")]) == []


def test_a_cycle_is_seen() -> None:
    ring = [
        parsed("reslab.nn.a", "from reslab.nn.b import x"),
        parsed("reslab.nn.b", "def f():\n    from reslab.nn import c"),
        parsed("reslab.nn.c", "from . import a"),
        parsed("reslab.nn", "", is_package=True),
    ]
    assert find_cycle(edges(ring)) == ["reslab.nn.a", "reslab.nn.b", "reslab.nn.c", "reslab.nn.a"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("reslab.spec.arch", "import torch.nn as nn"),
        ("reslab.spec.arch", "def f():\n    import numpy"),
        ("reslab.training.loop", "from matplotlib import pyplot"),
        ("reslab.data.folder", "import argparse"),
        ("reslab.data.folder", "from torch import distributed"),
    ],
)
def test_a_misplaced_dependency_is_seen(name: str, code: str) -> None:
    assert misplaced([parsed(name, code)])


@pytest.mark.parametrize("code", ["print(1)", "import sys\nsys.exit(1)", "import torch\ntorch.distributed.barrier()"])
def test_a_misused_one_is_seen(code: str) -> None:
    assert misused([parsed("reslab.nn.block", code)])
