"""What the routes answer, as OpenAPI tells it: one class an answer, and the refusals that any may end in.

What routes take, as OpenAPI tells it, with a picture that can be sent as it stands.
"""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, Field


class Error(BaseModel):
    """Why a request was not served: what was required, what came, what next."""

    error: str = Field(examples=["required: a picture (JPEG, PNG, WebP, GIF, BMP); got: no bytes"])


class Guess(BaseModel):
    """A class, and how probable the network holds it to be."""

    name: str
    probability: float


class Predicted(BaseModel):
    """The most probable classes of one picture, or why it could not be read."""

    classes: list[Guess]
    error: str = ""


class PredictAnswer(BaseModel):
    """One row a picture, in the order they were sent."""

    model: str
    predictions: list[Predicted]
    engine: str
    precision: str
    milliseconds: float


class Refusal(BaseModel):
    """A unit that stayed as it is, and why."""

    unit: str
    reason: str


class ExplainAnswer(BaseModel):
    """`heat` (H, W) from 0 to 1 over `picture`, which is what the network sees."""

    label: str = Field(alias="class")
    method: str
    heat: list[list[float]]
    picture: str
    classes: list[Guess]
    refused: list[Refusal]


class Response(BaseModel):
    """The standard deviation of a unit's output in the whole network and now."""

    unit: str
    whole: float | None
    now: float | None


class LesionAnswer(BaseModel):
    """What the network says with the units cut, and what it says whole: of the same classes, the first of either."""

    classes: list[Guess]
    whole: list[Guess]
    responses: list[Response]
    refused: list[Refusal]


class Without(BaseModel):
    """One unit alone off: the fall of the first class's probability; the share of pictures whose first class stays."""

    unit: str
    drop: float | None
    top1: float | None
    reason: str


class CurveAnswer(BaseModel):
    """The units in their order; means over `num_images` pictures."""

    units: list[Without]
    num_images: int


class UnitAnswer(BaseModel):
    """The strongest maps of a unit's output; standard deviations of output, branch and shortcut; the norm of the first
    class's gradient at the output."""

    unit: str
    maps: list[str]
    channels: list[int]
    output: list[int]
    response: float | None
    branch: float | None
    shortcut: float | None
    gradient: float | None
    refused: list[Refusal]


class ModelUnit(BaseModel):
    """A unit: its sentence, shape and weights; whether it can be switched off, and what it can be swapped with."""

    name: str
    sentence: str
    in_channels: int
    out_channels: int
    stride: int
    output: list[int]
    params: int
    switchable: bool
    reason: str
    swaps_with: list[str]


class Stage(BaseModel):
    """A stage: its units in their order."""

    name: str
    units: list[ModelUnit]


class Model(BaseModel):
    """A network that is served."""

    name: str
    arch: str
    source: str
    classes: list[str]
    input: list[int]
    preprocess: dict[str, Any] | None
    scores: dict[str, Any] | None
    run: bool
    finished: bool
    depth: int
    params: int
    order: str
    mix: str
    stem: str
    head: str
    stages: list[Stage]


class ModelsAnswer(BaseModel):
    """The networks, the first of which answers where none is named, and the limits of a request."""

    models: list[Model]
    limits: dict[str, float]


class Sample(BaseModel):
    """A test image by number, with its class."""

    id: int
    label: str
    name: str


class SamplesAnswer(BaseModel):
    """Test images in an order drawn once."""

    samples: list[Sample]


class Answered(BaseModel):
    """A test image with its class and the one it was called by."""

    id: int
    true: str
    predicted: str
    probability: float
    name: str


class ConfusionAnswer(BaseModel):
    """The test images of one cell of the matrix."""

    samples: list[Answered]


class RunAnswer(BaseModel):
    """A run: its log from the line asked for, and, once `judged`, what its network makes of the test images."""

    log: list[dict[str, Any]]
    num_lines: int
    classes: list[str]
    finished: bool
    step: int
    total: int | None
    judged: bool
    confusion: list[list[int]] | None
    mistakes: list[Answered]
    per_class: list[dict[str, Any]]
    num_images: int
    reason: str


class Status(BaseModel):
    """That the service is there."""

    status: str


_STATUSES = {
    400: "A body that cannot be read as what it says it is.",
    401: "The token is missing or another one.",
    403: "Called by a name that this service does not answer to.",
    404: "There is no such model, or nothing to show of it.",
    408: "The body did not come in time.",
    413: "Too many bytes, pixels or pictures.",
    415: "Not a picture, or a content type that is not read here.",
    422: "A value that means nothing; the nearest is told.",
    429: "No room now; Retry-After tells when to come again.",
    503: "The run has no weights yet.",
    504: "No answer within the time allowed.",
}
_SEEING = (403, 401, 404, 422)
_ASKING = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


def _refusals(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": _STATUSES[status]} for status in statuses}


# What a route that only shows may end in, one that takes a picture, a probe.
SEEING, ASKING, PROBE = _refusals(_SEEING), _refusals(_ASKING), _refusals((403, 503))
LATE = _refusals((429, 503, 504))


ModelName = Annotated[str, Query(description="A network by its name; the first where empty.")]
PathName = Annotated[str, Path(description="A network by its name.")]

# A ring of 8x8 grey pixels, as PNG in base64.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAI0lEQVR42mNggAJG"
    "Bob/EIqB4T8Dw38GBiaYFCaDBaIICQAArjIECQCbkREAAAAASUVORK5CYII="
)
_BINARY = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64", "examples": [PICTURE]}
_OFF = {"type": "array", "items": {"type": "string"}, "description": "Units whose branch is zero."}
_PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
_SWAP = {"type": "array", "items": _PAIR, "description": "Pairs of units in each other's place."}
_PLAN = '{"off": ["layer1.1"]}'


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _contents(json: dict[str, Any], form: dict[str, Any], example: dict[str, Any], required: bool) -> dict[str, Any]:
    content = {
        "application/json": {"schema": json, "example": example},
        "multipart/form-data": {"schema": form},
        "image/png": {"schema": _BINARY},
        "image/jpeg": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    }
    return {"requestBody": {"required": required, "content": content}}


# One picture or several; one or none; exactly one, and what is to be cut first.
SEVERAL = _contents(
    {
        "anyOf": [
            _object({"image": _BASE64}, ["image"]),
            _object({"images": {"type": "array", "items": _BASE64, "minItems": 1}}, ["images"]),
        ]
    },
    _object({"image": {"type": "array", "items": _BINARY, "minItems": 1}}, ["image"]),
    {"image": PICTURE},
    required=True,
)
ONE_OR_NONE = _contents(_object({"image": _BASE64}), _object({"image": _BINARY}), {"image": PICTURE}, required=False)
CUT = _contents(
    _object({"image": _BASE64, "off": _OFF, "swap": _SWAP}, ["image"]),
    _object({"image": _BINARY, "plan": {"type": "string", "examples": [_PLAN]}}, ["image"]),
    {"image": PICTURE, "off": [], "swap": []},
    required=True,
)
