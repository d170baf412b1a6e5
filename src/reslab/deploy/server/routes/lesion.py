"""`POST /v1/lesion` and `/v1/lesion/curve`: a picture seen by a network with units switched off or swapped."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from reslab.deploy.server.ablation import KEYS, Cut, Plan, curve, cut, read_plan
from reslab.deploy.server.routes.samples import Samples
from reslab.deploy.server.schemas import ASKING, CUT, ONE_OR_NONE, CurveAnswer, LesionAnswer, ModelName
from reslab.deploy.server.state import House, Opened, one_picture

_NUM_CLASSES = 10
# Pictures of the run that the curve is drawn from where the caller sends none.
_CURVE_IMAGES = 32


def lesion_routes(house: House, samples: Samples) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/v1/lesion", response_model=LesionAnswer, responses=ASKING, openapi_extra=CUT)
    async def lesion(request: Request, model: ModelName = "") -> JSONResponse:
        """A picture seen with pairs of units swapped, then units off by their places; what cannot be cut is told."""
        served = house.find(model)
        async with house.met(request, KEYS) as body:
            plan = read_plan(body.fields)
            opened = await house.opened(served.name)
            picture = await house.decode(one_picture(body), opened)
            return JSONResponse(await house.study(opened, _lesion, opened, picture, plan))

    @router.post("/v1/lesion/curve", response_model=CurveAnswer, responses=ASKING, openapi_extra=ONE_OR_NONE)
    async def lesion_curve(request: Request, model: ModelName = "") -> JSONResponse:
        """Each unit alone switched off, on a picture, or without one on test images of the run."""
        served = house.find(model)
        async with house.met(request) as body:
            opened = await house.opened(served.name)
            if body.images:
                picture = await house.decode(one_picture(body), opened)
                shown = opened.specimen.read(picture[None])
            else:
                shown = (await samples.normalised(served, _CURVE_IMAGES)).to(opened.specimen.device)
            return JSONResponse(await house.study(opened, _curve, opened, shown))

    return router


def _lesion(opened: Opened, picture: Tensor, plan: Plan) -> dict[str, Any]:
    found = cut(opened.specimen, picture, plan)
    whole, now = found.whole.probabilities, found.now.probabilities
    return {
        "classes": _seen_by(now, whole, opened.classes),
        "whole": _seen_by(whole, now, opened.classes),
        "responses": _responses(found),
        "refused": found.carried.told(),
    }


def _seen_by(probabilities: Tensor, others: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The first classes of either, so that none of one is missing in the other; in the order of `probabilities`."""
    num = min(_NUM_CLASSES, len(classes))
    firsts = {int(label) for each in (probabilities, others) for label in each.topk(num).indices}
    order = sorted(firsts, key=lambda label: -float(probabilities[label]))
    return [{"name": classes[label], "probability": float(probabilities[label])} for label in order]


def _responses(found: Cut) -> list[dict[str, Any]]:
    pairs = found.whole.responses.items()
    return [{"unit": unit, "whole": whole, "now": found.now.responses[unit]} for unit, whole in pairs]


def _curve(opened: Opened, x: Tensor) -> dict[str, Any]:
    rows = curve(opened.specimen, x)
    units = [{"unit": row.unit, "drop": row.drop, "top1": row.kept, "reason": row.reason} for row in rows]
    return {"units": units, "num_images": len(x)}
