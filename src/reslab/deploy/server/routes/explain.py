"""`POST /v1/explain`: what in a picture speaks for a class, as a map of heat."""

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from torch import Tensor
from torch.nn import functional

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.analysis.layers import default_layers
from reslab.deploy.server.ablation import KEYS, Plan, Specimen, carried_out, read_plan
from reslab.deploy.server.errors import Refused
from reslab.deploy.server.images import picture_uri
from reslab.deploy.server.routes.predict import best
from reslab.deploy.server.schemas import ASKING, CUT, ExplainAnswer, ModelName
from reslab.deploy.server.state import House, Opened, one_picture
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import unknown_name

METHODS = ("grad-cam", "occlusion", "integrated-gradients")
_NUM_STEPS = 32
_NUM_CLASSES = 10


def explain_routes(house: House) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/explain", response_model=ExplainAnswer, responses=ASKING, openapi_extra=CUT)
    async def explain(
        request: Request,
        model: ModelName = "",
        method: Annotated[str, Query(json_schema_extra={"enum": list(METHODS)})] = "grad-cam",
        label: Annotated[str, Query(alias="class", description="A class by name; the first where empty.")] = "",
    ) -> JSONResponse:
        """What in a picture speaks for a class, with units off or swapped where asked: Grad-CAM and its kin."""
        if method not in METHODS:
            raise Refused(422, str(unknown_name("method", method, METHODS)))
        served = house.find(model)
        async with house.met(request, KEYS) as body:
            plan = read_plan(body.fields)
            opened = await house.opened(served.name)
            target = class_number(opened, label)
            picture = await house.decode(one_picture(body), opened)
            return JSONResponse(await house.study(opened, _explained, opened, picture, plan, method, target))

    return router


def class_number(opened: Opened, label: str) -> int | None:
    """The class of this name; None where it is empty. Raises Refused (422) with the nearest names."""
    if not label:
        return None
    if label not in opened.classes:
        raise Refused(422, str(unknown_name("class", label, opened.classes)))
    return opened.classes.index(label)


def _explained(opened: Opened, picture: Tensor, plan: Plan, method: str, target: int | None) -> dict[str, Any]:
    specimen = opened.specimen
    x = specimen.read(picture[None])
    with specimen.taken() as network, carried_out(network, plan) as carried:
        probabilities = specimen.probabilities(network, x)[0]
        chosen = int(probabilities.argmax()) if target is None else target
        heat = _heat(specimen, network, x, chosen, method)
    return {
        "class": opened.classes[chosen],
        "method": method,
        "heat": [[round(value, 4) for value in row] for row in heat.tolist()],
        "picture": picture_uri(picture),
        "classes": best(probabilities, opened.classes, _NUM_CLASSES),
        "refused": carried.told(),
    }


def _heat(specimen: Specimen, network: ResidualNetwork, x: Tensor, chosen: int, method: str) -> Tensor:
    """(H, W) from 0 to 1, the largest 1 where there is any."""
    target = torch.tensor([chosen], device=x.device)
    if method == "grad-cam":
        maps = grad_cam(network, x, target, default_layers(network)[-1])[:, None]
        found = functional.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    elif method == "occlusion":
        square = max(1, min(x.shape[-2:]) // 4)
        found = occlusion(network, x, target, square, max(1, square // 2))[0]
    else:
        found = integrated_gradients(network, x, target, 0.0, _NUM_STEPS)[0].sum(0).abs()
    found = found.detach().clamp_min(0).nan_to_num().cpu()
    return found / found.max().clamp_min(torch.finfo(found.dtype).tiny)
