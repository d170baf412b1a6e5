"""`export`: write a trained network in another format and verify it on real images in that format's runtime."""

import contextlib
import copy
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from reslab.deploy.backends.backend import ForwardFn
from reslab.deploy.export.bn_folding import count_batch_norms, fold_batch_norms
from reslab.deploy.export.formats import EXPORT_FORMATS, ExportFormat, torch_detect
from reslab.deploy.export.quantization import check_int8
from reslab.deploy.export.verification import (
    ExportComparison,
    VerificationData,
    compare_detections,
    compare_outputs,
    failed_checks,
    load_verification_data,
)
from reslab.deploy.export.writers import ExportJob
from reslab.deploy.predictor import model_task
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import AnyNetwork, ModuleNetwork
from reslab.nn.network import ResidualNetwork
from reslab.report.pages.export_note import format_export_note
from reslab.runtime.extras import EXTRAS, require_extra
from reslab.runtime.files import disk_full_guard, write_atomic
from reslab.spec.config import to_dict
from reslab.spec.dense import DetectionArch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.zoo import ARCHS
from reslab.training.checkpoint import find_weights_path
from reslab.training.model_source import module_metadata, open_any_network
from reslab.training.run import Run

NUM_IMAGES_FLOAT32 = 256
# With less than this left, an error of a library that writes files is the disk's.
_LEAST_FREE_BYTES = 1 << 16


class ExportError(ValueError):
    """The exported network does not compute what the network computes; its files are deleted."""


@dataclass(frozen=True)
class ExportResult:
    """A verified export: its path, the report beside it, and the `comparison` with the network."""

    path: Path
    format: str
    precision: str
    comparison: ExportComparison
    report_path: Path
    metadata: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, with the paths of export and report."""
        return {"path": str(self.path), "report": str(self.report_path), **self.metadata}


@dataclass(frozen=True)
class _ExportSource:
    """The source of an export: the network, the header of its weights, its run, and the path of the weights."""

    network: AnyNetwork
    header: dict[str, Any]
    run: Run | None
    weights_path: Path | None


def export(
    source: Any,
    to: str,
    output: str | Path | None = None,
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    precision: str = "float32",
    max_drop: float = 1.0,
    num_images: int | None = None,
    force: bool = False,
    weights: Any = None,
    allow_code: bool = False,
) -> ExportResult:
    """Write a network in the format `to` (EXPORT_FORMATS) and verify it.

    `source`, `weights` and `allow_code` are those of `open_model`: a run, its `model.safetensors`, a name, a module.

    The export is loaded in the format's own runtime and compared on images of the evaluation split of `data` (by
    default the run's own): in float32, outputs must be within 1e-4 of the network's largest output, and the classes of
    the `num_images` (256) images, their labels or their pixels equal, and of a detector its boxes, see
    `compare_detections`; in bf16 and int8, the metric of the task may drop by at most `max_drop` points, or an error
    rise by that many percent, over all images.

    In a graph of a network of the zoo, values of a regression are in the unit of the targets; in other exports they are
    standardized, and the report has their mean and std. A report is written beside the export as .json and .md.
    `output` defaults to `export/NAME` beside the weights; `force` replaces it. Raises ExportError, leaving no files, if
    the comparison fails; ValueError for an unknown format, an unsupported precision or network, and unsuitable images;
    MissingExtraError.
    """
    export_format = _get_format(to, precision)
    export_source = _open_source(source, weights, allow_code)
    _check_network(export_source.network, export_format, precision)
    target = _resolve_output(export_source, export_format, precision, output, force)
    num_requested = NUM_IMAGES_FLOAT32 if num_images is None and precision == "float32" else num_images
    verification_data = load_verification_data(export_source.network, export_source.run, data, data_dir, num_requested)
    network = _fold(export_source.network) if export_format.is_graph else _with_task(export_source.network)
    calibration_images = verification_data.calibration_images() if precision == "int8" else None
    job = ExportJob(network, precision, export_source.header, calibration_images)
    with _temporary_folder(target) as folder, _disk_full_guard(target):
        temporary_path = folder / target.name
        _write(export_format, job, temporary_path)
        comparison = _compare(export_source.network, export_format, job, temporary_path, verification_data)
        _check_comparison(comparison, export_format, precision, max_drop)
        metadata = {
            **_network_metadata(export_source, job),
            "format": to,
            "precision": precision,
            "num_bytes": _folder_size(folder),
            "data": verification_data.data.name,
            "split": verification_data.split,
            **comparison.to_dict(),
            "max_drop": None if precision == "float32" else max_drop,
            **_fold_metadata(export_source.network, job),
            "versions": _package_versions(export_format),
        }
        _move_into_place(folder, target)
    report_path = _report_path(target)
    write_atomic(report_path, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(report_path.with_suffix(".md"), format_export_note(metadata).encode())
    return ExportResult(
        path=target,
        format=to,
        precision=precision,
        comparison=comparison,
        report_path=report_path,
        metadata=metadata,
    )


def _compare(
    original: AnyNetwork, export_format: ExportFormat, job: ExportJob, path: Path, verification_data: VerificationData
) -> ExportComparison:
    """Load the export in its runtime, and compare it with the original network."""
    task, batches = model_task(job.network), verification_data.batches()
    if isinstance(original, DenseNetwork) and isinstance(original.arch, DetectionArch):
        assert export_format.detector is not None  # checked by `_check_network`
        exported = export_format.detector.load(job, path)
        return compare_detections(torch_detect(original), exported, batches, task, original.arch)
    return compare_outputs(_original_outputs(original, job.network), export_format.load(job, path), batches, task)


def _fold(network: AnyNetwork) -> AnyNetwork:
    """Return a copy with batch norms folded and, where its last layer is linear, outputs that are predictions."""
    folded = fold_batch_norms(network)
    if isinstance(folded, ResidualNetwork) and isinstance(folded.fc, nn.Linear):
        folded.set_metadata(task=model_task(network).fold_into(folded.fc).to_dict())
    if isinstance(folded, DenseNetwork):
        folded.set_metadata(task=model_task(network).to_dict())
    return folded


def _with_task(network: AnyNetwork) -> AnyNetwork:
    """Return a network for segmentation or detection with its task, a copy with the same weights; others as they are.

    Their weights alone do not determine the task.
    """
    if not isinstance(network, DenseNetwork):
        return network
    copied = copy.copy(network)
    copied.set_metadata(task=model_task(network).to_dict())
    return copied


def _original_outputs(network: AnyNetwork, exported: AnyNetwork) -> ForwardFn:
    """Return the network's outputs as the exported one has them: decoded, if its last layer was changed for it."""
    task = model_task(network)
    if exported.task in (None, network.task, task.to_dict()):
        return network
    return lambda x: task.decode(network(x))


