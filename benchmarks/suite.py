"""Run the benchmarks one after another, and write their figures to results/ or records/, their tables to README.md.

    python benchmarks/suite.py --fashion-mnist DIR --cifar10 DIR         (make bench)
    python benchmarks/suite.py --only train-step,startup                 those whose names begin so
    python benchmarks/suite.py --quick                                   tries each shortly; its figures are not kept

A benchmark whose data are not given is skipped. The outputs are in build/benchmarks/NAME.log.
"""

import argparse
import json
import os
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tables import PAGE, result_path, table_names, write_tables

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "build" / "benchmarks"
# The options that name data, also given by an environment variable (BENCHMARK_FASHION_MNIST).
DATA = {
    "fashion-mnist": "folder of Fashion-MNIST",
    "cifar10": "folder of CIFAR-10, as files or WebDataset shards",
    "photos": "folder with `train` and `val` of JPEG files, in folders by class (ants and bees)",
    "pennfudan": "folder of the Penn-Fudan pedestrians, with PNGImages/ and PedMasks/",
    "bccd": "folder of BCCD, with JPEGImages/, Annotations/ and ImageSets/",
    "cifar-weights": "weights of a CIFAR-10 ResNet-20 with shortcuts of option A",
}
ROUNDS_QUICK = "--rounds 1 --seconds 0.1"
ONE_THREAD = "--threads 1 --processor-time"


@dataclass(frozen=True)
class Benchmark:
    """A table of README.md and the command that measures it; `{fashion-mnist}` in it is a folder of DATA.

    `minutes` is about how long it takes on two cores. `quick` shortens it to a trial. `{output}` is a new folder. The
    command takes `--threads 1 --processor-time` if `has_threads`. `draw` draws a figure of what was kept.
    """

    name: str
    command: str
    minutes: float
    quick: str = ROUNDS_QUICK
    has_threads: bool = True
    draw: str = ""

    @property
    def is_record(self) -> bool:
        """Whether this is a time to accuracy, whose figures and log belong to the folder of its script."""
        return self.command.startswith("records/")

    @property
    def needed_data(self) -> list[str]:
        """The names of the data that the command needs."""
        fields = [field for _, field, _, _ in string.Formatter().parse(self.command) if field]
        return [field for field in fields if field in DATA]

    def arguments(self, values: Mapping[str, str], extra: str = "") -> list[str]:
        """Return the words of the command with these values."""
        return [word.format_map(values) for word in f"benchmarks/{self.command} {extra}".split()]


def record(name: str, minutes: float, options: str = "") -> Benchmark:
    """Return the benchmark of a folder of records/, which trains with five seeds."""
    return Benchmark(name, f"records/{name}/record.py {options}".rstrip(), minutes, "--seeds 1", has_threads=False)


BENCHMARKS = (
    Benchmark("train-step-resnet18_d2l", "train_step.py resnet18_d2l", 5),
    Benchmark("train-step-resnet20_cifar", "train_step.py resnet20_cifar", 4),
    Benchmark("train-step-resnet50", "train_step.py resnet50", 15),
    Benchmark("step-profile", "step_profile.py", 6),
    Benchmark(
        "growth",
        "growth.py",
        8,
        "--rounds 1 --seconds 0.1 --growths batch",
        has_threads=False,
        draw="benchmarks/growth.py --draw",
    ),
    Benchmark(
        "activation-checkpointing", "activation_checkpointing.py", 2, "--depth 20 --batch-size 8", has_threads=False
    ),
    record("2026-11-29_fashion-muon", 2, "--data-dir {fashion-mnist}"),
    record("2026-11-30_fashion-low-rate", 5, "--data-dir {fashion-mnist}"),
    record("2026-11-30_fashion-cutout", 17, "--data-dir {fashion-mnist}"),
    record("2026-11-29_cifar10-half-width", 30, "--data {cifar10}"),
    record("2026-11-30_cifar10-full-width", 35, "--data {cifar10} --seeds 1"),
    record("2026-11-29_small-digits", 1),
    Benchmark(
        "lr-finder",
        "lr_finder.py --fashion {fashion-mnist} --tasks fashion --grid 0.03,0.1,0.3",
        20,
        "--seeds 1 --grid 0.1",
        has_threads=False,
    ),
    Benchmark(
        "photos-from-scratch",
        "photos_from_scratch.py {output} --shards {cifar10}",
        20,
        "--epochs 1 --seeds 1",
        has_threads=False,
    ),
    Benchmark(
        "segmentation",
        "segmentation_pennfudan.py {pennfudan} --cifar10 {cifar10} --output {output}",
        30,
        "--epochs 0.1 --backbone-epochs 0.01 --size 64",
        has_threads=False,
    ),
    Benchmark(
        "detection",
        "detection_bccd.py {bccd} --cifar10 {cifar10} --output {output}",
        150,
        "--epochs 0.1 --backbone-epochs 0.01 --seeds 0",
        has_threads=False,
    ),
    Benchmark("jpeg-folder", "jpeg_folder.py {photos}/train", 1),
    Benchmark("jpeg-folder-large", "jpeg_folder.py {photos}/train --enlarge 4", 2),
    Benchmark("predict-folder", "predict_folder.py {photos}/train", 3),
    Benchmark(
        "server",
        "server.py --model resnet50 --backend openvino --seconds 15 --repeats 2",
        2,
        "--seconds 1 --repeats 1",
        has_threads=False,
    ),
    Benchmark("predict-backends-1", "predict_backends.py --batch-size 1", 4),
    Benchmark("predict-backends-16", "predict_backends.py --batch-size 16", 6),
    Benchmark(
        "agreement", "predict_backends.py --agreement {cifar-weights} --data-dir {cifar10}", 10, "--num-images 200"
    ),
    Benchmark("startup", "startup.py", 2, "--rounds 1", has_threads=False),
    Benchmark("build", "build.py resnet50", 1, "--rounds 1", has_threads=False),
)


