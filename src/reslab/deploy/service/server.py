"""The service run by uvicorn, until it is told to stop; what it took it finishes."""

import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image

from reslab.deploy.server.app import make_app
from reslab.deploy.server.connections import connection_of
from reslab.deploy.server.settings import ServiceSettings
from reslab.spec.errors import refuse
from reslab.training.run import Run

# Idle connections are kept so long; clients that come again find theirs open.
_KEEP_ALIVE_SECONDS = 30
_GRACE_SECONDS = 5.0
_BACKLOG = 512


def serve_forever(
    runs: Sequence[Run | str | Path],
    settings: ServiceSettings,
    host: str,
    port: int,
    told: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve at `host`:`port` until SIGTERM or Ctrl-C; no request is taken then, and all that were taken are answered.

    `told` hears the address and the names of the networks once it listens. Raises ValueError as `make_app`, and where
    the port is taken.
    """
    # Pictures are refused by the service's own limit, before Pillow sees them.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, settings.max_pixels)
    with _listening(host, port) as listening:
        app = make_app(runs, settings)
        told_host = f"[{host}]" if ":" in host else host
        told(f"http://{told_host}:{listening.getsockname()[1]}", list(app.state.house.models))
        with _stopped_by_signals():
            uvicorn.Server(config_of(app, settings)).run(sockets=[listening])


def config_of(app: FastAPI, settings: ServiceSettings) -> uvicorn.Config:
    """How uvicorn runs the service."""
    return uvicorn.Config(
        app,
        http=connection_of(settings),
        ws="none",  # a WebSocket would be a connection without these limits
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.timeout_seconds + _GRACE_SECONDS),
    )


def _listening(host: str, port: int) -> socket.socket:
    """The port taken, before networks are loaded for nothing."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        got = f"{host}:{port} ({error.strerror or error})"
        raise refuse("an address and a port that are free", got, "--port 0, any free one") from None


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Being told to stop is an end like any other: uvicorn, done, sends the signal again, and here it finds no ear."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
