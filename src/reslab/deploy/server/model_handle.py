"""The served models: each loaded from a weights file, an ended run, or a run in training; requests in batches."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from reslab.deploy.export.verification import load_calibration_images
from reslab.deploy.inputs import InferenceTransform, PreparedImage
from reslab.deploy.predict import image_transform
from reslab.deploy.prediction import OutputForm
from reslab.deploy.prediction_images import GradCam
from reslab.deploy.predictor import AnyPredictor, ImageOutput, build_predictor, class_names
from reslab.deploy.server.ablation import AnalysisModel, DetectorAnalysis
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.dense import DenseNetwork
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.factory import load_model
from reslab.nn.module_network import AnyNetwork, GraphModel, Model, ModuleArch
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.dense import arch_from_dict
from reslab.training.checkpoint import checkpoint_path, load_train_checkpoint
from reslab.training.model_source import open_model
from reslab.training.run import Run

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class DynamicBatcher(Generic[InputT, OutputT]):
    """A thread that computes waiting items in batches of at most `max_batch` and sets the result of each Future.

    There is no waiting time: a batch is whatever was submitted while the previous one was computed. `compute` returns
    one result per item; an exception becomes the result of the whole batch. `on_batch` is called with the size of each
    batch. Cancelled Futures are skipped. The queue is unbounded; callers limit it (`AdmissionLimiter`).
    """

    def __init__(
        self,
        compute: Callable[[Sequence[InputT]], Sequence[OutputT]],
        max_batch: int,
        on_batch: Callable[[int], None] = lambda size: None,
        name: str = "",
    ) -> None:
        self.compute, self.max_batch, self.on_batch = compute, max_batch, on_batch
        self._queue: queue.SimpleQueue[tuple[InputT, Future[OutputT]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"batcher of {name}", daemon=True)
        self._thread.start()

    def submit(self, item: InputT) -> "Future[OutputT]":
        """Queue an item; return the Future of its result."""
        result: Future[OutputT] = Future()
        self._queue.put((item, result))
        return result

    def close(self, wait: bool = True) -> None:
        """Compute what was submitted, then end the thread; with `wait`, return only then."""
        self._queue.put(None)
        if wait:
            self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._process([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _next_batch(self) -> "list[tuple[InputT, Future[OutputT]]] | None":
        """Return the waiting items, or wait for the first one; None after `close`."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self.max_batch:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                self._queue.put(None)
                break
            batch.append(entry)
        return batch

    def _process(self, batch: "list[tuple[InputT, Future[OutputT]]]") -> None:
        if not batch:
            return
        self.on_batch(len(batch))
        try:
            results = self.compute([item for item, _ in batch])
            assert len(results) == len(batch), (len(results), len(batch))
        except Exception as error:  # reported to the waiting callers; the thread must survive
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


_READ_ERRORS = (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError)


@contextmanager
def reading_run(name: str, path: Path) -> Iterator[None]:
    """Turn what reading a changed run raises into HTTPError: 404 if its folder or file is gone, else 503."""
    try:
        yield
    except _READ_ERRORS as error:
        if not path.exists():
            step = "put it back, or restart the server without it"
            raise http_error(404, f"the files of {name}", f"{path.name}, which was moved or deleted", step) from error
        got = f"{type(error).__name__}: {error}"
        raise http_error(503, f"readable files of {name}", got, "try again when they are complete") from error


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded network: `batcher` computes the outputs of prepared images; `analysis_executor` is the one thread that
    runs analyses of `analysis_model`, a copy of the network, which exported graphs and segmentation do not have, or of
    `detector`, which detectors alone have. `mask_grad_cam` explains the masks of a segmentation.

    `checkpoint_step` is the step of the weights of a run in training, None for final weights.
    """

    network: Model
    classes: tuple[str, ...]
    predictor: AnyPredictor
    transform: InferenceTransform
    batcher: DynamicBatcher[PreparedImage, ImageOutput]
    layers: AnalysisModel | None
    detector: DetectorAnalysis | None
    mask_grad_cam: GradCam | None
    analysis_executor: ThreadPoolExecutor
    checkpoint_step: int | None = None

    @property
    def analysis_model(self) -> AnalysisModel:
        """The copy of the network for analyses.

        Raises HTTPError (422) for an exported graph, for segmentation and for detection.
        """
        if self.layers is None:
            is_graph = isinstance(self.network, GraphModel)
            got = "an exported graph" if is_graph else f"one for {self.predictor.task.spec.name}"
            step = "serve a network for classification, or the run that the graph was exported from"
            raise http_error(422, "a network with its layers and outputs for the image", got, step)
        return self.layers

    def close(self) -> None:
        """Finish pending work and end the threads."""
        self.batcher.close()
        self.analysis_executor.shutdown(wait=True)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that was opened already; `path` is its run, its file or, without one, the current folder."""

    name: str
    model: Model
    path: Path = Path()