def data_folders(args: argparse.Namespace) -> dict[str, str]:
    """Return the data that options or environment variables name, as absolute paths."""
    given = {name: getattr(args, name.replace("-", "_")) or os.environ.get(variable(name)) for name in DATA}
    return {name: str(Path(path).resolve()) for name, path in given.items() if path}


def variable(name: str) -> str:
    """Return the environment variable of data: BENCHMARK_FASHION_MNIST."""
    return f"BENCHMARK_{name.upper().replace('-', '_')}"


def select(only: str) -> list[Benchmark]:
    """Return the benchmarks whose names begin with one of the words, separated by commas."""
    words = only.split(",") if only else [""]
    for word in words:
        if not any(benchmark.name.startswith(word) for benchmark in BENCHMARKS):
            names = ", ".join(benchmark.name for benchmark in BENCHMARKS)
            raise SystemExit(f"--only takes beginnings of names, not {word!r}; the names: {names}")
    return [benchmark for benchmark in BENCHMARKS if benchmark.name.startswith(tuple(words))]


def run(benchmark: Benchmark, folders: Mapping[str, str], extra: str, keep: bool) -> bool:
    """Run a benchmark with its output in a log file; keep its figures and write its table; return its success."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log, figures = LOGS / f"{benchmark.name}.log", LOGS / f"{benchmark.name}.json"
    figures.unlink(missing_ok=True)
    output = LOGS / benchmark.name / time.strftime("%Y%m%d-%H%M%S")
    command = [sys.executable, *benchmark.arguments({**folders, "output": str(output)}, extra), "--json", str(figures)]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    if process.returncode or not figures.exists():
        return False
    if keep:
        # The names of the data in place of this machine's paths.
        names = {**{name: name.upper() for name in DATA}, "output": "OUTPUT"}
        command_text = " ".join(["python", *benchmark.arguments(names, extra)])
        result = json.loads(figures.read_text(encoding="utf-8")) | {"command": command_text}
        path = result_path(benchmark.name, benchmark.is_record)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if benchmark.is_record:
            shutil.copy(log, path.with_name("log.txt"))
        write_tables()
        if benchmark.draw:
            subprocess.run([sys.executable, *benchmark.draw.split()], cwd=ROOT, check=True)
    return True


def run_all(benchmarks: Sequence[Benchmark], folders: Mapping[str, str], args: argparse.Namespace) -> list[str]:
    """Run the benchmarks whose data are given, with a line for each; return the names of those that failed."""
    failed = []
    for number, benchmark in enumerate(benchmarks, 1):
        print(f"[{number}/{len(benchmarks)}] {benchmark.name:<28}", end="", flush=True)
        missing = [name for name in benchmark.needed_data if name not in folders]
        if missing:
            print(" ".join(f"skipped: --{name} or {variable(name)} is not given" for name in missing))
            continue
        extra = " ".join([benchmark.quick] * args.quick + [ONE_THREAD] * (args.one_thread and benchmark.has_threads))
        start = time.perf_counter()
        succeeded = run(benchmark, folders, extra, keep=not args.quick)
        minutes = (time.perf_counter() - start) / 60
        log = (LOGS / f"{benchmark.name}.log").relative_to(ROOT)
        print(f"{minutes:6.1f} min  {'done' if succeeded else 'FAILED'}, output in {log}")
        failed += [] if succeeded else [benchmark.name]
    return failed


def main() -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in DATA.items():
        parser.add_argument(f"--{name}", metavar="PATH", help=f"{text} [${variable(name)}]")
    parser.add_argument("--only", default="", metavar="NAMES", help="beginnings of names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="try every benchmark for a moment, and keep no figures")
    parser.add_argument("--one-thread", action="store_true", help="one thread and processor time: for a busy machine")
    args = parser.parse_args()
    benchmarks, folders = select(args.only), data_folders(args)
    if lost := {benchmark.name for benchmark in benchmarks} - set(table_names(PAGE.read_text(encoding="utf-8"))):
        raise SystemExit(f"README.md has no marker `<!-- table: NAME -->` for {', '.join(sorted(lost))}")
    runnable = [benchmark for benchmark in benchmarks if all(name in folders for name in benchmark.needed_data)]
    minutes = sum(benchmark.minutes for benchmark in runnable)
    estimate = "a few minutes" if args.quick else f"about {minutes:.0f} minutes on two cores"
    print(f"{len(runnable)} of {len(benchmarks)} benchmarks have their data: {estimate}")
    if failed := run_all(benchmarks, folders, args):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
