"""A server on a local socket, run as `reslab serve` runs it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from reslab.deploy.server.app import uvicorn_config
from reslab.deploy.server.connections import DrainingServer
from reslab.deploy.server.settings import ServerSettings

_END_SECONDS = 60


@contextmanager
def listening(app: FastAPI, settings: ServerSettings, loop: str = "auto") -> Iterator[int]:
    """Serve the app within a block; yield the port. Fails if the server does not stop."""
    with running_server(app, settings, loop) as (port, _):
        yield port


@contextmanager
def running_server(app: FastAPI, settings: ServerSettings, loop: str = "auto") -> Iterator[tuple[int, DrainingServer]]:
    """Serve the app within a block; yield the port and the server, which `should_exit = True` stops like SIGTERM."""
    config = uvicorn_config(app, settings)
    config.loop = loop
    server = DrainingServer(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as line:
        thread = threading.Thread(target=server.run, args=([line],), daemon=True)
        thread.start()
        try:
            yield line.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join(_END_SECONDS)
        assert not thread.is_alive()
