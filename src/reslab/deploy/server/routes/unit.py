"""`POST /v1/unit`: one unit while it reads a picture: its maps, its parts, and what the class owes to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from torch import Tensor, nn

from reslab.analysis.blocks import decompose_block
from reslab.analysis.surgery import BlockSlot, block_slots
from reslab.deploy.server.ablation import KEYS, Plan, Specimen, carried_out, finite, read_plan
from reslab.deploy.server.errors import Refused
from reslab.deploy.server.images import picture_uri
from reslab.deploy.server.schemas import ASKING, CUT, ModelName, UnitAnswer
from reslab.deploy.server.state import House, one_picture
from reslab.nn.block import ResidualBlock
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import unknown_name

_MOST_MAPS = 16


def unit_routes(house: House) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/unit", response_model=UnitAnswer, responses=ASKING, openapi_extra=CUT)
    async def unit(
        request: Request,
        unit: Annotated[str, Query(description="A unit by its place, such as layer2.1.")],
        model: ModelName = "",
    ) -> JSONResponse:
        """One unit while it reads a picture, with units off or swapped where asked: its maps, its parts, what the first
        class owes to it."""
        served = house.find(model)
        async with house.met(request, KEYS) as body:
            plan = read_plan(body.fields)
            opened = await house.opened(served.name)
            if unit not in opened.specimen.slots:
                raise Refused(422, str(unknown_name("unit", unit, opened.specimen.slots)))
            picture = await house.decode(one_picture(body), opened)
            return JSONResponse(await house.study(opened, _seen, opened.specimen, unit, picture, plan))

    return router


def _seen(specimen: Specimen, name: str, picture: Tensor, plan: Plan) -> dict[str, Any]:
    """`response`, `branch` and `shortcut` are standard deviations; `gradient` the norm of d y_top / d output.

    Of the unit that stands in the place `name` once the plan is carried out.
    """
    x = specimen.read(picture[None])
    with specimen.taken() as network, carried_out(network, plan) as carried:
        slot = next(slot for slot in block_slots(network) if slot.name == name)
        incoming, output, gradient = _run(network, slot, x)
        branch, shortcut = _parts(slot.block, incoming, name in carried.off)
    return {
        "unit": name,
        "maps": [_map_uri(each) for each in _strongest(output[0])],
        "channels": [int(i) for i in _order(output[0])],
        "output": list(output.shape[1:]),
        "response": _std(output),
        "branch": _std(branch),
        "shortcut": _std(shortcut),
        "gradient": finite(float(gradient.double().norm())),
        "refused": carried.told(),
    }


@torch.no_grad()
def _parts(unit: nn.Module, incoming: Tensor, off: bool) -> tuple[Tensor, Tensor]:
    """What branch and shortcut bring. Of a unit that is off the branch is zero, and a plain one lets all pass."""
    assert isinstance(unit, ResidualBlock)
    parts = decompose_block(unit, incoming)
    if not off:
        return parts.branch, parts.shortcut
    return torch.zeros_like(parts.branch), incoming if unit.merge is None else parts.shortcut


def _run(network: ResidualNetwork, slot: BlockSlot, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unit's input, its output, and the gradient of the first class's logit at the output."""
    kept: list[tuple[Tensor, Tensor]] = []
    with _listening(slot.block, slot.repeat_index, kept), torch.enable_grad():
        logits = network(x)
        incoming, output = kept[0]
        (gradient,) = torch.autograd.grad(logits[0, logits[0].argmax()], output)
    return incoming, output.detach(), gradient


@contextmanager
def _listening(unit: nn.Module, repeat: int, kept: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keeps input and output of the unit's run number `repeat`; from its output on gradients are followed."""
    handle = unit.register_forward_hook(_keeper(repeat, kept))
    try:
        yield
    finally:
        handle.remove()


def _keeper(repeat: int, kept: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor | None]:
    runs = 0

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal runs
        runs += 1
        if runs != repeat + 1:
            return None
        leaf = output.detach().clone().requires_grad_()
        kept.append((given[0].detach().clone(), leaf))
        return leaf.clone()  # what comes next may change it in place

    return keep


def _order(maps: Tensor) -> Tensor:
    """The channels with the most energy, the strongest first."""
    return maps.square().mean((1, 2)).argsort(descending=True, stable=True)[:_MOST_MAPS]


def _strongest(maps: Tensor) -> Tensor:
    return maps[_order(maps)]


def _map_uri(values: Tensor) -> str:
    """A map (h, w) as a grey picture, its least value black and its largest white."""
    low, high = values.min(), values.max()
    grey = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny) * 255
    return picture_uri(grey.nan_to_num().round().to(torch.uint8).cpu()[None])


def _std(tensor: Tensor) -> float | None:
    return finite(float(tensor.double().std(correction=0)))
