"""The OpenAPI schemas of responses, errors and request bodies."""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, Field

from reslab.deploy.server.errors import ErrorKind
from reslab.spec.task import TargetKind


class ErrorResponse(BaseModel):
    """An error: its message (what was required, what came, the next step) and its kind."""

    kind: ErrorKind
    error: str = Field(examples=["required: an image (JPEG, PNG, WebP, GIF, BMP); got: no bytes"])


class ClassScoreSchema(BaseModel):
    """A class and its predicted probability; in a multi-label task also its threshold."""

    name: str
    probability: float
    threshold: float | None = None


class MaskSchema(BaseModel):
    """A mask in COCO's run-length encoding: `size` is height and width."""

    size: list[int]
    counts: str


class BoxSchema(BaseModel):
    """An object in an image: its class, score and `box` (x1, y1, x2, y2) in pixels; of Mask R-CNN also its mask."""

    name: str
    score: float
    box: list[float]
    segmentation: MaskSchema | None = None


class ImagePrediction(BaseModel):
    """The prediction for one image, or its error; it has what the task of the network predicts.

    Classification: the most probable `classes`. Multi-label: the `classes` above their thresholds, or the most probable
    ones. Regression: `values` by target, in their unit. Segmentation: `mask`, a PNG of class numbers at the image's own
    size, and `overlay`, the mask over the image, as data URIs; `shares` are the fractions of the pixels by class.
    Detection: `boxes`, the highest score first.
    """

    classes: list[ClassScoreSchema] | None = None
    values: dict[str, float] | None = None
    shares: dict[str, float] | None = None
    boxes: list[BoxSchema] | None = None
    mask: str | None = None
    overlay: str | None = None
    error: str = ""


class PredictResponse(BaseModel):
    """One prediction per image, in the order they were sent."""

    model: str
    predictions: list[ImagePrediction]
    backend: str
    precision: str
    latency_ms: float


class RejectedBlock(BaseModel):
    """A block that the ablation left unchanged, and the reason."""

    block: str
    reason: str


class ExplainResponse(BaseModel):
    """A `heatmap` (H, W) from 0 to 1 over `image`, the prepared image.

    Of a mask or a box it is over the image as it was sent, of at most 128 pixels a side, and there is no `image`; `box`
    is the one that is explained.
    """

    label: str = Field(serialization_alias="class")
    method: str
    heatmap: list[list[float]]
    image: str | None = None
    classes: list[ClassScoreSchema]
    box: BoxSchema | None = None
    rejected: list[RejectedBlock]


class BlockResponseStd(BaseModel):
    """The standard deviation of a block's output in the intact and the ablated network."""

    block: str
    baseline: float | None
    ablated: float | None


class LesionResponse(BaseModel):
    """The top classes of the ablated network and of the intact one (`baseline`), for the union of both.

    Of a detector, whose blocks are those of its backbone, they are empty; it has `boxes` and `baseline_boxes`, else
    null.
    """

    classes: list[ClassScoreSchema]
    baseline: list[ClassScoreSchema]
    boxes: list[BoxSchema] | None = None
    baseline_boxes: list[BoxSchema] | None = None
    responses: list[BlockResponseStd]
    rejected: list[RejectedBlock]


class SingleBlockAblation(BaseModel):
    """One block switched off: the drop of the top class's probability, and the fraction of images that keep it.

    Of a detector, the mean drop of a box's score, 0 being that of a box that is gone, and the fraction of the boxes
    that are still found; null without a box.
    """

    block: str
    confidence_drop: float | None
    agreement: float | None
    reason: str


class LesionCurveResponse(BaseModel):
    """The blocks in order, averaged over `num_images` images."""

    blocks: list[SingleBlockAblation]
    num_images: int


class BlockPartMaps(BaseModel):
    """One channel of a block's shortcut, of its branch with its factor, and of its output, as images of one gray scale:
    that of the three without a factor."""

    channel: int
    factor: float
    shortcut: str
    branch: str
    output: str


class BlockDetailsResponse(BaseModel):
    """The strongest feature maps of a block; standard deviations of output, branch and shortcut; the norm of the
    gradient of the top class's logit with respect to the output, of a detector that of the highest score of a box (null
    without a box); maps of the parts, which plain blocks do not have."""

    block: str
    feature_maps: list[str]
    channels: list[int]
    output_shape: list[int]
    output_std: float | None
    branch_std: float | None
    shortcut_std: float | None
    gradient_norm: float | None
    parts: BlockPartMaps | None
    rejected: list[RejectedBlock]


class BlockInfo(BaseModel):
    """A block: its layout, shape and parameters; whether it can be disabled, and its swap partners."""

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
    """A stage and its blocks in order."""

    name: str
    blocks: list[BlockInfo]


class MetricInfo(BaseModel):
    """The metric of a task; `is_fraction`: it is from 0 to 1 and shown as a percentage."""

    name: str
    title: str
    is_fraction: bool


