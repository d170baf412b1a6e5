"""The application: every route under its limits, and the pages."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from reslab.deploy.server.errors import Refused
from reslab.deploy.server.middleware import Doors
from reslab.deploy.server.routes.explain import explain_routes
from reslab.deploy.server.routes.health import probe_routes
from reslab.deploy.server.routes.lesion import lesion_routes
from reslab.deploy.server.routes.models import model_routes
from reslab.deploy.server.routes.predict import predict_routes
from reslab.deploy.server.routes.run import run_routes
from reslab.deploy.server.routes.samples import Samples, sample_routes
from reslab.deploy.server.routes.unit import unit_routes
from reslab.deploy.server.settings import ServiceSettings
from reslab.deploy.server.state import House
from reslab.deploy.service.judging import Judge
from reslab.deploy.service.metrics import Measured
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
