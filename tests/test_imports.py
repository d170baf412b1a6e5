"""The import rules, in Python and JavaScript: which package may import which, and who owns which dependency."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
PACKAGES = ["spec", "runtime", "metrics", "nn", "data", "report", "training", "analysis", "deploy", "studies", "cli"]
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "engine", "misc"}
# Dependency -> the packages that may import it; imports inside functions and for type checkers count too.
OWNERS = {
    "matplotlib": {"report"},
    "torch.distributed": {"runtime"},
    "argparse": {"cli"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
}
NUMERIC = {"torch", "torchvision", "numpy"}
# The longest chain of imports at module level: whoever reads a module has at most so many more below it.
MAX_CHAIN_STEPS = 18


@dataclass(frozen=True)
class Module:
    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def package(self) -> str:
        """The package: `nn` for `reslab.nn.block`, "" for `reslab` and `reslab.__main__`."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else ""


def read_modules(root: Path) -> list[Module]:
    modules = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package))
    return modules


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk_module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run when the module is imported: none in functions, none for type checkers alone."""
    pending = [tree]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            skipped = ast.expr | ast.FunctionDef | ast.AsyncFunctionDef
            if not isinstance(node, skipped) and not is_type_checking(node):
                pending.append(node)
                yield node


def imported(module: Module, *, at_module_level: bool = False) -> Iterator[str]:
    """Yield every dotted name the module imports, also inside functions; relative names are made absolute."""
    for node in walk_module_level(module.tree) if at_module_level else ast.walk(module.tree):
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


def upward_imports(modules: list[Module]) -> list[str]:
    result = []
    for module in modules:
        for target in imported(module) if module.package else ():
            parts = target.split(".")
            if parts[0] != "reslab":
                continue
            package = parts[1] if len(parts) > 1 else ""
            if package not in PACKAGES:
                result.append(f"{module.name} imports {target}; import the module that defines it")
            elif PACKAGES.index(package) > PACKAGES.index(module.package):
                result.append(f"{module.name} imports {target}, but {module.package} comes before {package}")
    return result


def import_graph(modules: list[Module], *, at_module_level: bool = False) -> dict[str, set[str]]:
    """Map each module to those it imports; `from reslab.nn import block` counts as `reslab.nn.block`."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = set()
        for target in imported(module, at_module_level=at_module_level):
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


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest chain of imports in a graph without cycles."""

    @functools.cache
    def from_module(name: str) -> tuple[str, ...]:
        return (name, *max((from_module(target) for target in sorted(graph[name])), key=len, default=()))

    return list(max(map(from_module, graph), key=len))


def misplaced(modules: list[Module]) -> list[str]:
    result = []
    for module in modules:
        for target in imported(module):
            if module.package == "spec" and target.split(".")[0] in NUMERIC:
                result.append(f"{module.name} imports {target}: spec/ is the standard library only")
            for dependency, owners in OWNERS.items():
                if is_under(target, dependency) and module.package not in owners:
                    result.append(f"{module.name} imports {target}: it belongs to {', '.join(sorted(owners))}/")
    return result


def attribute_path(node: ast.AST) -> str:
    """Return a chain of attributes as text, such as `torch.distributed.barrier`; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := attribute_path(node.value)):
        return f"{inner}.{node.attr}"
    return ""


def misused(modules: list[Module]) -> list[str]:
    """Find print(), input(), exit() and attribute access to torch.distributed outside the packages that own them."""
    result = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and module.package != "cli" and module.name != "reslab.__main__":
                called = attribute_path(node.func)
                if called in {"print", "input", "exit", "quit", "sys.exit"}:
                    result.append(f"{module.name}:{node.lineno} calls {called}")
            if attribute_path(node) == "torch.distributed" and module.package != "runtime":
                result.append(f"{module.name}:{getattr(node, 'lineno', 0)} uses torch.distributed")
    return result


# `import ... from "./api.js"`, `import "./api.js"`, `export ... from "./api.js"` and `import("./api.js")`.
_JS_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']""")


def read_scripts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.js"))}


def js_import_graph(scripts: dict[str, str]) -> dict[str, set[str]]:
    """Map each script to the scripts it imports, by file name."""
    return {name: {target.removeprefix("./") for target in _JS_IMPORT.findall(text)} for name, text in scripts.items()}


def unresolved_js_imports(graph: dict[str, set[str]]) -> list[str]:
    return [f"{name} imports {target}" for name, targets in graph.items() for target in sorted(targets - set(graph))]


