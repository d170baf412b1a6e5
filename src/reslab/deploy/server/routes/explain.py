"""`POST /v1/explain`: what in a picture speaks for a class, as a map of heat."""

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
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
)
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.images import png_data_uri
from reslab.deploy.server.routes.predict import top_k_classes
from reslab.deploy.server.schemas import ABLATION_BODY, INFERENCE_ERRORS, ExplainResponse, ModelQuery
from reslab.deploy.server.state import AppState, LoadedModel, single_image
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import unknown_name

EXPLAIN_METHODS = ("grad-cam", "occlusion", "integrated-gradients")
_NUM_STEPS = 32
_NUM_CLASSES = 10


def explain_routes(state: AppState) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/explain", response_model=ExplainResponse, responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY)
    async def explain(
        request: Request,
        model: ModelQuery = "",
        method: Annotated[str, Query(json_schema_extra={"enum": list(EXPLAIN_METHODS)})] = "grad-cam",
        label: Annotated[str, Query(alias="class", description="A class by name; the first where empty.")] = "",
    ) -> JSONResponse:
        """What in a picture speaks for a class, with units off or swapped where asked: Grad-CAM and its kin."""
        if method not in EXPLAIN_METHODS:
            raise HTTPError(422, str(unknown_name("method", method, EXPLAIN_METHODS)))
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            target = class_index(loaded, label)
            image = await state.decode(single_image(body), loaded)
            return JSONResponse(await state.run_analysis(loaded, _explain, loaded, image, ablation, method, target))

    return router


def class_index(loaded: LoadedModel, label: str) -> int | None:
    """The class of this name; None where it is empty. Raises Refused (422) with the nearest names."""
    if not label:
        return None
    if label not in loaded.classes:
        raise HTTPError(422, str(unknown_name("class", label, loaded.classes)))
    return loaded.classes.index(label)


def _explain(
    loaded: LoadedModel, image: Tensor, ablation: AblationRequest, method: str, target: int | None
) -> dict[str, Any]:
    analysis_model = loaded.analysis_model
    x = analysis_model.normalize_images(image[None])
    with analysis_model.exclusive() as network, apply_ablation(network, ablation) as applied:
        probabilities = analysis_model.probabilities(network, x)[0]
        target_class = int(probabilities.argmax()) if target is None else target
        heatmap = _heatmap(analysis_model, network, x, target_class, method)
    return {
        "class": loaded.classes[target_class],
        "method": method,
        "heatmap": [[round(value, 4) for value in row] for row in heatmap.tolist()],
        "image": png_data_uri(image),
        "classes": top_k_classes(probabilities, loaded.classes, _NUM_CLASSES),
        "rejected": applied.describe_rejected(),
    }


def _heatmap(
    analysis_model: AnalysisModel, network: ResidualNetwork, x: Tensor, target_class: int, method: str
) -> Tensor:
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
