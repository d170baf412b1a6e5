"""`/healthz`, `/readyz` and `/metrics`, for monitoring."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from reslab.deploy.server.errors import http_error
from reslab.deploy.server.schemas import HEALTH_ERRORS, READ_ERRORS, HealthResponse
from reslab.deploy.server.state import AppState


def health_routes(state: AppState) -> APIRouter:
    """Return the routes."""
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
