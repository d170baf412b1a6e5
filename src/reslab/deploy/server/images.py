"""Decoding of untrusted images: within the limits of the server, and with the HTTP status of each refusal."""

import base64
import io

from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.decode_limits import DecodeLimits, ImageError, ImageErrorKind
from reslab.deploy.inputs import InferenceTransform, PreparedImage
from reslab.deploy.server.errors import HTTPError, http_error

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_ASPECT_RATIO = 64
"""Longer side / shorter side. Resizing the shorter side to the network's size enlarges the longer one too."""
_MAX_CHUNKS = 20_000
_STATUS = {ImageErrorKind.LIMIT: 413, ImageErrorKind.FORMAT: 415, ImageErrorKind.EMPTY: 415, ImageErrorKind.EXTRA: 415}


def server_limits(max_pixels: int) -> DecodeLimits:
    """Return the limits of images in requests: the formats of the web, up to `max_pixels`."""
    return DecodeLimits(max_pixels=max_pixels, max_chunks=_MAX_CHUNKS, formats=IMAGE_FORMATS)


def decode_image(content: bytes, transform: InferenceTransform, max_pixels: int) -> PreparedImage:
    """Return an image prepared for the network.

    Raises HTTPError: 413 for a limit, 415 for another format, 422 for a damaged image and for an extreme aspect ratio,
    which resizing would enlarge too much.
    """
    try:
        pixels = read_image(content, transform.preprocess.channels, "the image", server_limits(max_pixels))
        _check_aspect_ratio(*pixels.shape[1:])
        return PreparedImage(transform.apply(pixels), original=pixels if transform.keeps_original else None)
    except ImageError as error:
        status = _STATUS.get(error.kind, 422)
        if status == 415:
            got = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "no bytes"
            next_step = "save it in one of these formats"
            raise http_error(415, f"an image ({', '.join(IMAGE_FORMATS)})", got, next_step) from None
        raise HTTPError(status, str(error)) from None
    except ValueError as error:
        raise HTTPError(422, str(error)) from None


def _check_aspect_ratio(height: int, width: int) -> None:
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        required = f"an image whose longer side is at most {MAX_ASPECT_RATIO} times the shorter one"
        raise http_error(422, required, f"{width}x{height}", "crop it")


def encode_png(pixels: Tensor) -> bytes:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG file."""
    return _png_bytes(_to_image(pixels))


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())


def _png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_data_uri(pixels: Tensor) -> str:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG in a data URI."""
    return image_data_uri(_to_image(pixels))


def image_data_uri(image: Image.Image) -> str:
    """Encode an image as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(_png_bytes(image)).decode()}"
