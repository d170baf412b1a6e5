"""The service as a whole: its networks by name, the room there is, the threads that decode, how a request is met.

How much may be in the house at once: pictures in hand, bytes in memory; beyond it one is turned away at the door.

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

from reslab.deploy.export.verify import run_images
from reslab.deploy.predict import Answering, Preparation, class_names, open_answering
from reslab.deploy.server.ablation import Specimen
from reslab.deploy.server.batching import Line
from reslab.deploy.server.errors import Refused, busy, refused
from reslab.deploy.server.images import ready
from reslab.deploy.server.middleware import Metrics
from reslab.deploy.server.requests import Body, read_body, read_bytes
from reslab.deploy.server.settings import ServiceSettings
from reslab.nn.checkpoints.safetensors_io import load_weights, read_header
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.errors import invalid, unknown_name
from reslab.training.run import Run


class Room:
    """Counts the pictures and bytes of the requests in hand. Used from the event loop alone, so it needs no lock."""

    def __init__(self, max_pictures: int, max_bytes: int) -> None:
        self.max_pictures, self.max_bytes = max_pictures, max_bytes
        self.num_pictures = 0
        self.num_bytes = 0

    def enter(self) -> "Ticket":
        """A place for a request and its first picture. Raises Refused (429) where there is none."""
        return Ticket(self)


class Ticket:
    """The places that one request holds; all are given back when its `with` block ends."""

    def __init__(self, room: Room) -> None:
        self.room, self.num_pictures, self.num_bytes = room, 0, 0
        self.take_pictures(1)

    def take_pictures(self, number: int) -> None:
        """Places for so many pictures. Raises Refused (429)."""
        if self.room.num_pictures + number > self.room.max_pictures:
            raise busy(f"{self.room.num_pictures} pictures in hand of at most {self.room.max_pictures}")
        self.room.num_pictures += number
        self.num_pictures += number

    def take_bytes(self, number: int) -> None:
        """Memory for so many more bytes. Raises Refused (429)."""
        if self.room.num_bytes + number > self.room.max_bytes:
            raise busy(f"{self.room.num_bytes} bytes in hand of at most {self.room.max_bytes}")
        self.room.num_bytes += number
        self.num_bytes += number

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.room.num_pictures -= self.num_pictures
        self.room.num_bytes -= self.num_bytes
        self.num_pictures = self.num_bytes = 0


@dataclass(frozen=True, eq=False)
class Opened:
    """What answers for a network: `line` its predictions, as probabilities (classes,) of a prepared picture; `study`
    one thread for looking into `specimen`, a copy of it."""

    network: ResidualNetwork
    classes: tuple[str, ...]
    answering: Answering
    prepare: Preparation
    line: Line[Tensor, Tensor]
    specimen: Specimen
    study: ThreadPoolExecutor

    def close(self) -> None:
        """Finish what was begun."""
        self.line.close()
        self.study.shutdown(wait=True)


class Served:
    """One network by `name`; of a run in training the weights come later, and are opened when first asked for."""

    def __init__(self, name: str, place: Path, settings: ServiceSettings, told: Callable[[int], None]) -> None:
        self.name, self.place, self.settings, self.told = name, place, settings, told
        self.run = Run(place) if place.is_dir() else None
        self.weights_path = place if self.run is None else self.run.weights_path
        self.arch = self._arch()
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def _arch(self) -> Arch:
        """The network as data, from the run or from the header of its weights. ValueError for a foreign module."""
        if self.run is None:
            found = read_header(self.weights_path)["arch"]
            arch = None if found is None else from_dict(Arch, found)
        else:
            arch = self.run.arch
        if arch is None:
            raise invalid("a reslab network", f"{self.name}, a module of its own", next_step="serve another run")
        return arch

    @property
    def finished(self) -> bool:
        """Whether there are weights."""
        return self.weights_path.is_file()

    @property
    def known(self) -> Opened | None:
        """What answers, where it was opened before."""
        return self._opened

    def opened(self) -> Opened:
        """What answers. Raises Refused (503) while a run has no weights yet."""
        with self._lock:
            if self._opened is None:
                if not self.finished:
                    raise refused(503, "a run that has ended", f"{self.name}, still in training", "ask again later")
                self._opened = self._open()
            return self._opened

    def _open(self) -> Opened:
        network = load_weights(self.weights_path)
        settings = self.settings
        images = run_images(self.place, network) if settings.precision == "int8" else None
        answering = open_answering(network, settings.engine, settings.precision, settings.device, images=images)
        assert network.preprocess is not None  # open_answering refuses a network without

        def compute(pictures: Sequence[Tensor]) -> Sequence[Tensor]:
            return list(answering.probabilities(answering(pictures)))

        return Opened(
            network=network,
            classes=class_names(network),
            answering=answering,
            prepare=Preparation(network.preprocess, network.arch.image_size),
            line=Line(compute, settings.max_batch, self.told, self.name),
            specimen=Specimen(network, settings.device),
            study=ThreadPoolExecutor(1, thread_name_prefix=f"study of {self.name}"),
        )

    def close(self) -> None:
        """Finish what was begun."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def names_of(places: Sequence[Path]) -> list[str]:
    """A name for each: the folder's, or the file's, `-2` after a name that is taken. ValueError where there is none."""
    if not places:
        raise invalid("at least one run", "none", next_step="`reslab runs` lists them")
    found: list[str] = []
    for place in places:
        path = place.resolve()
        name = path.name if path.is_dir() else path.parent.name if path.name == "model.safetensors" else path.stem
        taken = (name if count == 1 else f"{name}-{count}" for count in range(1, len(places) + 1))
        found.append(next(free for free in taken if free not in found))
    return found


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
            raise Refused(404, str(unknown_name("model", name, self.models, "GET /v1/models lists them")))
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