@dataclass(frozen=True)
class _WeightsFile:
    """The file that weights are read from, and its state when it was read; a checkpoint is replaced in training."""

    path: Path
    is_final: bool
    modified_ns: int


class ModelHandle:
    """A served model by `name`; it is loaded on first use.

    Of a run in training the best weights of the last checkpoint are served, and newer ones once there are any. A model
    that was opened before is served as it is.
    """

    def __init__(
        self, name: str, source: Path | ServedModel, settings: ServerSettings, on_batch: Callable[[int], None]
    ) -> None:
        self.name, self.settings, self.on_batch = name, settings, on_batch
        self.opened = source if isinstance(source, ServedModel) else None
        self.path = source.path if isinstance(source, ServedModel) else source
        self.run = Run(self.path) if (self.path / "run.json").is_file() else None
        self.weights_path = self.path if self.run is None else self.run.weights_path
        self.arch = self._read_arch() if self.opened is None else self.opened.model.arch
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._loaded_file: _WeightsFile | None = None

    def _read_arch(self) -> Arch | DenseArch | ModuleArch:
        """Return the arch from the run or from the header of the weights. ValueError for a custom module."""
        if self.run is None:
            header = read_header(self.weights_path)
            arch = None if header["arch"] is None else arch_from_dict(header["arch"], header.get("kind"))
        else:
            arch = self.run.arch
        if arch is None:
            raise invalid("a reslab network", f"{self.name}, a custom module", next_step="serve another run")
        return arch

    @property
    def is_finished(self) -> bool:
        """True if the final weights exist, or existed when they were loaded."""
        return (
            self.opened is not None
            or self.weights_path.is_file()
            or (self._loaded_file is not None and self._loaded_file.is_final)
        )

    @property
    def has_weights(self) -> bool:
        """True if there are weights to serve: final ones, or those of a checkpoint."""
        return self.opened is not None or self._loaded is not None or self._weights_file() is not None

    @property
    def loaded(self) -> LoadedModel | None:
        """The loaded model, or None before the first `load`."""
        return self._loaded

    @property
    def is_current(self) -> bool:
        """True if the model is loaded and, for a run in training, from the newest checkpoint."""
        if self._loaded is not None and self.opened is not None:
            return True
        if self._loaded is None or self._loaded_file is None:
            return False
        return self._loaded_file.is_final or self._weights_file() in (None, self._loaded_file)

    def _weights_file(self) -> _WeightsFile | None:
        paths = [(self.weights_path, True)]
        if self.run is not None:
            paths.append((checkpoint_path(self.run.path / "checkpoint"), False))
        for path, is_final in paths:
            try:
                return _WeightsFile(path, is_final, path.stat().st_mtime_ns)
            except OSError:
                continue
        return None

    def load(self, wait: bool = False) -> LoadedModel:
        """Load the model unless it is current; keep the loaded one if newer weights cannot be read.

        While another thread reads newer weights, return the loaded ones, or with `wait` those newer ones.

        Raises HTTPError if nothing is loaded: 404 for a run that is gone, 503 for one without weights or with weights
        that cannot be read.
        """
        loaded = self._loaded
        if not self._lock.acquire(blocking=wait or loaded is None):
            assert loaded is not None
            return loaded
        try:
            if not self.is_current:
                self._replace_loaded()
            assert self._loaded is not None
            return self._loaded
        finally:
            self._lock.release()

    def _replace_loaded(self) -> None:
        file = self._weights_file()
        try:
            with reading_run(self.name, self.path):
                if self.opened is not None:
                    network, checkpoint_step = self.opened.model, None
                elif file is None:
                    if not self.path.exists():
                        raise FileNotFoundError(self.path)
                    raise http_error(503, "a run with weights", f"{self.name}, before its first checkpoint", "wait")
                else:
                    network, checkpoint_step = self._read_network(file)
            loaded = self._build(network, checkpoint_step)
        except (HTTPError, ValueError) as error:
            if self._loaded is not None:
                return  # the last good weights stay; the next checkpoint is tried again
            raise error if isinstance(error, HTTPError) else HTTPError(503, str(error)) from error
        if self._loaded is not None:
            # Requests in progress still use the old model: its threads end with the last reference to it.
            weakref.finalize(self._loaded, _end_threads, self._loaded.batcher, self._loaded.analysis_executor)
        self._loaded, self._loaded_file = loaded, file

    def _read_network(self, file: _WeightsFile) -> tuple[AnyNetwork, int | None]:
        if file.is_final or self.run is None:
            return load_model(file.path), None
        return load_training_network(self.run)

    def _build(self, network: Model, checkpoint_step: int | None) -> LoadedModel:
        settings = self.settings
        calibration_images = None
        if settings.precision == "int8" and not isinstance(network, GraphModel):
            calibration_images = load_calibration_images(self.path, network)
        predictor = build_predictor(
            network, settings.backend, settings.precision, settings.device, calibration_images=calibration_images
        )
        assert network.preprocess is not None  # checked by build_predictor

        return LoadedModel(
            network=network,
            classes=class_names(network),
            predictor=predictor,
            transform=image_transform(network, predictor),
            batcher=DynamicBatcher(predictor.compute, settings.max_batch, self.on_batch, self.name),
            layers=None if isinstance(network, GraphModel | DenseNetwork) else AnalysisModel(network, settings.device),
            detector=_detector_analysis(network, predictor, settings.device),
            mask_grad_cam=_mask_grad_cam(network, predictor, settings.device),
            analysis_executor=ThreadPoolExecutor(1, thread_name_prefix=f"analysis of {self.name}"),
            checkpoint_step=checkpoint_step,
        )

    def close(self) -> None:
        """Finish what was begun."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


def _detector_analysis(network: Model, predictor: AnyPredictor, device: str) -> DetectorAnalysis | None:
    if predictor.form is not OutputForm.BOXES or not isinstance(network, DenseNetwork):
        return None
    return DetectorAnalysis(network, device)


def _mask_grad_cam(network: Model, predictor: AnyPredictor, device: str) -> GradCam | None:
    if predictor.form is not OutputForm.MAP or not isinstance(network, DenseNetwork):
        return None
    return GradCam(network, choose_device(device))


def _end_threads(batcher: DynamicBatcher[PreparedImage, ImageOutput], analysis_executor: ThreadPoolExecutor) -> None:
    batcher.close(wait=False)
    analysis_executor.shutdown(wait=False)


def load_training_network(run: Run) -> tuple[AnyNetwork, int]:
    """Return the network of a run in training, in eval mode, and the step of its weights.

    The weights are those that the run would keep if it ended at its last checkpoint: the best on the validation split,
    else their moving average, else the last. Raises ValueError if the checkpoint is missing or cannot be read.
    """
    checkpoint = load_train_checkpoint(run.path / "checkpoint")
    if checkpoint is None or run.arch is None:
        raise invalid("a run with a checkpoint", str(run.path), next_step="wait for its first checkpoint")
    network = build_dense_network(run.arch) if isinstance(run.arch, DenseArch) else ResidualNetwork(run.arch)
    network.load_state_dict(checkpoint.selected_weights())
    preprocess = from_dict(Preprocess, run.metadata["data"]["preprocess"])
    network.set_metadata(classes=run.classes, preprocess=preprocess, task=run.metadata["task"])
    step = checkpoint.step if checkpoint.best is None else int(checkpoint.best["step"])
    return network.eval(), step


def open_served(source: Run | str | Path | ServedModel, allow_code: bool = False) -> Path | ServedModel:
    """Return the path of a run or file of a network of the zoo, which is read again as it changes; else the model."""
    if isinstance(source, ServedModel):
        return source
    path = source.path if isinstance(source, Run) else Path(source)
    if (path / "run.json").is_file() and (isinstance(source, Run) or Run(path).arch is not None):
        return path
    if path.is_file() and path.suffix == ".safetensors" and read_header(path)["arch"] is not None:
        return path
    name = path.name if path.exists() else str(source)
    return ServedModel(name, open_model(source, allow_code=allow_code), path if path.exists() else Path())


def model_names(sources: Sequence[Path | ServedModel]) -> list[str]:
    """Return a unique name for each source: the folder's or file's, with `-2` if taken. ValueError for no sources."""
    if not sources:
        raise invalid("at least one run", "none", next_step="`reslab runs` lists them")
    names: list[str] = []
    for source in sources:
        name = source.name if isinstance(source, ServedModel) else _path_name(source.resolve())
        candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, len(sources) + 1))
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def _path_name(path: Path) -> str:
    return path.name if path.is_dir() else path.parent.name if path.name == "model.safetensors" else path.stem