def _disk_full_guard(target: Path) -> contextlib.AbstractContextManager[None]:
    saved = f"the unfinished export was deleted{', the earlier one is intact' * target.exists()}"
    return disk_full_guard(target, saved, "run the same command again, or add --output with a folder of another disk")


def _write(export_format: ExportFormat, job: ExportJob, path: Path) -> None:
    """Write the export. Raises OSError for a full disk, also where a library raises something else for it."""
    is_detector = isinstance(job.network.arch, DetectionArch)
    write = export_format.detector.write if is_detector and export_format.detector else export_format.write
    try:
        write(job, path)
    except (RuntimeError, ValueError) as error:
        if shutil.disk_usage(path.parent).free < _LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _check_network(network: AnyNetwork, export_format: ExportFormat, precision: str) -> None:
    """Raise ValueError for a network that the format or the precision does not take."""
    if isinstance(network.arch, DetectionArch):
        _check_detector(network.arch, export_format)
    if isinstance(network, DenseNetwork) and not (export_format.is_graph or export_format.takes_dense):
        required = f"a network with outputs for the whole image for the format {export_format.name}"
        got = f"{network.arch.name} for {network.arch.kind}"
        raise invalid(required, got, next_step="--to safetensors, onnx, torch or openvino")
    if isinstance(network, ModuleNetwork) and not export_format.is_graph:
        required = f"a network of the zoo for the format {export_format.name}"
        raise invalid(required, network.arch.name, next_step="--to onnx, torch or openvino take any network")
    if precision == "int8":
        check_int8(network)


def _check_detector(arch: DetectionArch, export_format: ExportFormat) -> None:
    formats = [name for name, known in EXPORT_FORMATS.items() if known.detector is not None]
    if export_format.detector is None:
        step = "the selection of boxes between its networks is no part of a graph"
        raise invalid(f"{' or '.join(formats)} for {arch.name}, a detector", export_format.name, formats[-1], step)


