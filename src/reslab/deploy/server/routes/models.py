"""`GET /v1/models`: the served models with their stages and blocks, and the drawing of a block."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Path, Response
from torch import nn

from reslab.analysis.layers import record_block_calls
from reslab.analysis.surgery import BlockSlot, block_shape, block_slots, deletion_obstacle
from reslab.data.mask_colors import Color
from reslab.deploy.prediction import OutputForm, result_rules
from reslab.deploy.predictor import class_names, model_task
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.model_handle import ModelHandle, reading_run
from reslab.deploy.server.schemas import (
    READ_ERRORS,
    BlockInfo,
    MetricInfo,
    ModelInfo,
    ModelPath,
    ModelsResponse,
    StageInfo,
)
from reslab.deploy.server.state import AppState
from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.init import init_empty_weights
from reslab.nn.module_network import GraphModel
from reslab.nn.network import ResidualNetwork
from reslab.report.drawings.block import draw_block
from reslab.report.drawings.canvas import render_svg
from reslab.report.format import format_split
from reslab.report.images import box_color, class_color
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.dense import DenseArch, DetectionArch
from reslab.spec.shapes import network_layers
from reslab.training.run import Run
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.registry import restore_task


def model_routes(state: AppState) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/v1/models", responses=READ_ERRORS)
    def models() -> ModelsResponse:
        """List the models with their blocks, and the limits of a request; the first model is the default."""
        settings = state.settings
        names = ("max_bytes", "max_pixels", "max_images", "timeout_seconds")
        limits = {name: getattr(settings, name) for name in names}
        return ModelsResponse(models=[describe_model(handle) for handle in state.models.values()], limits=limits)

    @router.get("/v1/models/{name}/blocks/{block}.svg", response_class=Response, responses=_SVG_RESPONSES)
    def block_drawing(
        name: ModelPath,
        block: Annotated[str, Path(description="A block by name, such as layer2.1.", pattern=r"^layer\d+\.\d+$")],
    ) -> Response:
        """Return the drawing of a block as SVG: its two paths and their merge, with the shapes along the way."""
        svg = _draw_block(state.get_model(name), block)
        return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=3600"})

    return router


_SVG_RESPONSES = {**READ_ERRORS, 200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}}


def _draw_block(handle: ModelHandle, block: str) -> str:
    arch = _block_arch(handle)
    if arch is None:
        raise http_error(404, "a network of residual blocks", handle.name)
    try:
        layers = network_layers(arch).block(block)
    except ValueError as error:
        raise HTTPError(404, str(error)) from None
    return render_svg(draw_block(layers, arch, block), has_background=False)


def _block_arch(handle: ModelHandle) -> Arch | None:
    """Return the architecture whose blocks are listed, at the size of its images; None if there is none.

    Of a detector it is the backbone.
    """
    arch = handle.arch
    if isinstance(arch, Arch):
        return arch
    if not isinstance(arch, DetectionArch):
        return None
    _, height, width = arch.smallest_input(arch.input_size)
    return replace(arch.backbone_arch, image_size=(height, width))


_LOGGER = logging.getLogger(__name__)


def describe_model(handle: ModelHandle) -> ModelInfo:
    """Describe a model; metrics are null without final weights, and if the weights have none.

    `problem` says what cannot be read of its files or of its network, so that one model never hides the others.
    """
    header, problem = _read_header(handle)
    run, arch, loaded = handle.run, handle.arch, handle.loaded
    preprocess = header.get("preprocess") or (run.metadata["data"]["preprocess"] if run else None)
    num_classes = arch.num_classes - (arch.num_background if isinstance(arch, DenseArch) else 0)
    classes = header.get("classes") or (list(run.classes) if run else [f"class {i}" for i in range(num_classes)])
    if handle.opened is not None:
        model = handle.opened.model
        preprocess, classes = to_dict(model.preprocess) if model.preprocess else None, list(class_names(model))
    try:
        network = _describe_any(handle)
    except Exception:  # a network without a description is still served
        _LOGGER.exception("the network of %s cannot be described", handle.name)
        network, problem = _ArchInfo(0, 0, []), "the blocks of this network cannot be listed; see the server's log"
    task = restore_task(_recorded_task(handle, header), classes)
    metric, blocks_of = task.spec.selection_metric, _block_arch(handle)
    return ModelInfo(
        name=handle.name,
        arch=arch.name,
        task=task.spec.name,
        target=task.spec.target,
        metric=MetricInfo(name=metric.name, title=metric.title, is_fraction=metric.is_fraction),
        thresholds=list(task.used_thresholds) if isinstance(task, MultiLabel) else None,
        class_colors=_class_colors(result_rules(task).form, len(classes)),
        reference=arch.reference,
        classes=classes,
        input_size=list(arch.input_size),
        preprocess=preprocess,
        metrics=header.get("metrics"),
        eval_split=_eval_split(header, run),
        has_run=run is not None,
        has_weights=handle.has_weights,
        has_layers=handle.opened is None or not isinstance(handle.opened.model, GraphModel),
        finished=handle.is_finished,
        checkpoint_step=None if loaded is None else loaded.checkpoint_step,
        problem=problem,
        depth=network.depth,
        params=network.params,
        order=blocks_of.order if blocks_of else "",
        merge=str(blocks_of.merge) if blocks_of else "",
        stem=blocks_of.stem if blocks_of else "",
        head=arch.head if isinstance(arch, Arch) else str(getattr(arch, "detector", "")),
        stages=network.stages,
    )


def _recorded_task(handle: ModelHandle, header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the task of the model in memory, of its weights, or of its run in training."""
    if handle.opened is not None:
        return model_task(handle.opened.model).to_dict()
    default = {"name": str(handle.arch.kind)} if isinstance(handle.arch, DenseArch) else None
    return header.get("task") or (handle.run.metadata["task"] if handle.run else default)


