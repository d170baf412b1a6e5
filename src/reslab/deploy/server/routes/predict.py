"""`POST /v1/predict` and `POST /v1/explain`: the classes of images, and the image regions that support a class."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from torch import Tensor
from torch.nn import functional

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.analysis.layers import default_layers
from reslab.deploy.inputs import PreparedImage
from reslab.deploy.prediction import OutputForm, Prediction, ResultLimits, result_rules
from reslab.deploy.prediction_images import overlay_image
from reslab.deploy.predictor import ImageOutput
from reslab.deploy.server.ablation import (
    ABLATION_FIELDS,
    AblationRequest,
    AnalysisModel,
    apply_ablation,
    parse_ablation,
    require_finite,
)
from reslab.deploy.server.decoding import image_data_uri, png_data_uri
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.model_handle import LoadedModel
from reslab.deploy.server.schemas import (
    ABLATION_BODY,
    IMAGES_BODY,
    INFERENCE_ERRORS,
    BoxSchema,
    ClassScoreSchema,
    ExplainResponse,
    ImagePrediction,
    ModelQuery,
    PredictResponse,
)
from reslab.deploy.server.state import AppState, single_image
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import Network
from reslab.report.images import mask_image
from reslab.spec.errors import unknown_name

_MAX_TOP_K = 1000
_TOP_K_DESCRIPTION = (
    "Number of classes to return: 5 by default, in multi-label tasks those above their thresholds; or of boxes."
)


def predict_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(
        "/v1/predict", responses=INFERENCE_ERRORS, openapi_extra=IMAGES_BODY, response_model_exclude_unset=True
    )
    async def predict(
        request: Request,
        model: ModelQuery = "",
        top_k: Annotated[int | None, Query(ge=1, le=_MAX_TOP_K, description=_TOP_K_DESCRIPTION)] = None,
        min_score: Annotated[float, Query(ge=0, le=1, description="The lowest score of boxes.")] = 0.0,
    ) -> PredictResponse:
        """Predict one or more images, by the task of the network: classes, values, masks or boxes.

        An unreadable image among others becomes a row with an error.
        """
        started = time.perf_counter()
        handle = state.get_model(model)
        limits = ResultLimits(top_k, min_score)
        async with state.request_context(request) as body:
            loaded = await state.load_model(handle.name)
            if not body.images:
                raise http_error(
                    422, "at least one image", "none", "send it as the body, as a form's image, or in JSON"
                )
            rows = await asyncio.gather(*(_predict_image(state, loaded, content, limits) for content in body.images))
        _raise_if_all_failed(rows)
        return PredictResponse(
            model=handle.name,
            predictions=[_no_prediction(loaded, row) if isinstance(row, HTTPError) else row for row in rows],
            backend=loaded.predictor.backend.name,
            precision=loaded.predictor.backend.precision,
            latency_ms=round(1000 * (time.perf_counter() - started), 3),
        )

    return router


async def _predict_image(
    state: AppState, loaded: LoadedModel, content: bytes, limits: ResultLimits
) -> ImagePrediction | HTTPError:
    try:
        image, output = await state.predict(content, loaded)
        return await asyncio.to_thread(_describe_prediction, loaded, image, output, limits)
    except HTTPError as error:
        return error


def _describe_prediction(
    loaded: LoadedModel, image: PreparedImage, output: ImageOutput, limits: ResultLimits
) -> ImagePrediction:
    require_finite(output.is_finite)
    prediction = Prediction("", **loaded.predictor.result(output, limits))
    row = {name: value for name, value in prediction.to_dict().items() if name != "path"}
    if prediction.mask is not None and image.original is not None:
        row["mask"] = image_data_uri(mask_image(prediction.mask.numpy()))
        row["overlay"] = image_data_uri(overlay_image(image.original, prediction.mask))
    return ImagePrediction(**{**row, "error": ""})


def _no_prediction(loaded: LoadedModel, error: HTTPError) -> ImagePrediction:
    row = Prediction("", error=error.message, **result_rules(loaded.predictor.task).no_fields).to_dict()
    return ImagePrediction(**{name: value for name, value in row.items() if name != "path"})


def _raise_if_all_failed(rows: Sequence[Any]) -> None:
    """Raise the first image's error if no image could be read."""
    if all(isinstance(row, HTTPError) for row in rows):
        raise rows[0]


