"""`GET /v1/models`: the served models with their stages and blocks."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from torch import nn

from reslab.analysis.blocks import record_block_calls
from reslab.analysis.surgery import BlockSlot, block_shape, block_slots, deletion_obstacle
from reslab.deploy.server.schemas import READ_ERRORS, ModelsResponse
from reslab.deploy.server.state import AppState, ModelHandle
from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch


def model_routes(state: AppState) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.get("/v1/models", response_model=ModelsResponse, responses=READ_ERRORS)
    def models() -> JSONResponse:
        """List the models with their blocks, and the limits of a request; the first model is the default."""
        settings = state.settings
        names = ("max_bytes", "max_pixels", "max_images", "timeout_seconds")
        limits = {name: getattr(settings, name) for name in names}
        return JSONResponse({"models": [describe_model(handle) for handle in state.models.values()], "limits": limits})

    return router


def describe_model(handle: ModelHandle) -> dict[str, Any]:
    """Return a model as plain data; metrics are null without weights, and if the weights have none."""
    header = read_header(handle.weights_path) if handle.has_weights else {}
    run, arch = handle.run, handle.arch
    preprocess = header.get("preprocess") or (run.metadata["data"]["preprocess"] if run else None)
    classes = header.get("classes") or (list(run.classes) if run else [f"class {i}" for i in range(arch.num_classes)])
    return {
        "name": handle.name,
        "arch": arch.name,
        "reference": arch.reference,
        "classes": classes,
        "input_size": list(arch.input_size),
        "preprocess": preprocess,
        "metrics": header.get("metrics"),
        "has_run": run is not None,
        "finished": handle.has_weights,
        **_describe_arch(arch),
    }


@cache
def _describe_arch(arch: Arch) -> dict[str, Any]:
    """Return depth, params and stages of blocks, from a network on the meta device, where nothing is computed."""
    with torch.device("meta"):
        network = ResidualNetwork(arch).eval()
        with torch.no_grad(), record_block_calls(network) as calls:
            network(torch.empty(1, *arch.input_size))
    slots = block_slots(network)
    blocks = [
        _describe_block(slot, slots, list(call.output.shape[1:])) for slot, call in zip(slots, calls, strict=True)
    ]
    stages: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        stages.setdefault(block["name"].rpartition(".")[0], []).append(block)
    return {
        "depth": arch.depth,
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "order": arch.order,
        "merge": str(arch.merge),
        "stem": arch.stem,
        "head": arch.head,
        "stages": [{"name": name, "blocks": stage_blocks} for name, stage_blocks in stages.items()],
    }


def _describe_block(slot: BlockSlot, slots: list[BlockSlot], output_shape: list[int]) -> dict[str, Any]:
    reason = deletion_obstacle(slot.block)
    in_channels, out_channels, stride = block_shape(slot.block)
    return {
        "name": slot.name,
        "layout": _block_layout(slot.block),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "stride": stride,
        "output_shape": output_shape,
        "params": sum(parameter.numel() for parameter in slot.block.parameters()),
        "can_disable": not reason,
        "reason": reason or "",
        "swappable_with": [other.name for other in slots if _can_swap(slot, other)],
    }


def _can_swap(slot: BlockSlot, other: BlockSlot) -> bool:
    is_unshared = slot.num_repeats == other.num_repeats == 1
    return is_unshared and slot.block is not other.block and block_shape(slot.block) == block_shape(other.block)


def _block_layout(block: nn.Module) -> str:
    """Return the layout of a block, such as `conv3 norm act conv3 norm + act`."""
    assert isinstance(block, ResidualBlock)
    pre, branch, post = (
        list(_op_names(block, names)) for names in (block.pre_names, block.branch_names, block.post_names)
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
