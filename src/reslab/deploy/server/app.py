"""The server's application with its routes and web pages, and the uvicorn server that runs it."""

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from reslab.deploy.server.connections import DrainingServer, connection_class
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.middleware import MetricsMiddleware, SecurityMiddleware
from reslab.deploy.server.model_handle import ServedModel
from reslab.deploy.server.routes.blocks import block_routes, lesion_routes
from reslab.deploy.server.routes.models import model_routes
from reslab.deploy.server.routes.predict import explain_routes, predict_routes
from reslab.deploy.server.routes.runs import BackgroundEvaluator, run_routes, sample_routes
from reslab.deploy.server.samples import SampleStore
from reslab.deploy.server.schemas import HEALTH_ERRORS, READ_ERRORS, HealthResponse
from reslab.deploy.server.settings import ServerSettings
from reslab.deploy.server.state import AppState
from reslab.spec.errors import invalid
from reslab.training.run import Run


def health_routes(state: AppState) -> APIRouter:
    """Return the routes of monitoring: alive, ready, metrics."""
    router = APIRouter()

    @router.get("/healthz", responses=HEALTH_ERRORS)
    async def healthz() -> HealthResponse:
        """Report that the server is alive."""
        return HealthResponse(status="ok")

    @router.get("/readyz", responses=HEALTH_ERRORS)
    async def readyz() -> HealthResponse:
        """Report that at least one model has weights."""
        if not any(handle.has_weights for handle in state.models.values()):
            raise http_error(503, "a model with weights", "runs that are still in training", "try again later")
        return HealthResponse(status="ready")

    @router.get("/metrics", response_class=PlainTextResponse, responses=READ_ERRORS)
    async def metrics() -> Response:
        """Return requests by route and code, latencies, queue depth and batch sizes in Prometheus' format."""
        return Response(state.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


_DEFAULT_SETTINGS = ServerSettings()


def create_app(runs: Sequence[Run | str | Path | ServedModel], settings: ServerSettings = _DEFAULT_SETTINGS) -> FastAPI:
    """Return the application that serves these runs (folders, files, names or opened models), for any ASGI server.

    Raises ValueError for a run that cannot be served and a backend that does not support the settings.
    """
    state = AppState(runs, settings)
    state.load_models()
    sample_store = SampleStore()
    evaluator = BackgroundEvaluator(state, sample_store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await evaluator.stop()
        state.close()

    app = FastAPI(
        title="reslab",
        summary="Predictions and analyses of residual networks",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.reslab = state
    # OpenAPI and /docs list the routes in this order.
    for router in (
        predict_routes(state),
        explain_routes(state),
        block_routes(state),
        lesion_routes(state, sample_store),
        model_routes(state),
        sample_routes(state, sample_store),
        run_routes(state, evaluator),
        health_routes(state),
    ):
        app.include_router(router)
    _add_web_pages(app)
    app.add_exception_handler(HTTPError, _handle_http_error)
    app.add_exception_handler(Exception, _handle_unexpected_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_middleware(
        SecurityMiddleware,
        token=settings.token,
        hosts=settings.allowed_hosts,
        origins=settings.allowed_origins,
    )
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(MetricsMiddleware, metrics=state.metrics)
    return app


def _add_web_pages(app: FastAPI) -> None:
    folder = Path(str(resources.files("reslab.deploy"))) / "web"
    if not (folder / "index.html").is_file():
        return
    app.mount("/static", StaticFiles(directory=folder), name="static")

    @app.get("/", include_in_schema=False)
    def index_page() -> FileResponse:
        return FileResponse(folder / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs_page() -> FileResponse:
        return FileResponse(folder / "docs.html")


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    return error.response()


async def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    """Return an error without internal details; the server's log has the traceback."""
    return HTTPError(500, "internal server error; see the server's log").response()


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    message = "; ".join(f"{'.'.join(map(str, detail['loc'][1:]))}: {detail['msg']}" for detail in error.errors())
    return HTTPError(422, message).response()


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return HTTPError(error.status_code, str(error.detail), error.headers).response()


# Idle connections stay open this long, so that clients can reuse them.
_KEEP_ALIVE_SECONDS = 30
_GRACE_SECONDS = 5.0
_BACKLOG = 512


def serve_forever(
    runs: Sequence[Run | str | Path | ServedModel],
    settings: ServerSettings,
    host: str,
    port: int,
    on_ready: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve at `host`:`port` until SIGTERM or Ctrl-C; then accept no more requests and finish those in progress.

    `on_ready` is called with the address and the names of the models once the server listens. Raises ValueError like
    `create_app`, and for a port in use.
    """
    with _bind_socket(host, port) as server_socket:
        app = create_app(runs, settings)
        app.state.reslab.decode_pool.start()
        url_host = f"[{host}]" if ":" in host else host
        on_ready(f"http://{url_host}:{server_socket.getsockname()[1]}", list(app.state.reslab.models))
        with _ignored_signals():
            DrainingServer(uvicorn_config(app, settings)).run(sockets=[server_socket])


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """Return the configuration of uvicorn."""
    return uvicorn.Config(
        app,
        http=connection_class(settings),
        ws="none",  # a WebSocket would be a connection without these limits
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.timeout_seconds + _GRACE_SECONDS),
    )


def _bind_socket(host: str, port: int) -> socket.socket:
    """Bind the port before any network is loaded, so that a port in use is reported at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        got = f"{host}:{port} ({error.strerror or error})"
        raise invalid("a free address and port", got, "--port 0, any free port") from None


@contextmanager
def _ignored_signals() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT: uvicorn raises the signal again after its shutdown, which would look like a crash."""
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