def _get_format(to: str, precision: str) -> ExportFormat:
    if to not in EXPORT_FORMATS:
        raise unknown_name("format", to, EXPORT_FORMATS)
    export_format = EXPORT_FORMATS[to]
    if precision not in export_format.precisions:
        alternatives = [other.name for other in EXPORT_FORMATS.values() if precision in other.precisions]
        step = f"formats with {precision}: {', '.join(alternatives)}" if alternatives else ""
        raise invalid(
            f"{' or '.join(export_format.precisions)} for the format {to}", precision, export_format.precisions[0], step
        )
    if export_format.extra:
        require_extra(export_format.extra, f"the format {to}")
    return export_format


def _open_source(source: Any, weights: Any, allow_code: bool) -> _ExportSource:
    network = open_any_network(source, weights=weights, allow_code=allow_code).cpu().eval()
    weights_source = source if weights is None else weights
    is_name = isinstance(weights_source, str) and (weights_source in ARCHS or not Path(weights_source).exists())
    if is_name or not isinstance(weights_source, Run | str | Path):
        return _ExportSource(network, {}, None, None)
    run = (
        weights_source
        if isinstance(weights_source, Run)
        else Run(weights_source)
        if (Path(weights_source) / "run.json").is_file()
        else None
    )
    weights_path = find_weights_path(run or weights_source)
    return _ExportSource(network, _read_header(weights_path), run, weights_path)


def _read_header(path: Path) -> dict[str, Any]:
    """Return the header of a file of reslab; that of another library's has none."""
    checkpoint = read_checkpoint(path) if path.suffix == ".safetensors" else None
    return dict(checkpoint.header) if checkpoint else {}


def _resolve_output(
    export_source: _ExportSource, export_format: ExportFormat, precision: str, output: str | Path | None, force: bool
) -> Path:
    """Return the path of the export; ValueError if it exists and `force` is false."""
    name = export_source.network.arch.name + (f"-{precision}" if precision != "float32" else "")
    name += export_format.suffix or f"-{export_format.name}"
    parent = export_source.weights_path.parent if export_source.weights_path else Path()
    target = parent / "export" / name if output is None else Path(output)
    if output is not None and export_format.suffix:
        target = target / name if target.is_dir() else target
        if target.suffix and target.suffix != export_format.suffix:
            raise invalid(
                f"a file that ends in {export_format.suffix}",
                target.name,
                target.with_suffix(export_format.suffix).name,
            )
        target = target.with_suffix(export_format.suffix)
    if target.exists() and not force:
        raise invalid("a new path", f"{target}, which exists", next_step="add --force, or another --output")
    return target


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Create a temporary folder beside the target, deleted afterwards with its content."""
    parent_existed = target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not parent_existed:
            with contextlib.suppress(OSError):  # succeeds only if the folder is empty: the export failed
                target.parent.rmdir()


def _move_into_place(folder: Path, target: Path) -> None:
    """Move the exported files to their paths, the target last, so that it exists only if all files do."""
    for item in sorted(folder.iterdir(), key=lambda path: path.name == target.name):
        destination = target.parent / item.name
        if destination.is_dir():
            shutil.rmtree(destination)
        os.replace(item, destination)


def _check_comparison(
    comparison: ExportComparison, export_format: ExportFormat, precision: str, max_drop: float
) -> None:
    failures = failed_checks(comparison, precision, max_drop)
    if failures:
        required = f"an export to {export_format.name} in {precision} that computes what the network does"
        step = "try another precision, or allow more with --max-drop" if precision != "float32" else ""
        got = f"{'; '.join(failures)} (on {comparison.num_images} images); the export was deleted"
        raise ExportError(str(invalid(required, got, next_step=step)))


def _network_metadata(export_source: _ExportSource, job: ExportJob) -> dict[str, Any]:
    return {
        "model": export_source.network.arch.name,
        **module_metadata(job.network),
        **({"detector": to_dict(job.network.arch)} if isinstance(job.network.arch, DetectionArch) else {}),
        "weights": None if export_source.weights_path is None else str(export_source.weights_path),
    }


def _fold_metadata(original: AnyNetwork, job: ExportJob) -> dict[str, int]:
    num_batch_norms = count_batch_norms(original)
    return {
        "num_batch_norms": num_batch_norms,
        "num_batch_norms_folded": num_batch_norms - count_batch_norms(job.network),
        "num_calibration_images": 0 if job.calibration_images is None else len(job.calibration_images),
    }


def _package_versions(export_format: ExportFormat) -> dict[str, str]:
    packages = ("torch", "torchvision", *EXTRAS.get(export_format.extra, ()))
    return {name: _package_version(name) for name in packages}


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _report_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.report.json")
