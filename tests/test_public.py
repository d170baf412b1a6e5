"""The public names: sorted, lazy, few, and each exactly what its home exports."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import reslab

HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "sklearn", "PIL")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def type_checking_imports() -> dict[str, str]:
    """Name -> module, as the block for type checkers in `reslab/__init__.py` has it."""
    tree = ast.parse(Path(reslab.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: str(node.module)
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_all_is_sorted_and_short() -> None:
    assert list(reslab.__all__) == sorted(set(reslab.__all__))
    assert len(reslab.__all__) <= 30


def test_all_is_exactly_what_is_exported() -> None:
    assert type_checking_imports() == reslab._MODULES
    assert sorted(reslab._MODULES) == reslab.__all__
    assert set(reslab.__all__) <= set(dir(reslab))


@pytest.mark.parametrize("name", reslab.__all__)
def test_a_public_name_is_its_home_s(name: str) -> None:
    home = importlib.import_module(reslab._MODULES[name])
    assert getattr(reslab, name) is getattr(home, name)
    assert (getattr(reslab, name).__doc__ or "").strip()


def test_nothing_else_is_exported() -> None:
    """In a fresh process, the names without an underscore are what the file itself imports, until one is asked for."""
    names = python("import reslab; print(*[n for n in vars(reslab) if not n.startswith('_')])").split()
    assert set(names) <= {"importlib", "TYPE_CHECKING", "Any"}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        reslab.trian  # noqa: B018


def test_no_public_name_is_a_module_s() -> None:
    packages = {module.name for module in pkgutil.iter_modules(reslab.__path__)}
    assert not packages & set(reslab.__all__)
    assert not any(isinstance(getattr(reslab, name), types.ModuleType) for name in reslab.__all__)


@pytest.mark.parametrize("module", ["reslab", "reslab.cli.app", "reslab.spec"])
def test_import_reslab_does_not_import_torch(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert version("reslab") == reslab.__version__


def test_the_package_is_typed() -> None:
    assert (Path(reslab.__file__).parent / "py.typed").exists()
