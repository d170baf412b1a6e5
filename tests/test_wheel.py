"""The package: its long description, its files, and what an installation without the extras can do."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "reslab"
BUILD_CODE = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def package_files() -> set[str]:
    """The files that the package needs, relative to the folder of the packages."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in files}


def test_package_data_names_every_file_that_is_no_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["reslab"]
    named = {path.relative_to(PACKAGE.parent).as_posix() for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert {name for name in package_files() if not name.endswith(".py")} <= named


def test_the_long_description_has_no_link_into_the_repository() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = runpy.run_path(str(ROOT / "setup.py"))["long_description"](readme)
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "Train on your own images explains each step" in text
    assert readme.count("\n## ") == text.count("\n## ")


def test_the_long_description_keeps_links_to_pages_on_the_web_and_to_headings() -> None:
    long_description = runpy.run_path(str(ROOT / "setup.py"))["long_description"]
    page = "![image](a.png)\n\n[a](docs/a.md) [b](https://b.org) [c](#c)\n\n![d](https://d.org/d.png)\n"
    assert long_description(page) == "a [b](https://b.org) [c](#c)\n\n![d](https://d.org/d.png)\n"


def core_distributions(name: str = "reslab") -> dict[str, Distribution]:
    """The distributions that this one requires without an extra, and theirs in turn."""
    result: dict[str, Distribution] = {}
    pending = [name]
    while pending:
        requirements = map(Requirement, distribution(pending.pop()).requires or [])
        for requirement in requirements:
            is_required = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_required and requirement.name not in result:
                result[requirement.name] = distribution(requirement.name)
                pending.append(requirement.name)
    return result


def link_distribution(installed: Distribution, site_packages: Path) -> None:
    """Make the files of an installed distribution importable from another folder, by a link to each top-level entry."""
    for file in installed.files or ():
        entry, link = Path(str(installed.locate_file(file.parts[0]))), site_packages / file.parts[0]
        if file.parts[0] not in ("..", "__pycache__") and not link.exists():
            link.symlink_to(entry)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "reslab"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "runs", "tests")
    shutil.copytree(ROOT, source, ignore=left_out)
    subprocess.run([sys.executable, "-c", BUILD_CODE, str(folder)], cwd=source, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(archive)], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def reslab_command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `reslab` of a virtual environment with the wheel and its core dependencies alone."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    scheme = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    for installed in core_distributions().values():
        link_distribution(installed, Path(scheme["purelib"]))
    python = Path(scheme["scripts"]) / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    return Path(scheme["scripts"]) / "reslab"


@pytest.fixture
def environment() -> dict[str, str]:
    """The variables of a process that finds neither this checkout nor its environment."""
    names = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.mark.wheel
def test_the_wheel_has_every_file_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == package_files()


@pytest.mark.wheel
def test_the_wheel_has_the_long_description(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown" in metadata
    assert "\n# reslab\n" in metadata
    assert "](docs/" not in metadata


@pytest.mark.wheel
def test_an_installation_without_extras_trains_evaluates_and_predicts(
    reslab_command: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def run(*arguments: str, program: Path = reslab_command) -> str:
        command = [str(program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    digits = load_digits()
    Image.fromarray((digits.images[0] * 255 / 16).astype("uint8")).save(tmp_path / "zero.png")
    python = reslab_command.with_name("python")
    assert Path(run("-c", "import reslab; print(reslab.__file__)", program=python)).is_relative_to(python.parents[1])
    facts = json.loads(run("doctor", "--json"))
    assert all(facts["versions"].values())
    assert not facts["extras"]["onnx"]["installed"]
    trained = json.loads(run("train", "--epochs", "1", "--output", "run", "--json"))
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    evaluated = json.loads(run("eval", "run", "--json"))
    assert evaluated["metrics"]["top1"] == trained["metrics"]["top1"]
    predicted = json.loads(run("predict", "run", "zero.png", "--json"))
    assert len(predicted["predictions"][0]["classes"]) == 5
