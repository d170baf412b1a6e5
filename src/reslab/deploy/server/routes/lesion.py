"""`POST /v1/lesion` and `/v1/lesion/curve`: a picture seen by a network with units switched off or swapped."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from reslab.deploy.server.ablation import (
    ABLATION_FIELDS,
    AblationRequest,
    AblationResult,
    ablation_curve,
    parse_ablation,
    run_ablation,
)
from reslab.deploy.server.routes.samples import SampleStore
from reslab.deploy.server.schemas import (
    ABLATION_BODY,
    INFERENCE_ERRORS,
    OPTIONAL_IMAGE_BODY,
    LesionCurveResponse,
    LesionResponse,
    ModelQuery,
)
from reslab.deploy.server.state import AppState, LoadedModel, single_image

_NUM_TOP_CLASSES = 10
# Pictures of the run that the curve is drawn from where the caller sends none.
_NUM_CURVE_IMAGES = 32


def lesion_routes(state: AppState, sample_store: SampleStore) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/v1/lesion", response_model=LesionResponse, responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY)
    async def lesion(request: Request, model: ModelQuery = "") -> JSONResponse:
        """A picture seen with pairs of units swapped, then units off by their places; what cannot be cut is told."""
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            image = await state.decode(single_image(body), loaded)
            return JSONResponse(await state.run_analysis(loaded, _lesion_payload, loaded, image, ablation))

    @router.post(
        "/v1/lesion/curve",
        response_model=LesionCurveResponse,
        responses=INFERENCE_ERRORS,
        openapi_extra=OPTIONAL_IMAGE_BODY,
    )
    async def lesion_curve(request: Request, model: ModelQuery = "") -> JSONResponse:
        """Each unit alone switched off, on a picture, or without one on test images of the run."""
        handle = state.get_model(model)
        async with state.request_context(request) as body:
            loaded = await state.load_model(handle.name)
            if body.images:
                image = await state.decode(single_image(body), loaded)
                x = loaded.analysis_model.normalize_images(image[None])
            else:
                x = (await sample_store.normalized_images(handle, _NUM_CURVE_IMAGES)).to(loaded.analysis_model.device)
            return JSONResponse(await state.run_analysis(loaded, _lesion_curve_payload, loaded, x))

    return router


def _lesion_payload(loaded: LoadedModel, image: Tensor, ablation: AblationRequest) -> dict[str, Any]:
    result = run_ablation(loaded.analysis_model, image, ablation)
    baseline, ablated = result.baseline.probabilities, result.ablated.probabilities
    return {
        "classes": _top_classes_of_either(ablated, baseline, loaded.classes),
        "baseline": _top_classes_of_either(baseline, ablated, loaded.classes),
        "responses": _block_responses(result),
        "rejected": result.applied.describe_rejected(),
    }


def _top_classes_of_either(
    probabilities: Tensor, other_probabilities: Tensor, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The first classes of either, so that none of one is missing in the other; in the order of `probabilities`."""
    num_top = min(_NUM_TOP_CLASSES, len(classes))
    top_labels = {
        int(label) for values in (probabilities, other_probabilities) for label in values.topk(num_top).indices
    }
    sorted_labels = sorted(top_labels, key=lambda label: -float(probabilities[label]))
    return [{"name": classes[label], "probability": float(probabilities[label])} for label in sorted_labels]


def _block_responses(result: AblationResult) -> list[dict[str, Any]]:
    pairs = result.baseline.responses.items()
    return [
        {"block": block, "baseline": baseline, "ablated": result.ablated.responses[block]} for block, baseline in pairs
    ]


def _lesion_curve_payload(loaded: LoadedModel, x: Tensor) -> dict[str, Any]:
    rows = ablation_curve(loaded.analysis_model, x)
    blocks = [
        {"block": row.block, "confidence_drop": row.confidence_drop, "agreement": row.agreement, "reason": row.reason}
        for row in rows
    ]
    return {"blocks": blocks, "num_images": len(x)}
