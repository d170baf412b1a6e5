"""`POST /v1/predict`: pictures to class names with probabilities."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from reslab.deploy.server.ablation import require_finite
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.schemas import IMAGES_BODY, INFERENCE_ERRORS, ModelQuery, PredictResponse
from reslab.deploy.server.state import AppState, LoadedModel

_MAX_TOP_K = 1000


def predict_routes(state: AppState) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/predict", response_model=PredictResponse, responses=INFERENCE_ERRORS, openapi_extra=IMAGES_BODY)
    async def predict(
        request: Request,
        model: ModelQuery = "",
        top_k: Annotated[int, Query(ge=1, le=_MAX_TOP_K, description="How many classes.")] = 5,
    ) -> JSONResponse:
        """Class names with probabilities for pictures; one that cannot be read among others is a row with its error."""
        started = time.perf_counter()
        handle = state.get_model(model)
        async with state.request_context(request) as body:
            loaded = await state.load_model(handle.name)
            if not body.images:
                raise http_error(
                    422, "at least one picture", "none", "send it as the body, as a form's image, or in JSON"
                )
            rows = await asyncio.gather(*(_predict_image(state, loaded, content, top_k) for content in body.images))
        _raise_if_all_failed(rows)
        payload = {
            "model": handle.name,
            "predictions": [
                {"classes": [], "error": row.message} if isinstance(row, HTTPError) else row for row in rows
            ],
            "backend": loaded.predictor.backend.name,
            "precision": loaded.predictor.backend.precision,
            "latency_ms": round(1000 * (time.perf_counter() - started), 3),
        }
        return JSONResponse(payload)

    return router


async def _predict_image(
    state: AppState, loaded: LoadedModel, content: bytes, top_k: int
) -> dict[str, Any] | HTTPError:
    try:
        return {"classes": top_k_classes(await state.predict(content, loaded), loaded.classes, top_k)}
    except HTTPError as error:
        return error


def _raise_if_all_failed(rows: Sequence[Any]) -> None:
    """Where no picture could be read the first one's refusal is the answer."""
    if all(isinstance(row, HTTPError) for row in rows):
        raise rows[0]


def top_k_classes(probabilities: Tensor, classes: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The most probable classes of (classes,), each with name and probability, the most probable first."""
    values, labels = require_finite(probabilities).topk(min(top_k, len(classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return [{"name": classes[label], "probability": value} for label, value in pairs]
