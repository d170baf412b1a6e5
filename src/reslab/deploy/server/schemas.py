"""What the routes answer, as OpenAPI tells it: one class an answer, and the refusals that any may end in.

What routes take, as OpenAPI tells it, with an image that can be sent as it stands.
"""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, Field


class ErrorResponse(BaseModel):
    """Why a request was not served: what was required, what came, what next."""

    error: str = Field(examples=["required: an image (JPEG, PNG, WebP, GIF, BMP); got: no bytes"])


class ClassScoreSchema(BaseModel):
    """A class, and how probable the network holds it to be."""

    name: str
    probability: float


class ImagePrediction(BaseModel):
    """The most probable classes of one image, or why it could not be read."""

    classes: list[ClassScoreSchema]
    error: str = ""


class PredictResponse(BaseModel):
    """One row an image, in the order they were sent."""

    model: str
    predictions: list[ImagePrediction]
    backend: str
    precision: str
    latency_ms: float


class RejectedBlock(BaseModel):
    """A block that stayed as it is, and why."""

    block: str
    reason: str


class ExplainResponse(BaseModel):
    """`heat` (H, W) from 0 to 1 over `image`, which is what the network sees."""

    label: str = Field(alias="class")
    method: str
    heatmap: list[list[float]]
    image: str
    classes: list[ClassScoreSchema]
    rejected: list[RejectedBlock]


class BlockResponseStd(BaseModel):
    """The standard deviation of a block's output in the whole network and now."""

    block: str
    baseline: float | None
    ablated: float | None


class LesionResponse(BaseModel):
    """What the network says with the blocks cut, and what it says whole: of the same classes, the first of either."""

    classes: list[ClassScoreSchema]
    baseline: list[ClassScoreSchema]
    responses: list[BlockResponseStd]
    rejected: list[RejectedBlock]


class SingleBlockAblation(BaseModel):
    """One block alone off: the fall of the first class's probability; the share of images whose first class stays."""

    block: str
    confidence_drop: float | None
    agreement: float | None
    reason: str


class LesionCurveResponse(BaseModel):
    """The blocks in their order; means over `num_images` images."""

    blocks: list[SingleBlockAblation]
    num_images: int


class BlockDetailsResponse(BaseModel):
    """The strongest maps of a block's output; standard deviations of output, branch and shortcut; the norm of the first
    class's gradient at the output."""

    block: str
    feature_maps: list[str]
    channels: list[int]
    output_shape: list[int]
    output_std: float | None
    branch_std: float | None
    shortcut_std: float | None
    gradient_norm: float | None
    rejected: list[RejectedBlock]


class BlockInfo(BaseModel):
    """A block: its sentence, shape and weights; whether it can be switched off, and what it can be swapped with."""

    name: str
    layout: str
    in_channels: int
    out_channels: int
    stride: int
    output_shape: list[int]
    params: int
    can_disable: bool
    reason: str
    swappable_with: list[str]


class StageInfo(BaseModel):
    """A stage: its blocks in their order."""

    name: str
    blocks: list[BlockInfo]


class ModelInfo(BaseModel):
    """A network that is served."""

    name: str
    arch: str
    reference: str
    classes: list[str]
    input_size: list[int]
    preprocess: dict[str, Any] | None
    metrics: dict[str, Any] | None
    has_run: bool
    finished: bool
    depth: int
    params: int
    order: str
    merge: str
    stem: str
    head: str
    stages: list[StageInfo]


class ModelsResponse(BaseModel):
    """The networks, the first of which answers where none is named, and the limits of a request."""

    models: list[ModelInfo]
    limits: dict[str, float]


class SampleInfo(BaseModel):
    """A test image by number, with its class."""

    id: int
    label: str
    name: str


class SamplesResponse(BaseModel):
    """Test images in an order drawn once."""

    samples: list[SampleInfo]


class SamplePrediction(BaseModel):
    """A test image with its class and the one it was called by."""

    id: int
    true: str
    predicted: str
    probability: float
    name: str


class ConfusionCellResponse(BaseModel):
    """The test images of one cell of the matrix."""

    samples: list[SamplePrediction]


