"""`POST /v1/predict` and `POST /v1/explain`: the classes of images, and the image regions that support a class."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from torch import Tensor
from torch.nn import functional

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.analysis.layers import default_layers
from reslab.deploy.server.ablation import (
    ABLATION_FIELDS,
    AblationRequest,
    AnalysisModel,
    apply_ablation,
    parse_ablation,
    require_finite,
)
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.images import png_data_uri
from reslab.deploy.server.model_handle import LoadedModel
from reslab.deploy.server.schemas import (
    ABLATION_BODY,
    IMAGES_BODY,
    INFERENCE_ERRORS,
    ClassScoreSchema,
    ExplainResponse,
    ImagePrediction,
    ModelQuery,
    PredictResponse,
)
from reslab.deploy.server.state import AppState, single_image
from reslab.spec.errors import unknown_name
from reslab.training.model_source import Network

_MAX_TOP_K = 1000


def predict_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/predict", responses=INFERENCE_ERRORS, openapi_extra=IMAGES_BODY)
    async def predict(
        request: Request,
        model: ModelQuery = "",
        top_k: Annotated[int, Query(ge=1, le=_MAX_TOP_K, description="Number of classes to return.")] = 5,
    ) -> PredictResponse:
        """Predict the classes of one or more images; an unreadable one among others becomes a row with an error."""
        started = time.perf_counter()
        handle = state.get_model(model)
        async with state.request_context(request) as body:
            loaded = await state.load_model(handle.name)
            if not body.images:
                raise http_error(
                    422, "at least one image", "none", "send it as the body, as a form's image, or in JSON"
                )
            rows = await asyncio.gather(*(_predict_image(state, loaded, content, top_k) for content in body.images))
        _raise_if_all_failed(rows)
        return PredictResponse(
            model=handle.name,
            predictions=[
                ImagePrediction(classes=[], error=row.message) if isinstance(row, HTTPError) else row for row in rows
            ],
            backend=loaded.predictor.backend.name,
            precision=loaded.predictor.backend.precision,
            latency_ms=round(1000 * (time.perf_counter() - started), 3),
        )

    return router


async def _predict_image(
    state: AppState, loaded: LoadedModel, content: bytes, top_k: int
) -> ImagePrediction | HTTPError:
    try:
        return ImagePrediction(classes=top_k_classes(await state.predict(content, loaded), loaded.classes, top_k))
    except HTTPError as error:
        return error


def _raise_if_all_failed(rows: Sequence[Any]) -> None:
    """Raise the first image's error if no image could be read."""
    if all(isinstance(row, HTTPError) for row in rows):
        raise rows[0]


def top_k_classes(probabilities: Tensor, classes: Sequence[str], top_k: int) -> list[ClassScoreSchema]:
    """Return the `top_k` most probable classes of probabilities (classes,), the most probable first."""
    values, labels = require_finite(probabilities).topk(min(top_k, len(classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return [ClassScoreSchema(name=classes[label], probability=value) for label, value in pairs]


EXPLAIN_METHODS = ("grad-cam", "occlusion", "integrated-gradients")
_NUM_STEPS = 32
_NUM_CLASSES = 10


def explain_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/explain", responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY)
    async def explain(
        request: Request,
        model: ModelQuery = "",
        method: Annotated[str, Query(json_schema_extra={"enum": list(EXPLAIN_METHODS)})] = "grad-cam",
        label: Annotated[str, Query(alias="class", description="A class by name; the top class if empty.")] = "",
    ) -> ExplainResponse:
        """Compute a heatmap of the image regions that support a class, optionally with blocks off or swapped."""
        if method not in EXPLAIN_METHODS:
            raise HTTPError(422, str(unknown_name("method", method, EXPLAIN_METHODS)))
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            target = class_index(loaded, label)
            image = await state.decode(single_image(body), loaded)
            return await state.run_analysis(loaded, _explain, loaded, image, ablation, method, target)

    return router


def class_index(loaded: LoadedModel, label: str) -> int | None:
    """Return the index of a class, or None if empty. Raises HTTPError (422) with the nearest names."""
    if not label:
        return None
    if label not in loaded.classes:
        raise HTTPError(422, str(unknown_name("class", label, loaded.classes)))
    return loaded.classes.index(label)


def _explain(
    loaded: LoadedModel, image: Tensor, ablation: AblationRequest, method: str, target: int | None
) -> ExplainResponse:
    analysis_model = loaded.analysis_model
    x = analysis_model.normalize_images(image[None])
    with analysis_model.exclusive() as network, apply_ablation(network, ablation) as applied:
        probabilities = analysis_model.probabilities(network, x)[0]
        target_class = int(probabilities.argmax()) if target is None else target
        heatmap = _heatmap(analysis_model, network, x, target_class, method)
    return ExplainResponse(
        label=loaded.classes[target_class],
        method=method,
        heatmap=[[round(value, 4) for value in row] for row in heatmap.tolist()],
        image=png_data_uri(image),
        classes=top_k_classes(probabilities, loaded.classes, _NUM_CLASSES),
        rejected=applied.describe_rejected(),
    )


def _heatmap(analysis_model: AnalysisModel, network: Network, x: Tensor, target_class: int, method: str) -> Tensor:
    """(H, W) from 0 to 1, the largest 1 where there is any."""
    target = torch.tensor([target_class], device=x.device)
    if method == "grad-cam":
        maps = grad_cam(network, x, target, default_layers(network)[-1])[:, None]
        heatmap = functional.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    elif method == "occlusion":
        patch_size = max(1, min(x.shape[-2:]) // 4)
        heatmap = occlusion(network, x, target, patch_size, max(1, patch_size // 2))[0]
    else:
        heatmap = integrated_gradients(network, x, target, 0.0, _NUM_STEPS)[0].sum(0).abs()
    heatmap = heatmap.detach().clamp_min(0).nan_to_num().cpu()
    return heatmap / heatmap.max().clamp_min(torch.finfo(heatmap.dtype).tiny)