MODULES = read_modules(SRC)
SCRIPTS = read_scripts(SRC / "reslab/deploy/web")


def test_packages_are_listed() -> None:
    packages = {path.name for path in (SRC / "reslab").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages <= set(PACKAGES)
    assert {module.package for module in MODULES} >= {"spec", "cli"}


def test_imports_point_down() -> None:
    assert upward_imports(MODULES) == []


def test_no_import_cycle() -> None:
    assert find_cycle(import_graph(MODULES)) == []


def test_import_chains_are_short() -> None:
    chain = longest_chain(import_graph(MODULES, at_module_level=True))
    assert len(chain) - 1 <= MAX_CHAIN_STEPS, " > ".join(chain)


def test_dependencies_are_imported_by_their_owners() -> None:
    assert misplaced(MODULES) == []
    assert misused(MODULES) == []


def test_no_vague_module_names() -> None:
    assert [module.name for module in MODULES if set(module.name.split(".")) & VAGUE_NAMES] == []


def parse_module(name: str, code: str, is_package: bool = False) -> Module:
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
def test_upward_import_is_reported(name: str, code: str) -> None:
    assert upward_imports([parse_module(name, code)])


def test_downward_import_is_allowed() -> None:
    assert upward_imports([parse_module("reslab.cli.train", "from reslab.spec.arch import Arch")]) == []


def test_cycle_is_reported() -> None:
    modules = [
        parse_module("reslab.nn.a", "from reslab.nn.b import x"),
        parse_module("reslab.nn.b", "def f():\n    from reslab.nn import c"),
        parse_module("reslab.nn.c", "from . import a"),
        parse_module("reslab.nn", "", is_package=True),
    ]
    assert find_cycle(import_graph(modules)) == ["reslab.nn.a", "reslab.nn.b", "reslab.nn.c", "reslab.nn.a"]


def test_longest_chain_is_of_imports_at_module_level() -> None:
    modules = [
        parse_module("reslab.nn.a", "from reslab.nn import b\nif TYPE_CHECKING:\n    from reslab.nn import d"),
        parse_module("reslab.nn.b", "try:\n    from reslab.nn.c import x\nexcept ImportError:\n    pass"),
        parse_module("reslab.nn.c", "def f():\n    from reslab.nn import d"),
        parse_module("reslab.nn.d", ""),
    ]
    chain = longest_chain(import_graph(modules, at_module_level=True))
    assert chain == ["reslab.nn.a", "reslab.nn.b", "reslab.nn.c"]
    assert longest_chain(import_graph(modules)) == [*chain, "reslab.nn.d"]


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
def test_misplaced_dependency_is_reported(name: str, code: str) -> None:
    assert misplaced([parse_module(name, code)])


@pytest.mark.parametrize("code", ["print(1)", "import sys\nsys.exit(1)", "import torch\ntorch.distributed.barrier()"])
def test_misuse_is_reported(code: str) -> None:
    assert misused([parse_module("reslab.nn.block", code)])


def test_js_imports_resolve_without_a_cycle() -> None:
    graph = js_import_graph(SCRIPTS)
    assert "api.js" in graph["main.js"]
    assert unresolved_js_imports(graph) == []
    assert find_cycle(graph) == []


def test_every_script_is_reached_from_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (SRC / "reslab/deploy/web").glob("*.html"))
    graph = js_import_graph(SCRIPTS)
    reached: set[str] = set()
    pending = {name for name in graph if f"static/{name}" in pages}
    while pending:
        reached |= pending
        pending = {target for name in pending for target in graph[name]} - reached
    assert reached == set(graph)


@pytest.mark.parametrize(
    "line",
    [
        'import { a } from "./c.js";',
        'import * as c from "./c.js";',
        'import {\n  a,\n  b,\n} from "./c.js";',
        'import "./c.js";',
        "export { a } from './c.js';",
        'const { a } = await import("./c.js");',
    ],
)
def test_js_cycle_is_reported(line: str) -> None:
    scripts = {"a.js": 'import { b } from "./b.js";', "b.js": line, "c.js": 'import { a } from "./a.js";'}
    assert find_cycle(js_import_graph(scripts)) == ["a.js", "b.js", "c.js", "a.js"]


def test_missing_js_import_is_reported() -> None:
    assert unresolved_js_imports(js_import_graph({"a.js": 'import { b } from "./b.js";'})) == ["a.js imports b.js"]
