"""The state of the server: its models, the limits on images and bytes in flight, and the processes that decode."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from torch import Tensor

from reslab.deploy.inputs import PreparedImage
from reslab.deploy.predictor import ImageOutput
from reslab.deploy.server.connections import client_key, split_port
from reslab.deploy.server.decoding import DecodePool
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.middleware import ServerMetrics
from reslab.deploy.server.model_handle import LoadedModel, ModelHandle, ServedModel, model_names, open_served
from reslab.deploy.server.requests import AdmissionLimiter, RequestBody, parse_body, read_request_bytes
from reslab.deploy.server.settings import ServerSettings
from reslab.spec.errors import unknown_name
from reslab.training.run import Run

ResultT = TypeVar("ResultT")
_LARGE_BODY_BYTES = 1 << 16


class AppState:
    """The state shared by all routes. Raises ValueError for a run that cannot be served."""

    def __init__(self, runs: Sequence[Run | str | Path | ServedModel], settings: ServerSettings) -> None:
        self.settings = settings
        self.limiter = AdmissionLimiter(
            settings.max_in_flight,
            settings.max_bytes_in_flight,
            max_client_images=settings.client_limit,
            max_client_bytes=max(settings.max_bytes_in_flight // 2, settings.max_bytes),
        )
        max_client_analyses = settings.max_analyses * settings.client_limit // settings.max_in_flight
        self.analysis_limiter = AdmissionLimiter(
            settings.max_analyses, 0, max_client_images=max(1, max_client_analyses)
        )
        self.metrics = ServerMetrics(lambda: self.limiter.num_images)
        self.decode_pool = DecodePool(settings.num_decode_workers, settings.decode_seconds, settings.max_pixels)
        sources = [open_served(run, settings.allow_code) for run in runs]
        self.models = {
            name: ModelHandle(name, source, settings, self.metrics.batch_size_observer(name))
            for name, source in zip(model_names(sources), sources, strict=True)
        }

    def load_models(self) -> None:
        """Load every model that has weights. Raises ValueError for final weights that cannot be served."""
        for handle in self.models.values():
            try:
                if handle.has_weights:
                    handle.load()
            except HTTPError as error:
                if handle.is_finished:  # of a run in training the next checkpoint may be good
                    raise ValueError(error.message) from error

    def close(self) -> None:
        """Finish pending work and end the threads."""
        self.decode_pool.close()
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
        return loaded if loaded is not None and handle.is_current else await asyncio.to_thread(handle.load)

    @asynccontextmanager
    async def request_context(self, request: Request, allowed_fields: Sequence[str] = ()) -> AsyncIterator[RequestBody]:
        """Read the body of a request, admit it, and limit the time until its response.

        `allowed_fields` are the fields besides images. Raises HTTPError: 429 at once without free capacity, 504 after
        the time limit (pending work is cancelled), and like `read_request_bytes` and `parse_body`.
        """
        settings = self.settings
        client = client_of(request, settings.client_header)
        with self.limiter.receive(client) as admission:
            content = await read_request_bytes(
                request, settings.max_bytes, admission.reserve_bytes, settings.timeout_seconds
            )
            admission.reserve_images(1)
            arguments = content, request.headers, allowed_fields, settings.max_images
            # Parsing long JSON takes a while; a thread keeps the event loop free for other requests.
            body = (
                await asyncio.to_thread(parse_body, *arguments)
                if len(content) > _LARGE_BODY_BYTES
                else parse_body(*arguments)
            )
            admission.reserve_images(max(0, len(body.images) - 1))
            async with self.time_limit():
                yield replace(body, client=client)

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
        """Decode and prepare an image in another process. Raises HTTPError (413, 415, 422, 504)."""
        return (await self._prepare(content, loaded)).read_pixels

    async def _prepare(self, content: bytes, loaded: LoadedModel) -> PreparedImage:
        try:
            return await self.decode_pool.decode(content, loaded.transform)
        except ValueError as error:  # of a size that the network cannot take
            raise HTTPError(422, str(error)) from None

    async def predict(self, content: bytes, loaded: LoadedModel) -> tuple[PreparedImage, ImageOutput]:
        """Return an image and what the network says of it. Raises HTTPError like `decode`."""
        image = await self._prepare(content, loaded)
        return image, await asyncio.wrap_future(loaded.batcher.submit(image))

    async def run_analysis(self, client: str, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """Run `fn` in the model's analysis thread. Raises HTTPError (429) at the limit of waiting analyses."""
        with self.analysis_limiter.admit(client):
            return await self.run_internal_analysis(loaded, fn, *args)

    async def run_internal_analysis(self, loaded: LoadedModel, fn: Callable[..., ResultT], *args: Any) -> ResultT:
        """Run `fn` in the model's analysis thread without a limit, for the server's own work."""
        return await asyncio.wrap_future(loaded.analysis_executor.submit(fn, *args))


def client_of(request: Request, header: str) -> str:
    """Return the key of the client of a request: its address, or what a proxy gives as that in `header`.

    The last address counts, which the proxy has added: the client itself may have sent those before it.
    """
    forwarded = ",".join(request.headers.getlist(header)).rpartition(",")[2].strip() if header else ""
    host = request.client.host if request.client else ""
    return client_key(split_port(forwarded) or host)


def single_image(body: RequestBody) -> bytes:
    """Return the only image of a body. Raises HTTPError (422) for none and for several."""
    if len(body.images) != 1:
        got = f"{len(body.images)} images" if body.images else "none"
        raise http_error(422, "one image", got, "send it as the body, as a form's image, or as image in JSON")
    return body.images[0]
