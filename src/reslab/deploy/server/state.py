"""The service as a whole: its networks by name, the room there is, the threads that decode, how a request is met.

How much may be in the house at once: images in hand, bytes in memory; beyond it one is turned away at the door.

A network that is served: its name, where it lies, and, once its weights are there, what answers for it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from starlette.requests import Request
from torch import Tensor

from reslab.deploy.export.verify import load_calibration_images
from reslab.deploy.inputs import InferenceTransform
from reslab.deploy.predict import Predictor, build_predictor, class_names
from reslab.deploy.server.ablation import AnalysisModel
from reslab.deploy.server.batching import DynamicBatcher
from reslab.deploy.server.errors import HTTPError, http_error, too_many_requests
from reslab.deploy.server.images import decode_image
from reslab.deploy.server.middleware import ServerMetrics
from reslab.deploy.server.requests import RequestBody, parse_body, read_request_bytes
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.factory import load_network
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.errors import invalid, unknown_name
from reslab.training.run import Run


class AdmissionLimiter:
    """Counts the images and bytes of the requests in hand. Used from the event loop alone, so it needs no lock."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.num_images = 0
        self.num_bytes = 0

    def admit(self) -> "Admission":
        """A place for a request and its first image. Raises HTTPError (429) where there is none."""
        return Admission(self)


class Admission:
    """The places that one request holds; all are given back when its `with` block ends."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self.limiter, self.num_images, self.num_bytes = limiter, 0, 0
        self.reserve_images(1)

    def reserve_images(self, count: int) -> None:
        """Places for so many images. Raises HTTPError (429)."""
        if self.limiter.num_images + count > self.limiter.max_images:
            raise too_many_requests(f"{self.limiter.num_images} images in hand of at most {self.limiter.max_images}")
        self.limiter.num_images += count
        self.num_images += count

    def reserve_bytes(self, count: int) -> None:
        """Memory for so many more bytes. Raises HTTPError (429)."""
        if self.limiter.num_bytes + count > self.limiter.max_bytes:
            raise too_many_requests(f"{self.limiter.num_bytes} bytes in hand of at most {self.limiter.max_bytes}")
        self.limiter.num_bytes += count
        self.num_bytes += count

    def __enter__(self) -> "Admission":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        self.limiter.num_images -= self.num_images
        self.limiter.num_bytes -= self.num_bytes
        self.num_images = self.num_bytes = 0


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What answers for a network: `line` its predictions, as probabilities (classes,) of a prepared image; `study`
    one thread for looking into `specimen`, a copy of it."""

    network: ResidualNetwork
    classes: tuple[str, ...]
    predictor: Predictor
    transform: InferenceTransform
    batcher: DynamicBatcher[Tensor, Tensor]
    analysis_model: AnalysisModel
    analysis_executor: ThreadPoolExecutor

    def close(self) -> None:
        """Finish what was begun."""
        self.batcher.close()
        self.analysis_executor.shutdown(wait=True)


