"""The service as a whole: its networks by name, the room there is, the threads that decode, how a request is met."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from torch import Tensor

from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.requests import Body, read_body, read_bytes
from reslab.deploy.server.settings import ServiceSettings
from reslab.deploy.service.metrics import Metrics
from reslab.deploy.service.pictures import ready
from reslab.deploy.service.room import Room
from reslab.deploy.service.served import Opened, Served, names_of
from reslab.spec.errors import unknown
from reslab.training.run import Run

Found = TypeVar("Found")
_LONG = 1 << 16


class House:
    """What every route stands on. Raises ValueError where a run cannot be served."""

    def __init__(self, runs: Sequence[Run | str | Path], settings: ServiceSettings) -> None:
        self.settings = settings
        self.room = Room(settings.queue, settings.max_held_bytes)
        self.studies = Room(settings.max_studies, 0)
        self.metrics = Metrics(lambda: self.room.num_pictures)
        self.decoders = ThreadPoolExecutor(settings.num_decoders, thread_name_prefix="decode")
        places = [run.path if isinstance(run, Run) else Path(run) for run in runs]
        self.models = {
            name: Served(name, place, settings, self.metrics.told_batches(name))
            for name, place in zip(names_of(places), places, strict=True)
        }

    def open(self) -> None:
        """Open every network whose weights are there."""
        for served in self.models.values():
            if served.finished:
                served.opened()

    def close(self) -> None:
        """Finish what was begun, then end the threads."""
        self.decoders.shutdown(wait=True)
        for served in self.models.values():
            served.close()

    def find(self, name: str) -> Served:
        """The network of this name, the first where it is empty. Raises Refused (404) with the nearest names."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(404, str(unknown("model", name, self.models, "GET /v1/models lists them")))
        return self.models[name]

    async def opened(self, name: str) -> Opened:
        """What answers for it. Raises Refused: 404, or 503 while it has no weights."""
        served = self.find(name)
        known = served.known
        return await asyncio.to_thread(served.opened) if known is None else known

    @asynccontextmanager
    async def met(self, request: Request, keys: Sequence[str] = ()) -> AsyncIterator[Body]:
        """The body of a request that is let in: it has its places until it is answered, and is answered in time.

        `keys` are the fields it may have beside its pictures. Raises Refused: 429 at once where there is no place, 504
        when the time is over (what was begun is dropped), and as `bodies` says.
        """
        settings = self.settings
        with self.room.enter() as ticket:
            content = await read_bytes(request, settings.max_bytes, ticket.take_bytes, settings.timeout_seconds)
            given = content, request.headers, keys, settings.max_images
            # Long JSON takes its time to be read, in which the others are not to wait.
            body = await asyncio.to_thread(read_body, *given) if len(content) > _LONG else read_body(*given)
            ticket.take_pictures(max(0, len(body.images) - 1))
            async with self.in_time():
                yield body

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """What is done inside ends in time, or is dropped. Raises Refused (504)."""
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                yield
        except TimeoutError:
            got = f"none after {self.settings.timeout_seconds:g}"
            raise refused(504, "an answer within the seconds allowed", got, "try again later") from None

    async def decode(self, content: bytes, opened: Opened) -> Tensor:
        """A picture made ready, in a thread. Raises Refused (413, 415, 422)."""
        work = self.decoders.submit(ready, content, opened.prepare, self.settings.max_pixels)
        return await asyncio.wrap_future(work)

    async def answer(self, content: bytes, opened: Opened) -> Tensor:
        """Probabilities (classes,) of a picture: decoded in a thread, which puts it into the network's line itself.

        Raises Refused as `decode`.
        """
        answer: Future[Tensor] = Future()
        self.decoders.submit(self._decode_for, answer, content, opened)
        return await asyncio.wrap_future(answer)

    def _decode_for(self, answer: Future[Tensor], content: bytes, opened: Opened) -> None:
        if answer.cancelled():
            return
        try:
            picture = ready(content, opened.prepare, self.settings.max_pixels)
        except Exception as error:  # told to the one who waits, unless nobody does any more
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)
            return
        opened.line.submit(picture, answer)

    async def study(self, opened: Opened, ask: Callable[..., Found], *given: Any) -> Found:
        """What `ask` finds out, in the thread that looks into this network. Raises Refused (429) where many wait."""
        with self.studies.enter():
            return await self.study_later(opened, ask, *given)

    async def study_later(self, opened: Opened, ask: Callable[..., Found], *given: Any) -> Found:
        """The same for the service's own work, which is never turned away."""
        return await asyncio.wrap_future(opened.study.submit(ask, *given))


def one_picture(body: Body) -> bytes:
    """The only picture of a body. Raises Refused (422) for none, and for several."""
    if len(body.images) != 1:
        got = f"{len(body.images)} pictures" if body.images else "none"
        raise refused(422, "one picture", got, "send it as the body, as a form's image, or as image in JSON")
    return body.images[0]
