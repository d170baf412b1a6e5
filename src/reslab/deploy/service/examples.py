"""What routes take, as OpenAPI tells it, with a picture that can be sent as it stands."""

from typing import Annotated, Any

from fastapi import Path, Query

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
