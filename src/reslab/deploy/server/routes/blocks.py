"""`POST /v1/block`, `/v1/lesion` and `/v1/lesion/curve`: a block in detail, and ablations of blocks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import torch
from fastapi import APIRouter, Query, Request
from torch import Tensor, nn

from reslab.analysis.layers import BlockParts, decompose_block
from reslab.analysis.surgery import BlockSlot, block_slots
from reslab.deploy.server.ablation import (
    ABLATION_FIELDS,
    AblationRequest,
    AblationResult,
    AnalysisModel,
    BoxAblationResult,
    DetectorAnalysis,
    ablation_curve,
    apply_ablation,
    finite_or_none,
    parse_ablation,
    run_ablation,
)
from reslab.deploy.server.decoding import png_data_uri
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.model_handle import LoadedModel
from reslab.deploy.server.samples import SampleStore
from reslab.deploy.server.schemas import (
    ABLATION_BODY,
    INFERENCE_ERRORS,
    OPTIONAL_IMAGE_BODY,
    BlockDetailsResponse,
    BlockPartMaps,
    BlockResponseStd,
    BoxSchema,
    ClassScoreSchema,
    LesionCurveResponse,
    LesionResponse,
    ModelQuery,
    SingleBlockAblation,
)
from reslab.deploy.server.state import AppState, single_image
from reslab.nn.block import ResidualBlock
from reslab.spec.errors import unknown_name

_MAX_FEATURE_MAPS = 16


def block_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/block", responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY)
    async def block_details(
        request: Request,
        block: Annotated[str, Query(description="A block by name, such as layer2.1.")],
        model: ModelQuery = "",
    ) -> BlockDetailsResponse:
        """Measure one block on an image: its feature maps, branch, shortcut and gradient, optionally ablated.

        Of a detector, the blocks are those of its backbone, and the gradient is that of the highest score of a box.
        """
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            analyzed = loaded.detector or loaded.analysis_model
            if block not in analyzed.slots:
                raise HTTPError(422, str(unknown_name("block", block, analyzed.slots)))
            image = await state.decode(single_image(body), loaded)
            return await state.run_analysis(body.client, loaded, _measure_block, analyzed, block, image, ablation)

    return router


def _measure_block(
    analyzed: AnalysisModel | DetectorAnalysis, block_name: str, image: Tensor, ablation: AblationRequest
) -> BlockDetailsResponse:
    """Return the feature maps, standard deviations and gradient norm, |d y_top / d output|, of a block.

    The block is the one at the position `block_name` after the ablation is applied. y_top is the largest logit, or the
    highest score of a box; without a box there is no gradient.
    """
    x = analyzed.normalize_images(image[None])
    with analyzed.exclusive() as network, apply_ablation(network, ablation) as applied:
        slot = next(slot for slot in block_slots(network) if slot.name == block_name)
        block_input, output, gradient = _record_block(analyzed, slot, x)
        assert isinstance(slot.block, ResidualBlock)
        has_shortcut = slot.block.merge is not None
        with torch.no_grad():
            parts = decompose_block(slot.block, block_input)
    factor = 0.0 if block_name in applied.off else applied.scale.get(block_name, 1.0)
    branch = factor * parts.branch
    # A plain block that is off is the identity.
    shortcut = parts.shortcut if has_shortcut or factor else block_input
    return BlockDetailsResponse(
        block=block_name,
        feature_maps=[_map_data_uri(channel_map) for channel_map in _strongest_maps(output[0])],
        channels=[int(i) for i in _strongest_channels(output[0])],
        output_shape=list(output.shape[1:]),
        output_std=_std(output),
        branch_std=_std(branch),
        shortcut_std=_std(shortcut),
        gradient_norm=None if gradient is None else finite_or_none(float(gradient.double().norm())),
        parts=_part_maps(parts, branch, output, factor) if has_shortcut else None,
        rejected=applied.describe_rejected(),
    )


def _part_maps(parts: BlockParts, branch: Tensor, output: Tensor, factor: float) -> BlockPartMaps:
    """Return the channel of the most energy in the sum, without the factor, of shortcut, branch and output."""
    channel = int(_strongest_channels((parts.shortcut + parts.branch)[0])[0])
    unscaled = torch.cat([part[0, channel].flatten() for part in (parts.shortcut, parts.branch, parts.output)])
    images = [_map_data_uri(part[0, channel], unscaled) for part in (parts.shortcut, branch, output)]
    shortcut_map, branch_map, output_map = images
    return BlockPartMaps(channel=channel, factor=factor, shortcut=shortcut_map, branch=branch_map, output=output_map)


def _record_block(
    analyzed: AnalysisModel | DetectorAnalysis, slot: BlockSlot, x: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the block's input, its output, and the gradient of the top score with respect to the output."""
    recorded: list[tuple[Tensor, Tensor]] = []
    with _recording(slot.block, slot.repeat_index, recorded), torch.enable_grad():
        score = analyzed.top_score(x)
        block_input, output = recorded[0]
        gradient = None if score is None else torch.autograd.grad(score, output)[0]
    return block_input, output.detach(), gradient


