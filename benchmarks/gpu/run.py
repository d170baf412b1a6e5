"""Run the parts of the GPU benchmark, each in its own process with its own time limit, and write a summary.

    benchmarks/gpu.sh --data FOLDER --bccd FOLDER --output FOLDER [--minutes 9] [--parts tests,d2l] [--small] [--keep]

`--data` names a folder with CIFAR-10 as WebDataset shards, `train-*.tar` and `test-*.tar`, also gzipped, `--bccd` one
with the blood cells of BCCD in the layout of VOC. The output folder gets a JSON file for each part, `log.txt` and
`summary.md`; without `--output` it is $OUT, or `gpu-results`.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from part_result import REQUIRED_DATA, PartResult, Status, markdown_table, write_json

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tables import RESULTS, Column, make_result, write_tables  # noqa: E402

NEEDED = ("torch", "torchvision", "numpy", "PIL", "safetensors", "filelock", "rich", "jinja2", "matplotlib", "scipy")
USEFUL = ("sklearn", "typer", "timm", "pytest")


@dataclass(frozen=True)
class Part:
    """A part: its script, the seconds it may take, and what it is for. The last one gets the time that is left."""

    script: str
    seconds: int
    title: str
    aim: str
    uses_cifar10: bool = False
    needs: str = ""
    arguments: tuple[str, ...] = ()


PARTS = {
    "tests": Part("part_tests.py", 110, "tests on the GPU", "all pass"),
    "d2l": Part("part_steps.py", 80, "training step of resnet18_d2l, 1x96x96", "93,000 images/s", arguments=("d2l",)),
    "resnet50": Part(
        "part_steps.py", 150, "training step of resnet50, 3x224x224", "torchvision's", arguments=("resnet50",)
    ),
    "fast": Part("part_fast.py", 400, "time to accuracy on CIFAR-10", "94 % in 5 s, 96 % in 40 s", True, "data"),
    "detection": Part(
        "part_detection.py", 900, "detection of blood cells", "AP50 0.87 after 15 epochs, 0.90 after 45", True, "bccd"
    ),
    "fig6": Part("part_fig6.py", 3600, "He et al. 2015, Fig. 6", "64,000 steps, several seeds", True, "data"),
}
SMALL_SECONDS = 240


class Runner:
    """Runs parts one after another until `deadline`, a time of `time.monotonic`."""

    def __init__(self, args: argparse.Namespace, output: Path, temp: Path) -> None:
        self.output, self.temp, self.small, self.bccd = output, temp, args.small, args.bccd
        self.deadline = time.monotonic() + 60 * args.minutes
        self.log = (output / "log.txt").open("a", encoding="utf-8")
        self.environment = os.environ | {
            "RESLAB_CACHE": str(temp / "cache"),
            "MPLBACKEND": "Agg",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self.environment.setdefault("HF_HUB_OFFLINE", "1")
        self.environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(temp / "inductor"))
        if args.small:
            self.environment["OMP_NUM_THREADS"] = "1"

    def start(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a script of this folder in a session of its own; what it prints goes to the log."""
        command = [sys.executable, "-X", "faulthandler", str(HERE / script), *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def run(self, name: str, data: Path | None, reserve: float) -> dict[str, Any]:
        """Run a part, leaving `reserve` seconds for those after it; return its result, which is also on disk."""
        part, path, start = PARTS[name], self.output / f"{name}.json", time.monotonic()
        left = self.deadline - start - reserve
        limit = max(1.0, min(SMALL_SECONDS if self.small else part.seconds, left))
        folders = {"data": data, "bccd": self.bccd}
        if part.needs and folders[part.needs] is None and not (self.small and part.needs == "bccd"):
            return self._skip(path, part, REQUIRED_DATA[part.needs])
        if left < 20 and not self.small:
            return self._skip(path, part, "no time left")
        arguments = [*part.arguments, "--result", str(path), "--seconds", str(limit)]
        arguments += [text for name, folder in folders.items() if folder for text in (f"--{name}", str(folder))]
        arguments += ["--small"] if self.small else []
        print(f"\n== {name}: {part.title} (at most {limit:.0f} s)", file=self.log, flush=True)
        process, status = self.start(part.script, *arguments), Status.FAILED
        try:
            if process.wait(limit + 5) == 0:
                status = Status.DONE
        except subprocess.TimeoutExpired:
            status = Status.TIMED_OUT
        finally:
            kill_session(process)
        return self._record(path, part, status, time.monotonic() - start, process.returncode)

    def _skip(self, path: Path, part: Part, reason: str) -> dict[str, Any]:
        result = PartResult(path)
        result.set_line(reason)
        return self._record(path, part, Status.SKIPPED, 0.0)

    def _record(
        self, path: Path, part: Part, status: Status, seconds: float, exit_code: int | None = 0
    ) -> dict[str, Any]:
        """Add to what the part has written how it ended, and print its line."""
        values: dict[str, Any] = {"status": Status.RUNNING, "line": "", "tables": {}, "notes": [], "data": {}}
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(path.read_text(encoding="utf-8"))
        is_final = values["status"] in (Status.SKIPPED, Status.FAILED) and status is Status.DONE
        values |= {"title": part.title, "aim": part.aim, "seconds": round(seconds, 1)}
        values["status"] = values["status"] if is_final else status
        if status in (Status.FAILED, Status.TIMED_OUT) and not values["line"]:
            values["line"] = "nothing measured; see log.txt"
        if exit_code:
            values["notes"].append(f"ended with exit code {exit_code}")
        write_json(path, values)
        print(f"{part.title}: {values['status']} after {seconds:.0f} s. {values['line']}", flush=True)
        return values


def kill_session(process: "subprocess.Popen[bytes]") -> None:
    """End a process that `Runner.start` started, with all its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def old_packages(required: Sequence[str]) -> list[str]:
    """Return the packages whose versions are below those that pyproject.toml requires."""
    requirements = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    old = []
    for text in requirements["project"]["dependencies"]:
        name, _, rest = text.partition(">=")
        with contextlib.suppress(PackageNotFoundError):
            required_version, installed = rest.split(",")[0], version(name)
            if name in required and _numbers(installed) < _numbers(required_version):
                old.append(f"{name} {installed}, required {required_version}")
    return old


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text.partition("+")[0])]


def missing_modules(names: tuple[str, ...]) -> list[str]:
    """Return the modules that cannot be found."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def write_summary(output: Path, results: dict[str, dict[str, Any]], machine: dict[str, Any]) -> None:
    """Write summary.md: a line for each part, then the tables and notes of each."""
    rows = [
        {
            "part": name,
            "status": values["status"],
            "s": values["seconds"],
            "aim": values["aim"],
            "result": values["line"],
        }
        for name, values in results.items()
    ]
    lines = ["# GPU benchmark", "", ", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    lines += [markdown_table(rows) if rows else "no part was run", ""]
    for name, values in results.items():
        lines += [f"## {name}: {values['title']}", ""]
        for title, table in values["tables"].items():
            lines += [f"{title}:", "", markdown_table(table), ""]
        lines += [f"* {note}" for note in values["notes"]] + [""]
    (output / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def keep_results(results: dict[str, dict[str, Any]], machine: dict[str, Any], command: str) -> None:
    """Write the tables of each part to `benchmarks/results/gpu-PART.json`, and with them README.md."""
    for name, values in results.items():
        tables = values["tables"]
        rows = [{**({"case": case} if len(tables) > 1 else {}), **row} for case, own in tables.items() for row in own]
        if not rows:
            continue
        columns = [Column(key, key, _column_format([row.get(key) for row in rows])) for key in rows[0]]
        title = values["title"] if len(tables) > 1 else next(iter(tables))
        result = make_result(title, columns, rows, values["notes"])
        result |= {"date": datetime.date.today().isoformat(), "machine": machine, "command": command}
        write_json(RESULTS / f"gpu-{name}.json", result)
    write_tables()


def _column_format(values: Sequence[Any]) -> str:
    numbers = [value for value in values if isinstance(value, float)]
    if not numbers:
        return "d" if any(isinstance(value, int) and not isinstance(value, bool) for value in values) else ""
    return ",.0f" if max(numbers) >= 1000 else ".2f" if max(numbers) > 1 else ".4f"


def start_machine_info(runner: Runner) -> "subprocess.Popen[bytes]":
    """Let a process write device, processor and versions to machine.json, beside the parts: this one has no torch."""
    path = runner.temp / "machine.json"
    code = f"import json; from side_by_side import machine_info; json.dump(machine_info(), open({str(path)!r}, 'w'))"
    command, log = [sys.executable, "-c", code], runner.log
    return subprocess.Popen(command, env=runner.environment, stdout=log, stderr=log, start_new_session=True)


def read_machine_info(runner: Runner) -> dict[str, Any]:
    """Return what `start_machine_info` has found so far."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((runner.temp / "machine.json").read_text(encoding="utf-8")))
    return {"machine": "unknown (see log.txt)"}


def run_parts(runner: Runner, names: list[str], shards: Path | None) -> None:
    """Run the parts in order while the data is unpacked and decoded beside them; the summary grows with each."""
    unpacked = runner.temp / "shards"
    arguments = ["--data", str(shards)] if shards else ["--small"]
    uses_cifar10 = any(PARTS[name].uses_cifar10 for name in names) and (shards is not None or runner.small)
    loader = runner.start("cifar.py", *arguments, "--output", str(unpacked)) if uses_cifar10 else None
    machine_process, results = start_machine_info(runner), {}
    try:
        for index, name in enumerate(names):
            if PARTS[name].uses_cifar10 and loader is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    loader.wait(max(1.0, min(120.0, runner.deadline - time.monotonic())))
            data = unpacked if loader is not None and loader.poll() == 0 else None
            later = sum(min(PARTS[after].seconds, 40) for after in names[index + 1 :])
            results[name] = runner.run(name, data, 0 if runner.small else later)
            write_summary(runner.output, results, read_machine_info(runner))
    finally:
        kill_session(machine_process)
        if loader is not None:
            kill_session(loader)


def main() -> int:
    """Run the benchmark; exit with 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CIFAR10"), help="a folder of shards, or $CIFAR10")
    parser.add_argument("--bccd", type=Path, default=os.environ.get("BCCD"), help="a folder of BCCD, or $BCCD")
    parser.add_argument("--output", type=Path, default=os.environ.get("OUT") or "gpu-results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, separated by commas")
    parser.add_argument("--small", action="store_true", help="tiny settings, to try every part on a CPU")
    parser.add_argument(
        "--keep", action="store_true", help="write benchmarks/results/gpu-*.json and README.md's tables"
    )
    args = parser.parse_args()
    output, names = Path(args.output), args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"required: parts of {', '.join(PARTS)}; got: {', '.join(unknown)}")
    if missing := missing_modules(NEEDED):
        print(f"missing: {', '.join(missing)}; this Python is {sys.executable} (PYTHON=... names another)", flush=True)
    if absent := missing_modules(USEFUL):
        print(f"not installed, so that what needs them is left out: {', '.join(absent)}", flush=True)
    if old := old_packages((*NEEDED, "pillow")):
        print(f"too old: {'; '.join(old)}. WHEELS=FOLDER names a folder with wheels of newer ones", flush=True)
    if missing or old:
        return 1
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temp:
        runner = Runner(args, output, Path(temp))
        run_parts(runner, names, None if args.data is None else Path(args.data))
        machine = read_machine_info(runner)
    print((output / "summary.md").read_text(encoding="utf-8"))
    results = {name: json.loads((output / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    if args.keep:
        keep_results(results, machine, f"python benchmarks/gpu/run.py --data FOLDER --bccd FOLDER --parts {args.parts}")
    return int(any(result["status"] in (Status.FAILED, Status.TIMED_OUT) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
