"""The application: every route under its limits, and the pages.

The service run by uvicorn, until it is told to stop; what it took it finishes.
"""

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from reslab.deploy.server.connections import connection_of
from reslab.deploy.server.errors import Refused
from reslab.deploy.server.middleware import Doors, Measured
from reslab.deploy.server.routes.explain import explain_routes
from reslab.deploy.server.routes.health import probe_routes
from reslab.deploy.server.routes.lesion import lesion_routes
from reslab.deploy.server.routes.models import model_routes
from reslab.deploy.server.routes.predict import predict_routes
from reslab.deploy.server.routes.run import Judge, run_routes
from reslab.deploy.server.routes.samples import Samples, sample_routes
from reslab.deploy.server.routes.unit import unit_routes
from reslab.deploy.server.settings import ServiceSettings
from reslab.deploy.server.state import House
from reslab.spec.errors import invalid
from reslab.training.run import Run

_DEFAULT = ServiceSettings()


def make_app(runs: Sequence[Run | str | Path], settings: ServiceSettings = _DEFAULT) -> FastAPI:
    """The service of these runs (their folders, or files of weights), to be run by any ASGI server.

    Raises ValueError where a run cannot be served or an engine cannot run so.
    """
    house = House(runs, settings)
    house.open()
    samples = Samples()
    judge = Judge(house, samples)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await judge.stop()
        house.close()

    app = FastAPI(title="reslab", summary="Residual networks, served", lifespan=life, docs_url=None, redoc_url=None)
    app.state.house = house
    # In this order OpenAPI and /docs tell of them.
    for router in (
        predict_routes(house),
        explain_routes(house),
        unit_routes(house),
        lesion_routes(house, samples),
        model_routes(house),
        sample_routes(house, samples),
        run_routes(house, judge),
        probe_routes(house),
    ):
        app.include_router(router)
    _add_page(app)
    app.add_exception_handler(Refused, _tell_refusal)
    app.add_exception_handler(Exception, _tell_fault)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_middleware(Doors, token=settings.token, hosts=settings.hosts)
    app.add_middleware(Measured, metrics=house.metrics)
    return app


def _add_page(app: FastAPI) -> None:
    folder = Path(str(resources.files("reslab.deploy"))) / "web"
    if not (folder / "index.html").is_file():
        return
    app.mount("/static", StaticFiles(directory=folder), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(folder / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(folder / "docs.html")


async def _tell_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _tell_fault(request: Request, error: Exception) -> Response:
    """What nobody foresaw: the log has it whole, the caller hears nothing of the inside."""
    return Refused(500, "a fault of the service, not of the request; its log tells which").response()


async def _tell_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return Refused(422, told).response()


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Refused(error.status_code, str(error.detail), error.headers).response()


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
        raise invalid("an address and a port that are free", got, "--port 0, any free one") from None


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Being told to stop is an end like any other: uvicorn, done, sends the signal again, and here it finds no ear."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
