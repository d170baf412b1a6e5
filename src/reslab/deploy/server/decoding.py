"""Untrusted images: their checks, and the processes that decode them; a slow or crashed one is replaced."""

import asyncio
import base64
import contextlib
import io
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.decode_limits import DecodeLimits, ImageError, ImageErrorKind
from reslab.deploy.inputs import InferenceTransform, PreparedImage, WholeImageTransform
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.spec.preprocess import Preprocess

_START_SECONDS = 120
# An image of 50 million pixels takes about a second; what takes longer waits for no place that others need.
_SLOW_SECONDS = 1.0
_MAX_SLOW_PER_WORKER = 2


class DecodePool:
    """`num_workers` processes, each of which decodes one image at a time, in at most `timeout_seconds`.

    No thread can be ended, so an image that takes minutes to decode would block a thread for minutes. A process of its
    own is killed; the other images go on in the other processes. For an image that takes longer than a second, another
    process takes the next images, up to two more for each of the `num_workers`.

    The processes are forked from a server process that has only imported the decoder, so that starting one takes
    milliseconds and the libraries are in memory once.
    """

    def __init__(self, num_workers: int, timeout_seconds: float, max_pixels: int) -> None:
        self.timeout_seconds, self.max_pixels = timeout_seconds, max_pixels
        self._workers: list[_Worker | None] = [None] * num_workers  # None: not started yet
        self._slow: set[int] = set()
        self._spare: list[int] = []
        self._max_slow = _MAX_SLOW_PER_WORKER * num_workers
        self._idle: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for index in reversed(range(num_workers)):
            self._idle.put_nowait(index)

    def start(self) -> None:
        """Start all processes now, not with the first images."""
        self._workers = [worker or _Worker() for worker in self._workers]

    async def decode(self, content: bytes, transform: InferenceTransform) -> PreparedImage:
        """Return an image prepared for the network.

        Raises HTTPError: like `decode_image`, 504 for one that takes too long, 422 for one that ends its process.
        """
        index = await self._idle.get()
        try:
            return await self._decode_in(index, content, transform)
        except TimeoutError:
            limit = f"an image that is decoded within {self.timeout_seconds:g} seconds"
            raise http_error(504, limit, "one that takes longer", "make it smaller, or save it again") from None
        except BrokenProcessPool:
            got = "one that ended the process that decodes it"
            raise http_error(422, "an image that can be decoded", got, "make it smaller, or save it again") from None
        finally:
            if index in self._slow:  # another process has taken its place
                self._slow.discard(index)
                self._spare.append(index)
            else:
                self._idle.put_nowait(index)

    def _replace_slow(self, index: int) -> None:
        if len(self._slow) >= self._max_slow:
            return
        self._slow.add(index)
        if not self._spare:
            self._workers.append(None)
            self._spare.append(len(self._workers) - 1)
        self._idle.put_nowait(self._spare.pop())

    async def _decode_in(self, index: int, content: bytes, transform: InferenceTransform) -> PreparedImage:
        arguments = content, transform.preprocess, transform.image_size, self.max_pixels
        worker = self._workers[index] or await self._start_worker(index)
        try:
            future = worker.executor.submit(_decode_in_worker, *arguments)
        except BrokenProcessPool:  # the process ended while it was idle, which is no fault of this image
            worker = await self._start_worker(index)
            future = worker.executor.submit(_decode_in_worker, *arguments)
        timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._replace_slow, index)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                result = await asyncio.wrap_future(future)
        except (TimeoutError, BrokenProcessPool, asyncio.CancelledError):
            self._workers[index] = None
            worker.kill()
            raise
        finally:
            timer.cancel()
        if isinstance(result, HTTPError):
            raise result
        pixels, original = (None if array is None else torch.from_numpy(array) for array in result)
        if isinstance(transform, WholeImageTransform) and pixels is not None:
            transform.check_pixels(pixels)
        return PreparedImage(pixels, original=original)

    async def _start_worker(self, index: int) -> "_Worker":
        worker = await asyncio.to_thread(_Worker)
        self._workers[index] = worker
        return worker

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            if worker is not None:
                worker.kill()


class _Worker:
    """An executor with one process, whose id is known, so that exactly this process can be killed."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([__name__])
        self.executor = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_worker)
        self.pid = self.executor.submit(os.getpid).result(_START_SECONDS)

    def kill(self) -> None:
        """Kill the process at once."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        self.executor.shutdown(wait=False, cancel_futures=True)


def _prepare_worker() -> None:
    """End with the server, not by the signals that ask the server to finish its requests; compute in one thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _transform(preprocess: Preprocess, image_size: tuple[int, int] | None) -> InferenceTransform:
    return WholeImageTransform(preprocess) if image_size is None else InferenceTransform(preprocess, image_size)


def _decode_in_worker(
    content: bytes, preprocess: Preprocess, image_size: tuple[int, int] | None, max_pixels: int
) -> "tuple[np.ndarray, np.ndarray | None] | HTTPError":
    """Return the pixels of the prepared image and, for a mask, of the original.

    Errors are returned, because unpickling a raised one needs its arguments.
    """
    try:
        image = decode_image(content, _transform(preprocess, image_size), max_pixels)
        original = None if image.original is None else image.original.contiguous().numpy()
        return image.read_pixels.contiguous().numpy(), original
    except HTTPError as error:
        return error


IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_ASPECT_RATIO = 64
"""Longer side / shorter side. Resizing the shorter side to the network's size enlarges the longer one too."""
_MAX_CHUNKS = 20_000
_STATUS = {ImageErrorKind.LIMIT: 413, ImageErrorKind.FORMAT: 415, ImageErrorKind.EMPTY: 415, ImageErrorKind.EXTRA: 415}


def server_limits(max_pixels: int) -> DecodeLimits:
    """Return the limits of images in requests: the formats of the web, up to `max_pixels`."""
    return DecodeLimits(max_pixels=max_pixels, max_chunks=_MAX_CHUNKS, formats=IMAGE_FORMATS)


def decode_image(content: bytes, transform: InferenceTransform, max_pixels: int) -> PreparedImage:
    """Return an image prepared for the network.

    Raises HTTPError: 413 for a limit, 415 for another format, 422 for a damaged image and for an extreme aspect ratio,
    which resizing would enlarge too much.
    """
    try:
        pixels = read_image(content, transform.preprocess.channels, "the image", server_limits(max_pixels))
        _check_aspect_ratio(*pixels.shape[1:])
        return PreparedImage(transform.apply(pixels), original=pixels if transform.keeps_original else None)
    except ImageError as error:
        status = _STATUS.get(error.kind, 422)
        if status == 415:
            got = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "no bytes"
            next_step = "save it in one of these formats"
            raise http_error(415, f"an image ({', '.join(IMAGE_FORMATS)})", got, next_step) from None
        raise HTTPError(status, str(error)) from None
    except ValueError as error:
        raise HTTPError(422, str(error)) from None


def _check_aspect_ratio(height: int, width: int) -> None:
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        required = f"an image whose longer side is at most {MAX_ASPECT_RATIO} times the shorter one"
        raise http_error(422, required, f"{width}x{height}", "crop it")


def encode_png(pixels: Tensor) -> bytes:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG file."""
    return _png_bytes(_to_image(pixels))


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())


def _png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_data_uri(pixels: Tensor) -> str:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG in a data URI."""
    return image_data_uri(_to_image(pixels))


def image_data_uri(image: Image.Image) -> str:
    """Encode an image as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(_png_bytes(image)).decode()}"
