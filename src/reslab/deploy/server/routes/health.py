"""`/healthz`, `/readyz`, `/metrics`: what watches over services asks."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from reslab.deploy.server.errors import refused
from reslab.deploy.server.schemas import PROBE, SEEING, Status
from reslab.deploy.server.state import House


def probe_routes(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/healthz", response_model=Status, responses=PROBE)
    async def healthz() -> dict[str, Any]:
        """Alive."""
        return {"status": "ok"}

    @router.get("/readyz", response_model=Status, responses=PROBE)
    async def readyz() -> dict[str, Any]:
        """Ready: some network has its weights."""
        if not any(served.finished for served in house.models.values()):
            raise refused(503, "a network with weights", "runs that are still in training", "ask again later")
        return {"status": "ready"}

    @router.get("/metrics", response_class=PlainTextResponse, responses=SEEING)
    async def metrics() -> Response:
        """Requests by route and code, latencies, queue, batches, as Prometheus reads them."""
        return Response(house.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