@contextmanager
def _recording(block: nn.Module, repeat: int, recorded: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Record input and output of the block's call number `repeat`, and track gradients from its output on."""
    handle = block.register_forward_hook(_recording_hook(repeat, recorded))
    try:
        yield
    finally:
        handle.remove()


def _recording_hook(repeat: int, recorded: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor | None]:
    num_calls = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal num_calls
        num_calls += 1
        if num_calls != repeat + 1:
            return None
        leaf = output.detach().clone().requires_grad_()
        recorded.append((inputs[0].detach().clone(), leaf))
        return leaf.clone()  # the next module may modify it in place

    return hook


def _strongest_channels(maps: Tensor) -> Tensor:
    """Return the channels with the most energy, the strongest first."""
    return maps.square().mean((1, 2)).argsort(descending=True, stable=True)[:_MAX_FEATURE_MAPS]


def _strongest_maps(maps: Tensor) -> Tensor:
    return maps[_strongest_channels(maps)]


def _map_data_uri(values: Tensor, scale: Tensor | None = None) -> str:
    """Encode a map (h, w) as a gray image: the minimum of `scale`, by default the map itself, is black, the maximum
    white."""
    low, high = (values if scale is None else scale).aminmax()
    gray = ((values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)).clamp(0, 1) * 255
    return png_data_uri(gray.nan_to_num().round().to(torch.uint8).cpu()[None])


def _std(tensor: Tensor) -> float | None:
    return finite_or_none(float(tensor.double().std(correction=0)))


_NUM_TOP_CLASSES = 10
# Images of the run that the curve averages over if the request has no image; a detector's are larger.
_NUM_CURVE_IMAGES = 32
_NUM_DETECTOR_CURVE_IMAGES = 8


def lesion_routes(state: AppState, sample_store: SampleStore) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/v1/lesion", responses=INFERENCE_ERRORS, openapi_extra=ABLATION_BODY)
    async def lesion(request: Request, model: ModelQuery = "") -> LesionResponse:
        """Predict an image with pairs of blocks swapped and blocks switched off; rejected blocks have a reason.

        Of a detector, the blocks are those of its backbone.
        """
        handle = state.get_model(model)
        async with state.request_context(request, ABLATION_FIELDS) as body:
            ablation = parse_ablation(body.fields)
            loaded = await state.load_model(handle.name)
            image = await state.decode(single_image(body), loaded)
            measure = _measure_lesion if loaded.detector is None else _measure_box_lesion
            return await state.run_analysis(body.client, loaded, measure, loaded, image, ablation)

    @router.post("/v1/lesion/curve", responses=INFERENCE_ERRORS, openapi_extra=OPTIONAL_IMAGE_BODY)
    async def lesion_curve(
        request: Request,
        model: ModelQuery = "",
        min_score: Annotated[float, Query(ge=0, le=1, description="The lowest score of boxes to follow.")] = 0.5,
    ) -> LesionCurveResponse:
        """Switch each block off alone, on an image, or on validation or test images of the run if none is sent."""
        handle = state.get_model(model)
        async with state.request_context(request) as body:
            loaded = await state.load_model(handle.name)
            analyzed = loaded.detector or loaded.analysis_model
            if body.images:
                image = await state.decode(single_image(body), loaded)
                images = list(analyzed.normalize_images(image[None]))
            else:
                num_images = _NUM_CURVE_IMAGES if loaded.detector is None else _NUM_DETECTOR_CURVE_IMAGES
                samples = await sample_store.normalized_images(handle.name, handle.run, num_images)
                images = [sample.to(analyzed.device) for sample in samples]
            return await state.run_analysis(body.client, loaded, _measure_lesion_curve, analyzed, images, min_score)

    return router


def _measure_lesion(loaded: LoadedModel, image: Tensor, ablation: AblationRequest) -> LesionResponse:
    result = run_ablation(loaded.analysis_model, image, ablation)
    baseline, ablated = result.baseline.probabilities, result.ablated.probabilities
    return LesionResponse(
        classes=_top_classes_of_either(ablated, baseline, loaded.classes),
        baseline=_top_classes_of_either(baseline, ablated, loaded.classes),
        responses=_block_responses(result),
        rejected=result.applied.describe_rejected(),
    )


def _measure_box_lesion(loaded: LoadedModel, image: Tensor, ablation: AblationRequest) -> LesionResponse:
    assert loaded.detector is not None  # checked by the route
    result = loaded.detector.ablate(image, ablation)
    boxes, baseline = (
        [BoxSchema(**box.to_dict()) for box in measurement.boxes] for measurement in (result.ablated, result.baseline)
    )
    return LesionResponse(
        classes=[],
        baseline=[],
        boxes=boxes,
        baseline_boxes=baseline,
        responses=_block_responses(result),
        rejected=result.applied.describe_rejected(),
    )


def _top_classes_of_either(
    probabilities: Tensor, other_probabilities: Tensor, classes: Sequence[str]
) -> list[ClassScoreSchema]:
    """Return the union of both top classes, in the order of `probabilities`."""
    num_top = min(_NUM_TOP_CLASSES, len(classes))
    top_labels = {
        int(label) for values in (probabilities, other_probabilities) for label in values.topk(num_top).indices
    }
    sorted_labels = sorted(top_labels, key=lambda label: -float(probabilities[label]))
    return [ClassScoreSchema(name=classes[label], probability=float(probabilities[label])) for label in sorted_labels]


def _block_responses(result: AblationResult | BoxAblationResult) -> list[BlockResponseStd]:
    pairs = result.baseline.responses.items()
    return [
        BlockResponseStd(block=block, baseline=baseline, ablated=result.ablated.responses[block])
        for block, baseline in pairs
    ]


def _measure_lesion_curve(
    analyzed: AnalysisModel | DetectorAnalysis, images: Sequence[Tensor], min_score: float
) -> LesionCurveResponse:
    if isinstance(analyzed, DetectorAnalysis):
        rows = analyzed.curve(images, min_score)
    else:
        rows = ablation_curve(analyzed, torch.stack(list(images)))
    return LesionCurveResponse(blocks=[SingleBlockAblation(**vars(row)) for row in rows], num_images=len(images))
