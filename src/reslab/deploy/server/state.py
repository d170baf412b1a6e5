"""The state of the server: its models, the limits on images and bytes in flight, and the threads that decode."""

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
    """Limits the images and bytes of the requests in flight. Used only from the event loop, so it needs no lock."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.num_images = 0
        self.num_bytes = 0

    def admit(self) -> "Admission":
        """Admit a request with one image. Raises HTTPError (429) at the limit."""
        return Admission(self)


class Admission:
    """The images and bytes reserved by one request, released at the end of its `with` block."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self.limiter, self.num_images, self.num_bytes = limiter, 0, 0
        self.reserve_images(1)

    def reserve_images(self, count: int) -> None:
        """Reserve more images. Raises HTTPError (429)."""
        if self.limiter.num_images + count > self.limiter.max_images:
            raise too_many_requests(f"{self.limiter.num_images} of at most {self.limiter.max_images} images in flight")
        self.limiter.num_images += count
        self.num_images += count

    def reserve_bytes(self, count: int) -> None:
        """Reserve more bytes. Raises HTTPError (429)."""
        if self.limiter.num_bytes + count > self.limiter.max_bytes:
            raise too_many_requests(f"{self.limiter.num_bytes} of at most {self.limiter.max_bytes} bytes in flight")
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
    """A loaded network: `batcher` computes the probabilities (classes,) of prepared images; `analysis_executor` is the
    one thread that runs analyses of `analysis_model`, a copy of the network."""

    network: ResidualNetwork
    classes: tuple[str, ...]
    predictor: Predictor
    transform: InferenceTransform
    batcher: DynamicBatcher[Tensor, Tensor]
    analysis_model: AnalysisModel
    analysis_executor: ThreadPoolExecutor

    def close(self) -> None:
        """Finish pending work and end the threads."""
        self.batcher.close()
        self.analysis_executor.shutdown(wait=True)