def top_k_classes(probabilities: Tensor, classes: Sequence[str], top_k: int) -> list[ClassScoreSchema]:
    """Return the `top_k` most probable classes of probabilities (classes,), the most probable first."""
    values, labels = probabilities.topk(min(top_k, len(classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return [ClassScoreSchema(name=classes[label], probability=value) for label, value in pairs]


EXPLAIN_METHODS = ("grad-cam", "occlusion", "integrated-gradients")
_NUM_STEPS = 32
_NUM_CLASSES = 10
_MAX_HEATMAP_SIDE = 128


def explain_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(
        "/v1/explain", responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY, response_model_exclude_unset=True
    )
    async def explain(
        request: Request,
        model: ModelQuery = "",
        method: Annotated[str, Query(json_schema_extra={"enum": list(EXPLAIN_METHODS)})] = "grad-cam",
        label: Annotated[
            str, Query(alias="class", description="A class or target by name; the top class or first target if empty.")
        ] = "",
        box: Annotated[
            int, Query(ge=0, description="Of a detector: the number of the box in the answer of /v1/lesion.")
        ] = 0,
    ) -> ExplainResponse:
        """Compute a heatmap of the image regions that support a class, optionally with blocks off or swapped.

        Of a segmentation it is Grad-CAM of the pixels of the class, by default the largest but the first; of a
        detector it is Grad-CAM of the class score of one box.
        """
        if method not in EXPLAIN_METHODS:
            raise HTTPError(422, str(unknown_name("method", method, EXPLAIN_METHODS)))
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            explained = Explained(method, class_index(loaded, label), box)
            explain_form = _EXPLAINERS[loaded.predictor.form]
            image = await state.decode(single_image(body), loaded)
            return await state.run_analysis(body.client, loaded, explain_form, loaded, image, ablation, explained)

    return router


def class_index(loaded: LoadedModel, label: str) -> int | None:
    """Return the index of a class, or None if empty. Raises HTTPError (422) with the nearest names."""
    if not label:
        return None
    if label not in loaded.classes:
        raise HTTPError(422, str(unknown_name("class", label, loaded.classes)))
    return loaded.classes.index(label)


@dataclass(frozen=True)
class Explained:
    """The part of a prediction that is explained, and how: a class by its index (None: the main one), or a box."""

    method: str
    class_index: int | None = None
    box: int = 0


def _explain_vector(
    loaded: LoadedModel, image: Tensor, ablation: AblationRequest, explained: Explained
) -> ExplainResponse:
    method, target = explained.method, explained.class_index
    analysis_model = loaded.analysis_model
    rules = result_rules(analysis_model.task)
    x = analysis_model.normalize_images(image[None])
    with analysis_model.exclusive() as network, apply_ablation(network, ablation) as applied:
        decoded = analysis_model.decode(network, x)
        target_class = _main_output(analysis_model, decoded) if target is None else target
        heatmap = _heatmap(analysis_model, network, x, target_class, method)
    return ExplainResponse(
        label=loaded.classes[target_class],
        method=method,
        heatmap=[[round(value, 4) for value in row] for row in heatmap.tolist()],
        image=png_data_uri(image),
        classes=top_k_classes(decoded[0], loaded.classes, _NUM_CLASSES) if rules.has_probabilities else [],
        rejected=applied.describe_rejected(),
    )


def _explain_mask(
    loaded: LoadedModel, image: Tensor, ablation: AblationRequest, explained: Explained
) -> ExplainResponse:
    grad_cam_of = loaded.mask_grad_cam
    if grad_cam_of is None:
        return _explain_vector(loaded, image, ablation, explained)
    _require_grad_cam(explained)
    network, task = grad_cam_of.network, loaded.predictor.task
    assert isinstance(network, DenseNetwork)
    with apply_ablation(network.residual_network, ablation) as applied:
        target = explained.class_index
        if target is None:
            x = grad_cam_of.normalize(image[None].to(grad_cam_of.normalize.device))
            with torch.no_grad():
                decoded = task.decode(task.predict(network, x))
            main_outputs = result_rules(task).main_outputs
            assert main_outputs is not None
            target = int(main_outputs(decoded)[0])
        (heatmap,) = grad_cam_of(image[None], torch.tensor([target]))
    return ExplainResponse(
        label=loaded.classes[target],
        method=explained.method,
        heatmap=_small_rows(heatmap),
        classes=[],
        rejected=applied.describe_rejected(),
    )


def _explain_box(
    loaded: LoadedModel, image: Tensor, ablation: AblationRequest, explained: Explained
) -> ExplainResponse:
    if loaded.detector is None:
        return _explain_vector(loaded, image, ablation, explained)
    _require_grad_cam(explained)
    grad_cam, applied = loaded.detector.explain(image, explained.box, ablation)
    name = loaded.classes[int(grad_cam.detections["labels"][grad_cam.index]) - 1]
    return ExplainResponse(
        label=name,
        method=explained.method,
        heatmap=_small_rows(_normalized(grad_cam.heatmap)),
        classes=[],
        rejected=applied.describe_rejected(),
        box=BoxSchema(name=name, score=grad_cam.score, box=grad_cam.box.tolist()),
    )


_EXPLAINERS: dict[OutputForm, Callable[[LoadedModel, Tensor, AblationRequest, Explained], ExplainResponse]] = {
    OutputForm.VECTOR: _explain_vector,
    OutputForm.MAP: _explain_mask,
    OutputForm.BOXES: _explain_box,
}


def _require_grad_cam(explained: Explained) -> None:
    if explained.method != EXPLAIN_METHODS[0]:
        raise http_error(422, "method=grad-cam for masks and boxes", explained.method, "leave method out")


def _small_rows(heatmap: Tensor) -> list[list[float]]:
    """Return a heatmap (H, W) as rows of numbers, averaged to at most 128 pixels a side."""
    height, width = (min(side, _MAX_HEATMAP_SIDE) for side in heatmap.shape)
    small = functional.adaptive_avg_pool2d(heatmap[None], (height, width))[0]
    return [[round(value, 4) for value in row] for row in small.tolist()]


def _normalized(heatmap: Tensor) -> Tensor:
    """Return a heatmap from 0 to 1, the largest value 1 where there is any."""
    heatmap = heatmap.detach().clamp_min(0).nan_to_num().cpu()
    return heatmap / heatmap.max().clamp_min(torch.finfo(heatmap.dtype).tiny)


def _main_output(analysis_model: AnalysisModel, decoded: Tensor) -> int:
    main_outputs = result_rules(analysis_model.task).main_outputs
    assert main_outputs is not None  # a map has no analysis model
    return int(main_outputs(decoded)[0])


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
    return _normalized(heatmap)