class ModelHandle:
    """One network by `name`; of a run in training the weights come later, and are opened when first asked for."""

    def __init__(self, name: str, path: Path, settings: ServerSettings, on_batch: Callable[[int], None]) -> None:
        self.name, self.path, self.settings, self.on_batch = name, path, settings, on_batch
        self.run = Run(path) if path.is_dir() else None
        self.weights_path = path if self.run is None else self.run.weights_path
        self.arch = self._read_arch()
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None

    def _read_arch(self) -> Arch:
        """The network as data, from the run or from the header of its weights. ValueError for a foreign module."""
        if self.run is None:
            arch_dict = read_header(self.weights_path)["arch"]
            arch = None if arch_dict is None else from_dict(Arch, arch_dict)
        else:
            arch = self.run.arch
        if arch is None:
            raise invalid("a reslab network", f"{self.name}, a module of its own", next_step="serve another run")
        return arch

    @property
    def has_weights(self) -> bool:
        """Whether there are weights."""
        return self.weights_path.is_file()

    @property
    def loaded(self) -> LoadedModel | None:
        """What answers, where it was opened before."""
        return self._loaded

    def load(self) -> LoadedModel:
        """What answers. Raises HTTPError (503) while a run has no weights yet."""
        with self._lock:
            if self._loaded is None:
                if not self.has_weights:
                    raise http_error(503, "a run that has ended", f"{self.name}, still in training", "ask again later")
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> LoadedModel:
        network = load_network(self.weights_path)
        settings = self.settings
        calibration_images = load_calibration_images(self.path, network) if settings.precision == "int8" else None
        predictor = build_predictor(
            network, settings.backend, settings.precision, settings.device, calibration_images=calibration_images
        )
        assert network.preprocess is not None  # open_answering refuses a network without

        def compute(images: Sequence[Tensor]) -> Sequence[Tensor]:
            return list(predictor.probabilities(predictor(images)))

        return LoadedModel(
            network=network,
            classes=class_names(network),
            predictor=predictor,
            transform=InferenceTransform(network.preprocess, network.arch.image_size),
            batcher=DynamicBatcher(compute, settings.max_batch, self.on_batch, self.name),
            analysis_model=AnalysisModel(network, settings.device),
            analysis_executor=ThreadPoolExecutor(1, thread_name_prefix=f"study of {self.name}"),
        )

    def close(self) -> None:
        """Finish what was begun."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


def model_names(paths: Sequence[Path]) -> list[str]:
    """A name for each: the folder's, or the file's, `-2` after a name that is taken. ValueError where there is none."""
    if not paths:
        raise invalid("at least one run", "none", next_step="`reslab runs` lists them")
    names: list[str] = []
    for source in paths:
        path = source.resolve()
        name = path.name if path.is_dir() else path.parent.name if path.name == "model.safetensors" else path.stem
        candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, len(paths) + 1))
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


ResultT = TypeVar("ResultT")
_LARGE_BODY_BYTES = 1 << 16


class AppState:
    """What every route stands on. Raises ValueError where a run cannot be served."""

    def __init__(self, runs: Sequence[Run | str | Path], settings: ServerSettings) -> None:
        self.settings = settings
        self.limiter = AdmissionLimiter(settings.max_in_flight, settings.max_bytes_in_flight)
        self.analysis_limiter = AdmissionLimiter(settings.max_analyses, 0)
        self.metrics = ServerMetrics(lambda: self.limiter.num_images)
        self.decode_executor = ThreadPoolExecutor(settings.num_decode_threads, thread_name_prefix="decode")
        paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
        self.models = {
            name: ModelHandle(name, path, settings, self.metrics.batch_size_observer(name))
            for name, path in zip(model_names(paths), paths, strict=True)
        }

    def load_models(self) -> None:
        """Open every network whose weights are there."""
        for handle in self.models.values():
            if handle.has_weights:
                handle.load()

    def close(self) -> None:
        """Finish what was begun, then end the threads."""
        self.decode_executor.shutdown(wait=True)
        for handle in self.models.values():
            handle.close()

    def get_model(self, name: str) -> ModelHandle:
        """The network of this name, the first where it is empty. Raises HTTPError (404) with the nearest names."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise HTTPError(404, str(unknown_name("model", name, self.models, "GET /v1/models lists them")))
        return self.models[name]

    async def load_model(self, name: str) -> LoadedModel:
        """What answers for it. Raises HTTPError: 404, or 503 while it has no weights."""
        handle = self.get_model(name)
        loaded = handle.loaded
        return await asyncio.to_thread(handle.load) if loaded is None else loaded

    @asynccontextmanager
    async def request_context(self, request: Request, allowed_fields: Sequence[str] = ()) -> AsyncIterator[RequestBody]:
        """The body of a request that is let in: it has its places until it is answered, and is answered in time.

        `keys` are the fields it may have beside its images. Raises HTTPError: 429 at once where there is no place, 504
        when the time is over (what was begun is dropped), and as `bodies` says.
        """
        settings = self.settings
        with self.limiter.admit() as admission:
            content = await read_request_bytes(
                request, settings.max_bytes, admission.reserve_bytes, settings.timeout_seconds
            )
            arguments = content, request.headers, allowed_fields, settings.max_images
            # Long JSON takes its time to be read, in which the others are not to wait.
            body = (
                await asyncio.to_thread(parse_body, *arguments)
                if len(content) > _LARGE_BODY_BYTES
                else parse_body(*arguments)
            )
            admission.reserve_images(max(0, len(body.images) - 1))
            async with self.time_limit():
                yield body

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """What is done inside ends in time, or is dropped. Raises HTTPError (504)."""
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                yield
        except TimeoutError:
            got = f"none after {self.settings.timeout_seconds:g}"
            raise http_error(504, "an answer within the seconds allowed", got, "try again later") from None

    async def decode(self, content: bytes, loaded: LoadedModel) -> Tensor:
        """An image made ready, in a thread. Raises HTTPError (413, 415, 422)."""
        future = self.decode_executor.submit(decode_image, content, loaded.transform, self.settings.max_pixels)
        return await asyncio.wrap_future(future)

    async def predict(self, content: bytes, loaded: LoadedModel) -> Tensor:
        """Probabilities (classes,) of an image: decoded in a thread, which puts it into the network's line itself.

        Raises HTTPError as `decode`.
        """
        result: Future[Tensor] = Future()
        self.decode_executor.submit(self._decode_and_submit, result, content, loaded)
        return await asyncio.wrap_future(result)

    def _decode_and_submit(self, result: Future[Tensor], content: bytes, loaded: LoadedModel) -> None:
        if result.cancelled():
            return
        try:
            image = decode_image(content, loaded.transform, self.settings.max_pixels)
        except Exception as error:  # told to the one who waits, unless nobody does any more
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
            return
        loaded.batcher.submit(image, result)

    async def run_analysis(self, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """What `ask` finds out, in the thread that looks into this network. Raises HTTPError (429) where many wait."""
        with self.analysis_limiter.admit():
            return await self.run_internal_analysis(loaded, fn, *args)

    async def run_internal_analysis(self, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """The same for the service's own work, which is never turned away."""
        return await asyncio.wrap_future(loaded.analysis_executor.submit(fn, *args))


def single_image(body: RequestBody) -> bytes:
    """The only image of a body. Raises HTTPError (422) for none, and for several."""
    if len(body.images) != 1:
        got = f"{len(body.images)} images" if body.images else "none"
        raise http_error(422, "one image", got, "send it as the body, as a form's image, or as image in JSON")
    return body.images[0]