_COLORS: dict[OutputForm, Callable[[int], Color | None]] = {OutputForm.MAP: class_color, OutputForm.BOXES: box_color}


def _class_colors(form: OutputForm, num_classes: int) -> list[str] | None:
    """Return the colors in which the masks or boxes of classes are drawn; None where nothing is drawn."""
    if form not in _COLORS:
        return None
    colors = map(_COLORS[form], range(num_classes))
    return ["" if color is None else "#{:02x}{:02x}{:02x}".format(*color) for color in colors]


def _eval_split(header: Mapping[str, Any], run: Run | None) -> str:
    """Return the full name of the split that the weights or the run are evaluated on; empty if it is not recorded."""
    split = (header.get("metrics") or {}).get("split") or (run.metadata["data"]["eval_split"] if run else "")
    return format_split(split) if split else ""


def _read_header(handle: ModelHandle) -> tuple[dict[str, Any], str]:
    """Return the header of the final weights, empty without them, and what is wrong with the model's files."""
    try:
        with reading_run(handle.name, handle.path):
            handle.path.stat()
            is_weights = handle.weights_path.suffix == ".safetensors" and handle.weights_path.is_file()
            return (read_header(handle.weights_path) if is_weights else {}), ""
    except HTTPError as error:
        return {}, error.message


@dataclass(frozen=True)
class _ArchInfo:
    """The description of a network: depth, params and stages of blocks."""

    depth: int
    params: int
    stages: list[StageInfo]


def _describe_module(handle: ModelHandle) -> _ArchInfo:
    """Describe a network that is not of the zoo: its parameters (0 for an exported graph), without blocks."""
    model = None if handle.opened is None else handle.opened.model
    params = sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, nn.Module) else 0
    return _ArchInfo(0, params, [])


def _describe_any(handle: ModelHandle) -> _ArchInfo:
    if isinstance(handle.arch, Arch):
        return _describe_arch(handle.arch)
    return _describe_dense(handle.arch) if isinstance(handle.arch, DenseArch) else _describe_module(handle)


@cache
def _describe_dense(arch: DenseArch) -> _ArchInfo:
    """Describe a network for segmentation or detection: its backbone's layers, its parameters; of a detector blocks."""
    with init_empty_weights():
        network = build_dense_network(arch).eval()
    params = sum(parameter.numel() for parameter in network.parameters())
    stages = []
    if isinstance(arch, DetectionArch):
        stages = _list_stages(network.residual_network, arch.smallest_input(arch.input_size))
    return _ArchInfo(arch.backbone_arch.depth, params, stages)


@cache
def _describe_arch(arch: Arch) -> _ArchInfo:
    """Describe a network built on the meta device, where nothing is computed."""
    with init_empty_weights():
        network = ResidualNetwork(arch).eval()
    params = sum(parameter.numel() for parameter in network.parameters())
    return _ArchInfo(arch.depth, params, _list_stages(network, arch.input_size))


def _list_stages(network: ResidualNetwork, input_size: tuple[int, ...]) -> list[StageInfo]:
    """Return the stages of a network on the meta device with their blocks."""
    with torch.device("meta"):
        slots = block_slots(network)
        output_shapes = _output_shapes(network, input_size) if slots else []
    stages: dict[str, list[BlockInfo]] = {}
    for slot, output_shape in zip(slots, output_shapes, strict=True):
        stages.setdefault(slot.name.rpartition(".")[0], []).append(_describe_block(slot, slots, output_shape))
    return [StageInfo(name=name, blocks=blocks) for name, blocks in stages.items()]


def _output_shapes(network: ResidualNetwork, input_size: tuple[int, ...]) -> list[list[int]]:
    """Return the output shape (C, H, W) of each block, in order."""
    with torch.no_grad(), record_block_calls(network) as calls:
        network(torch.empty(1, *input_size))
    return [list(call.output.shape[1:]) for call in calls]


def _describe_block(slot: BlockSlot, slots: list[BlockSlot], output_shape: list[int]) -> BlockInfo:
    reason = deletion_obstacle(slot.block)
    in_channels, out_channels, stride = block_shape(slot.block)
    return BlockInfo(
        name=slot.name,
        layout=_block_layout(slot.block),
        in_channels=in_channels,
        out_channels=out_channels,
        stride=stride,
        output_shape=output_shape,
        params=sum(parameter.numel() for parameter in slot.block.parameters()),
        can_disable=not reason,
        reason=reason or "",
        swappable_with=[other.name for other in slots if _can_swap(slot, other)],
    )


def _can_swap(slot: BlockSlot, other: BlockSlot) -> bool:
    is_unshared = slot.num_repeats == other.num_repeats == 1
    return is_unshared and slot.block is not other.block and block_shape(slot.block) == block_shape(other.block)


def _block_layout(block: nn.Module) -> str:
    """Return the layout of a block, such as `conv3 norm act conv3 norm + act`."""
    assert isinstance(block, ResidualBlock)
    pre, branch, post = (
        list(_op_names(block, names)) for names in (block.pre_names, block.branches[0].branch_names, block.post_names)
    )
    return " ".join([*pre, *branch, *(["+"] if block.merge is not None else []), *post])


def _op_names(block: ResidualBlock, names: tuple[str, ...]) -> Iterator[str]:
    convs = {f"conv{index}": conv for index, conv in enumerate(block.spec.convs, 1)}
    for name in names:
        if name in convs:
            conv = convs[name]
            yield f"conv{conv.kernel}" + (f"/{conv.stride}" if conv.stride > 1 else "")
        else:
            yield name.rstrip("0123456789").replace("bn", "norm")
