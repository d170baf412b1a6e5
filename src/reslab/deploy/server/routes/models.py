"""`GET /v1/models`: what is served, network by network, with its stages and units."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from torch import nn

from reslab.analysis.blocks import record_block_calls
from reslab.analysis.surgery import BlockSlot, block_shape, block_slots, deletion_obstacle
from reslab.deploy.server.schemas import SEEING, ModelsAnswer
from reslab.deploy.server.state import House, Served
from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch


def model_routes(house: House) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.get("/v1/models", response_model=ModelsAnswer, responses=SEEING)
    def models() -> JSONResponse:
        """The networks, the first of which answers where none is named; their units; the limits of a request."""
        settings = house.settings
        names = ("max_bytes", "max_pixels", "max_images", "timeout_seconds")
        limits = {name: getattr(settings, name) for name in names}
        return JSONResponse({"models": [describe(served) for served in house.models.values()], "limits": limits})

    return router


def describe(served: Served) -> dict[str, Any]:
    """One network as plain data; scores are null until it has weights, and where they tell none."""
    facts = read_header(served.weights_path) if served.finished else {}
    run, arch = served.run, served.arch
    preprocess = facts.get("preprocess") or (run.facts["data"]["preprocess"] if run else None)
    classes = facts.get("classes") or (list(run.classes) if run else [f"class {i}" for i in range(arch.num_classes)])
    return {
        "name": served.name,
        "arch": arch.name,
        "source": arch.reference,
        "classes": classes,
        "input": list(arch.input_size),
        "preprocess": preprocess,
        "scores": facts.get("scores"),
        "run": run is not None,
        "finished": served.finished,
        **_anatomy(arch),
    }


@cache
def _anatomy(arch: Arch) -> dict[str, Any]:
    """depth, params and stages of units, found on the meta device, where nothing is computed."""
    with torch.device("meta"):
        network = ResidualNetwork(arch).eval()
        with torch.no_grad(), record_block_calls(network) as runs:
            network(torch.empty(1, *arch.input_size))
    slots = block_slots(network)
    units = [_unit(slot, slots, list(run.output.shape[1:])) for slot, run in zip(slots, runs, strict=True)]
    stages: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        stages.setdefault(unit["name"].rpartition(".")[0], []).append(unit)
    return {
        "depth": arch.depth,
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "order": arch.order,
        "mix": str(arch.merge),
        "stem": arch.stem,
        "head": arch.head,
        "stages": [{"name": name, "units": of_stage} for name, of_stage in stages.items()],
    }


def _unit(slot: BlockSlot, slots: list[BlockSlot], output: list[int]) -> dict[str, Any]:
    reason = deletion_obstacle(slot.block)
    incoming, outgoing, stride = block_shape(slot.block)
    return {
        "name": slot.name,
        "sentence": _sentence(slot.block),
        "in_channels": incoming,
        "out_channels": outgoing,
        "stride": stride,
        "output": output,
        "params": sum(parameter.numel() for parameter in slot.block.parameters()),
        "switchable": not reason,
        "reason": reason,
        "swaps_with": [other.name for other in slots if _may_swap(slot, other)],
    }


def _may_swap(slot: BlockSlot, other: BlockSlot) -> bool:
    alone = slot.num_repeats == other.num_repeats == 1
    return alone and slot.block is not other.block and block_shape(slot.block) == block_shape(other.block)


def _sentence(unit: nn.Module) -> str:
    """`conv3 norm act conv3 norm + act`: what the unit does, in the words of its order."""
    assert isinstance(unit, ResidualBlock)
    before, branch, after = (
        list(_words(unit, names)) for names in (unit.pre_names, unit.branch_names, unit.post_names)
    )
    return " ".join([*before, *branch, *(["+"] if unit.merge is not None else []), *after])


def _words(unit: ResidualBlock, names: tuple[str, ...]) -> Iterator[str]:
    plan = {f"conv{number}": conv for number, conv in enumerate(unit.spec.convs, 1)}
    for name in names:
        if name in plan:
            conv = plan[name]
            yield f"conv{conv.kernel}" + (f"/{conv.stride}" if conv.stride > 1 else "")
        else:
            yield name.rstrip("0123456789").replace("bn", "norm")