class RunResponse(BaseModel):
    """A run: its log from the line asked for, and, once `judged`, what its network makes of the test images."""

    log: list[dict[str, Any]]
    num_records: int
    classes: list[str]
    finished: bool
    step: int
    num_steps: int | None
    evaluated: bool
    confusion_matrix: list[list[int]] | None
    misclassified: list[SamplePrediction]
    per_class: list[dict[str, Any]]
    num_images: int
    reason: str


class HealthResponse(BaseModel):
    """That the service is there."""

    status: str


_STATUS_DESCRIPTIONS = {
    400: "A body that cannot be read as what it says it is.",
    401: "The token is missing or another one.",
    403: "Called by a name that this service does not answer to.",
    404: "There is no such model, or nothing to show of it.",
    408: "The body did not come in time.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or a content type that is not read here.",
    422: "A value that means nothing; the nearest is told.",
    429: "No room now; Retry-After tells when to come again.",
    503: "The run has no weights yet.",
    504: "No answer within the time allowed.",
}
_READ_STATUSES = (403, 401, 404, 422)
_INFERENCE_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


def _error_responses(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _STATUS_DESCRIPTIONS[status]} for status in statuses}


# What a route that only shows may end in, one that takes an image, a probe.
READ_ERRORS, INFERENCE_ERRORS, HEALTH_ERRORS = (
    _error_responses(_READ_STATUSES),
    _error_responses(_INFERENCE_STATUSES),
    _error_responses((403, 503)),
)
OVERLOAD_ERRORS = _error_responses((429, 503, 504))


ModelQuery = Annotated[str, Query(description="A network by its name; the first where empty.")]
ModelPath = Annotated[str, Path(description="A network by its name.")]

# A ring of 8x8 grey pixels, as PNG in base64.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAI0lEQVR42mNggAJG"
    "Bob/EIqB4T8Dw38GBiaYFCaDBaIICQAArjIECQCbkREAAAAASUVORK5CYII="
)
_BINARY_SCHEMA = {"type": "string", "format": "binary"}
_BASE64_SCHEMA = {"type": "string", "contentEncoding": "base64", "examples": [EXAMPLE_IMAGE]}
_OFF_SCHEMA = {"type": "array", "items": {"type": "string"}, "description": "Blocks whose branch is zero."}
_PAIR_SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
_SWAP_SCHEMA = {"type": "array", "items": _PAIR_SCHEMA, "description": "Pairs of blocks in each other's place."}
_ABLATION_EXAMPLE = '{"off": ["layer1.1"]}'


def _object_schema(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _request_body(
    json_schema: dict[str, Any], form_schema: dict[str, Any], example: dict[str, Any], required: bool
) -> dict[str, Any]:
    content = {
        "application/json": {"schema": json_schema, "example": example},
        "multipart/form-data": {"schema": form_schema},
        "image/png": {"schema": _BINARY_SCHEMA},
        "image/jpeg": {"schema": _BINARY_SCHEMA},
        "application/octet-stream": {"schema": _BINARY_SCHEMA},
    }
    return {"requestBody": {"required": required, "content": content}}


# One image or several; one or none; exactly one, and what is to be cut first.
IMAGES_BODY = _request_body(
    {
        "anyOf": [
            _object_schema({"image": _BASE64_SCHEMA}, ["image"]),
            _object_schema({"images": {"type": "array", "items": _BASE64_SCHEMA, "minItems": 1}}, ["images"]),
        ]
    },
    _object_schema({"image": {"type": "array", "items": _BINARY_SCHEMA, "minItems": 1}}, ["image"]),
    {"image": EXAMPLE_IMAGE},
    required=True,
)
OPTIONAL_IMAGE_BODY = _request_body(
    _object_schema({"image": _BASE64_SCHEMA}),
    _object_schema({"image": _BINARY_SCHEMA}),
    {"image": EXAMPLE_IMAGE},
    required=False,
)
ABLATION_BODY = _request_body(
    _object_schema({"image": _BASE64_SCHEMA, "off": _OFF_SCHEMA, "swap": _SWAP_SCHEMA}, ["image"]),
    _object_schema(
        {"image": _BINARY_SCHEMA, "ablation": {"type": "string", "examples": [_ABLATION_EXAMPLE]}}, ["image"]
    ),
    {"image": EXAMPLE_IMAGE, "off": [], "swap": []},
    required=True,
)
