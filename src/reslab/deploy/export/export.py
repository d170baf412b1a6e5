"""`export`: a trained network in another program's format, proved there on real pictures before it counts."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reslab.deploy.export.bn_folding import fold, num_norms
from reslab.deploy.export.formats import FORMATS, Format
from reslab.deploy.export.verify import Comparison, Evidence, compare, faults, find_evidence
from reslab.deploy.export.writers import Job
from reslab.deploy.extras import EXTRAS, need_extra
from reslab.nn.checkpoints.safetensors_io import load_weights, read_header
from reslab.nn.network import ResidualNetwork
from reslab.report.pages.export_note import format_export_note
from reslab.runtime.files import room_for, write_whole
from reslab.spec.errors import invalid, unknown_name
from reslab.training.run import Run, find_weights

NUM_IMAGES_FLOAT32 = 256


class ExportFailed(ValueError):
    """What was exported does not compute what the network computes; nothing is left of it."""


@dataclass(frozen=True)
class Exported:
    """An export that proved itself: where it lies, its report beside it, and what the `comparison` found."""

    path: Path
    format: str
    precision: str
    comparison: Comparison
    report: Path
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with the paths of export and report."""
        return {"path": str(self.path), "report": str(self.report), **self.facts}


@dataclass(frozen=True)
class _Origin:
    """What is exported: the network, its weights' header, the run they are of, and their place."""

    network: ResidualNetwork
    header: dict[str, Any]
    run: Run | None
    weights: Path | None


def export(
    source: Run | ResidualNetwork | str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    precision: str = "float32",
    max_drop: float = 1.0,
    num_images: int | None = None,
    force: bool = False,
) -> Exported:
    """Write the network of a run, or of its `model.safetensors`, in the format `to` (`FORMATS`), and prove it.

    What was written is loaded again in its own runtime and asked about pictures of the held-out split of `data` (the
    run's own where None): in float32 outputs within 1e-4 of the network's largest and the same class on each of
    `num_images` (256) pictures; in bf16 and int8 at most `max_drop` points of accuracy lost over all of them. The
    report lies beside it as .json and .md. `output` is `export/NAME` beside the weights where None; `force` replaces.
    Raises ExportFailed, nothing left behind, where the comparison fails; ValueError for an unknown format, a precision
    that it does not have, a network that it cannot hold, and pictures that do not fit; ExtraMissing.
    """
    line = _line(to, precision)
    origin = _open(source)
    target = _target(origin, line, precision, output, force)
    wanted = NUM_IMAGES_FLOAT32 if num_images is None and precision == "float32" else num_images
    evidence = find_evidence(origin.network, origin.run, data, data_dir, wanted)
    network = fold(origin.network) if line.folded else origin.network
    images = evidence.calibration_images() if precision == "int8" else None
    job = Job(network, precision, origin.header, images)
    with _workplace(target) as folder, room_for(target):
        made = folder / target.name
        line.write(job, made)
        found = compare(origin.network, line.open(job, made), evidence.batches())
        _refuse_faults(found, line, precision, max_drop)
        facts = _facts(origin, line, job, evidence, found, max_drop, _num_bytes(folder))
        _move(folder, target)
    report = _report_path(target)
    write_whole(report, (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
    write_whole(report.with_suffix(".md"), format_export_note(facts).encode())
    return Exported(target, to, precision, found, report, facts)


def _line(to: str, precision: str) -> Format:
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    line = FORMATS[to]
    if precision not in line.precisions:
        having = [other.name for other in FORMATS.values() if precision in other.precisions]
        step = f"formats with {precision}: {', '.join(having)}" if having else ""
        raise invalid(f"{' or '.join(line.precisions)} for the format {to}", precision, line.precisions[0], step)
    if line.extra:
        need_extra(line.extra, f"the format {to}")
    return line


def _open(source: Run | ResidualNetwork | str | Path) -> _Origin:
    if isinstance(source, ResidualNetwork):
        return _Origin(source.cpu().eval(), {}, None, None)
    run = source if isinstance(source, Run) else Run(source) if (Path(source) / "run.json").is_file() else None
    weights = find_weights(run or source)
    return _Origin(load_weights(weights), read_header(weights), run, weights)


def _target(origin: _Origin, line: Format, precision: str, output: str | Path | None, force: bool) -> Path:
    """Where the export is to lie; ValueError where something does already."""
    name = origin.network.arch.name + (f"-{precision}" if precision != "float32" else "")
    name += line.ending or f"-{line.name}"
    beside = origin.weights.parent if origin.weights else Path()
    target = beside / "export" / name if output is None else Path(output)
    if output is not None and line.ending:
        target = target / name if target.is_dir() else target
        if target.suffix and target.suffix != line.ending:
            raise invalid(f"a file that ends in {line.ending}", target.name, target.with_suffix(line.ending).name)
        target = target.with_suffix(line.ending)
    if target.exists() and not force:
        raise invalid("a place that is free", f"{target}, which exists", next_step="add --force, or another --output")
    return target


@contextlib.contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, with all that is still in it."""
    before = target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not before:
            with contextlib.suppress(OSError):  # only where nothing came of it
                target.parent.rmdir()


def _move(folder: Path, target: Path) -> None:
    """What was made to its place, the file that is named last of all."""
    for made in sorted(folder.iterdir(), key=lambda path: path.name == target.name):
        place = target.parent / made.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(made, place)


def _refuse_faults(found: Comparison, line: Format, precision: str, max_drop: float) -> None:
    told = faults(found, precision, max_drop)
    if told:
        required = f"an export to {line.name} in {precision} that computes what the network does"
        step = "try another precision, or allow more with --max-drop" if precision != "float32" else ""
        got = f"{'; '.join(told)} (on {found.num_images} pictures); nothing was kept"
        raise ExportFailed(str(invalid(required, got, next_step=step)))


def _facts(
    origin: _Origin,
    line: Format,
    job: Job,
    evidence: Evidence,
    found: Comparison,
    max_drop: float,
    num_bytes: int,
) -> dict[str, Any]:
    packages = ("torch", "torchvision", *EXTRAS.get(line.extra, ()))
    norms = num_norms(origin.network)
    return {
        "model": origin.network.arch.name,
        "source": None if origin.weights is None else str(origin.weights),
        "format": line.name,
        "precision": job.precision,
        "num_bytes": num_bytes,
        "data": evidence.data.name,
        "split": evidence.split,
        "num_images": found.num_images,
        "largest_difference": found.largest_difference,
        "agreement": found.agreement,
        "top1": found.top1,
        "exported_top1": found.exported_top1,
        "drop_points": found.drop_points,
        "max_drop": None if job.precision == "float32" else max_drop,
        "num_norms": norms,
        "num_norms_folded": norms - num_norms(job.network),
        "num_calibration_images": 0 if job.images is None else len(job.images),
        "versions": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _report_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.report.json")