class ModelHandle:
    """A served model by `name`; it is loaded on first use, because a run in training has no weights yet."""

    def __init__(self, name: str, path: Path, settings: ServerSettings, on_batch: Callable[[int], None]) -> None:
        self.name, self.path, self.settings, self.on_batch = name, path, settings, on_batch
        self.run = Run(path) if path.is_dir() else None
        self.weights_path = path if self.run is None else self.run.weights_path
        self.arch = self._read_arch()
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None

    def _read_arch(self) -> Arch:
        """Return the arch from the run or from the header of the weights. ValueError for a custom module."""
        if self.run is None:
            arch_dict = read_header(self.weights_path)["arch"]
            arch = None if arch_dict is None else from_dict(Arch, arch_dict)
        else:
            arch = self.run.arch
        if arch is None:
            raise invalid("a reslab network", f"{self.name}, a custom module", next_step="serve another run")
        return arch

    @property
    def has_weights(self) -> bool:
        """Whether the weights file exists."""
        return self.weights_path.is_file()

    @property
    def loaded(self) -> LoadedModel | None:
        """The loaded model, or None before the first `load`."""
        return self._loaded

    def load(self) -> LoadedModel:
        """Load the model, if it is not loaded yet. Raises HTTPError (503) while a run has no weights."""
        with self._lock:
            if self._loaded is None:
                if not self.has_weights:
                    raise http_error(503, "a finished run", f"{self.name}, still in training", "try again later")
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> LoadedModel:
        network = load_network(self.weights_path)
        settings = self.settings
        calibration_images = load_calibration_images(self.path, network) if settings.precision == "int8" else None
        predictor = build_predictor(
            network, settings.backend, settings.precision, settings.device, calibration_images=calibration_images
        )
        assert network.preprocess is not None  # checked by build_predictor

        def compute(images: Sequence[Tensor]) -> Sequence[Tensor]:
            return list(predictor.probabilities(predictor(images)))

        return LoadedModel(
            network=network,
            classes=class_names(network),
            predictor=predictor,
            transform=InferenceTransform(network.preprocess, network.arch.image_size),
            batcher=DynamicBatcher(compute, settings.max_batch, self.on_batch, self.name),
            analysis_model=AnalysisModel(network, settings.device),
            analysis_executor=ThreadPoolExecutor(1, thread_name_prefix=f"analysis of {self.name}"),
        )

    def close(self) -> None:
        """Finish what was begun."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


def model_names(paths: Sequence[Path]) -> list[str]:
    """Return a unique name for each path: the folder's or file's, with `-2` if taken. ValueError for no paths."""
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
    """The state shared by all routes. Raises ValueError for a run that cannot be served."""

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
        """Load every model that has weights."""
        for handle in self.models.values():
            if handle.has_weights:
                handle.load()

    def close(self) -> None:
        """Finish pending work and end the threads."""
        self.decode_executor.shutdown(wait=True)
        for handle in self.models.values():
            handle.close()

    def get_model(self, name: str) -> ModelHandle:
        """Return the model of this name, or the first if empty. Raises HTTPError (404) with the nearest names."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise HTTPError(404, str(unknown_name("model", name, self.models, "GET /v1/models lists them")))
        return self.models[name]

    async def load_model(self, name: str) -> LoadedModel:
        """Return the loaded model. Raises HTTPError: 404, or 503 while it has no weights."""
        handle = self.get_model(name)
        loaded = handle.loaded
        return await asyncio.to_thread(handle.load) if loaded is None else loaded

    @asynccontextmanager
    async def request_context(self, request: Request, allowed_fields: Sequence[str] = ()) -> AsyncIterator[RequestBody]:
        """Admit a request, read its body, and limit the time until its response.

        `allowed_fields` are the fields besides images. Raises HTTPError: 429 at once without free capacity, 504 after
        the time limit (pending work is cancelled), and like `read_request_bytes` and `parse_body`.
        """
        settings = self.settings
        with self.limiter.admit() as admission:
            content = await read_request_bytes(
                request, settings.max_bytes, admission.reserve_bytes, settings.timeout_seconds
            )
            arguments = content, request.headers, allowed_fields, settings.max_images
            # Parsing long JSON takes a while; a thread keeps the event loop free for other requests.
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
        """Cancel the block after the time limit. Raises HTTPError (504)."""
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                yield
        except TimeoutError:
            limit = f"a response within {self.settings.timeout_seconds:g} seconds"
            raise http_error(504, limit, "none", "try again later") from None

    async def decode(self, content: bytes, loaded: LoadedModel) -> Tensor:
        """Decode and prepare an image in a thread. Raises HTTPError (413, 415, 422)."""
        future = self.decode_executor.submit(decode_image, content, loaded.transform, self.settings.max_pixels)
        return await asyncio.wrap_future(future)

    async def predict(self, content: bytes, loaded: LoadedModel) -> Tensor:
        """Return the probabilities (classes,) of an image; the thread that decodes it also submits it to the batcher.

        Raises HTTPError like `decode`.
        """
        result: Future[Tensor] = Future()
        self.decode_executor.submit(self._decode_and_submit, result, content, loaded)
        return await asyncio.wrap_future(result)

    def _decode_and_submit(self, result: Future[Tensor], content: bytes, loaded: LoadedModel) -> None:
        if result.cancelled():
            return
        try:
            image = decode_image(content, loaded.transform, self.settings.max_pixels)
        except Exception as error:  # reported to the waiting request, unless it was cancelled
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
            return
        loaded.batcher.submit(image, result)

    async def run_analysis(self, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """Run `fn` in the model's analysis thread. Raises HTTPError (429) at the limit of waiting analyses."""
        with self.analysis_limiter.admit():
            return await self.run_internal_analysis(loaded, fn, *args)

    async def run_internal_analysis(self, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """Run `fn` in the model's analysis thread without a limit, for the server's own work."""
        return await asyncio.wrap_future(loaded.analysis_executor.submit(fn, *args))


def single_image(body: RequestBody) -> bytes:
    """Return the only image of a body. Raises HTTPError (422) for none and for several."""
    if len(body.images) != 1:
        got = f"{len(body.images)} images" if body.images else "none"
        raise http_error(422, "one image", got, "send it as the body, as a form's image, or as image in JSON")
    return body.images[0]