class ModelInfo(BaseModel):
    """A served model for a `task`, whose predictions have the form `target`.

    `metric` is that of the task, a key of `metrics`. `thresholds` are those of the classes in a multi-label task,
    `class_colors` those of masks and boxes (#rrggbb; empty for a class that is not drawn); null in other tasks.

    `finished`: it has final weights. `checkpoint_step`: the step of its weights while its run is in training.
    `problem`: what is wrong with its files, empty if nothing is. `eval_split`: the split that it is evaluated on,
    `validation` or `test`, empty if that is not recorded. `has_layers`: it is no exported graph, so that heatmaps can
    be computed.
    """

    name: str
    arch: str
    task: str
    target: TargetKind
    metric: MetricInfo
    thresholds: list[float] | None
    class_colors: list[str] | None
    reference: str
    classes: list[str]
    input_size: list[int]
    preprocess: dict[str, Any] | None
    metrics: dict[str, Any] | None
    eval_split: str
    has_run: bool
    has_weights: bool
    has_layers: bool
    finished: bool
    checkpoint_step: int | None
    problem: str
    depth: int
    params: int
    order: str
    merge: str
    stem: str
    head: str
    stages: list[StageInfo]


class ModelsResponse(BaseModel):
    """The served models, the first of which is the default, and the limits of a request."""

    models: list[ModelInfo]
    limits: dict[str, float]


class SampleInfo(BaseModel):
    """A validation or test image and its class."""

    id: int
    label: str
    name: str


class SamplesResponse(BaseModel):
    """Images of the `split` (`validation` or `test`) in a fixed random order."""

    split: str
    samples: list[SampleInfo]


class SamplePrediction(BaseModel):
    """A validation or test image with its true and its predicted class, the predicted probability, and the loss."""

    id: int
    true: str
    predicted: str
    probability: float
    loss: float
    name: str


class ConfusionCellResponse(BaseModel):
    """The images of one cell of the confusion matrix."""

    samples: list[SamplePrediction]


class ClassMetricsSchema(BaseModel):
    """The metrics of one class on the evaluation split; null where one is undefined."""

    name: str
    num_samples: int
    precision: float | None
    recall: float | None
    f1: float | None


class RunResponse(BaseModel):
    """A run: its log from record `since` on and, once `evaluated`, its network's errors on the images of its split.

    `misclassified` are the top losses, the highest first.
    """

    log: list[dict[str, Any]]
    num_records: int
    classes: list[str]
    finished: bool
    step: int
    num_steps: int | None
    evaluated: bool
    confusion_matrix: list[list[int]] | None
    misclassified: list[SamplePrediction]
    per_class: list[ClassMetricsSchema]
    num_images: int
    reason: str


class HealthResponse(BaseModel):
    """The status of the server."""

    status: str


_STATUS_DESCRIPTIONS = {
    400: "The body does not match its content type.",
    401: "The token is missing or wrong.",
    403: "The server does not answer to this host name, or to web pages of this origin.",
    404: "There is no such model, or it lacks what was requested.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or an unsupported content type.",
    422: "An invalid value; the message names the nearest valid one.",
    429: "No free capacity; try again after Retry-After seconds.",
    503: "The run has no weights yet, or its files cannot be read.",
    504: "No response within the time limit.",
}
_READ_STATUSES = (403, 401, 404, 422)
_INFERENCE_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


def _error_responses(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _STATUS_DESCRIPTIONS[status]} for status in statuses}


# Errors of a route that only reads, of one that takes an image, and of a health check.
READ_ERRORS, INFERENCE_ERRORS, HEALTH_ERRORS = (
    _error_responses(_READ_STATUSES),
    _error_responses(_INFERENCE_STATUSES),
    _error_responses((403, 503)),
)
UNREADABLE_ERRORS = _error_responses((503,))
OVERLOAD_ERRORS = _error_responses((429, 503, 504))


ModelQuery = Annotated[str, Query(description="A model by name; the first if empty.")]
ModelPath = Annotated[str, Path(description="A model by name.")]

# A ring of 8x8 gray pixels, as PNG in base64.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAI0lEQVR42mNggAJG"
    "Bob/EIqB4T8Dw38GBiaYFCaDBaIICQAArjIECQCbkREAAAAASUVORK5CYII="
)
_BINARY_SCHEMA = {"type": "string", "format": "binary"}
_BASE64_SCHEMA = {"type": "string", "contentEncoding": "base64", "examples": [EXAMPLE_IMAGE]}
_OFF_SCHEMA = {"type": "array", "items": {"type": "string"}, "description": "Blocks to switch off (branch zero)."}
_PAIR_SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
_SWAP_SCHEMA = {"type": "array", "items": _PAIR_SCHEMA, "description": "Pairs of blocks to swap."}
_SCALE_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": -10, "maximum": 10},
    "description": "Factors of branches by block: 0 leaves the shortcut alone, 1 changes nothing.",
}
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


# One or more images; at most one; exactly one, with an ablation.
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
    _object_schema(
        {"image": _BASE64_SCHEMA, "off": _OFF_SCHEMA, "swap": _SWAP_SCHEMA, "scale": _SCALE_SCHEMA}, ["image"]
    ),
    _object_schema(
        {"image": _BINARY_SCHEMA, "ablation": {"type": "string", "examples": [_ABLATION_EXAMPLE]}}, ["image"]
    ),
    {"image": EXAMPLE_IMAGE, "off": [], "swap": [], "scale": {}},
    required=True,
)
