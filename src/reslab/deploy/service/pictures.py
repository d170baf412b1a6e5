"""A picture that came over the wire, guarded before it is decoded, then made ready for a network."""

import base64
import io

from PIL import Image
from torch import Tensor

from reslab.data.decode import read_picture
from reslab.data.jpeg import is_ordinary
from reslab.deploy.preparation import Preparation
from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.images import KINDS, Header, read_header

# Longer side by shorter side. The shorter side is scaled to the network's, and the longer one grows with it.
MOST_STRETCHED = 64


def check_header(content: bytes, max_pixels: int) -> Header:
    """The header of a picture that may be decoded.

    Raises Refused: 415 for what is no picture of a kind that is read here, 413 for more pixels than `max_pixels`, 422
    for a strip that scaling would blow up.
    """
    header = read_header(content)
    if header is None:
        got = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "no bytes"
        raise refused(415, f"a picture ({', '.join(KINDS)})", got, "save it in one of these formats")
    _check_size(header.width, header.height, max_pixels)
    return header


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise refused(413, f"a picture of at most {max_pixels:,} pixels", f"{width}x{height}", "make it smaller")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        required = f"a picture whose longer side is at most {MOST_STRETCHED} times the shorter one"
        raise refused(422, required, f"{width}x{height}", "crop it")


def check_opened(content: bytes, header: Header, max_pixels: int) -> None:
    """Whether Pillow reads the same kind and no larger size from the header, so that none but its decoder is asked.

    Raises Refused as `check_header`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[header.kind]) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        got = str(error) or type(error).__name__
        raise refused(422, "a picture that can be read", got, "save it again") from None
    _check_size(width, height, max_pixels)


def ready(content: bytes, prepare: Preparation, max_pixels: int) -> Tensor:
    """uint8 (C, H, W) as the network takes it. Raises Refused (413, 415, 422)."""
    header = check_header(content, max_pixels)
    if header.kind != "JPEG" or not is_ordinary(content):
        check_opened(content, header, max_pixels)
    try:
        return prepare.prepare(read_picture(content, prepare.preprocess.channels, "the picture", header.kind.lower()))
    except ValueError as error:
        raise Refused(422, str(error)) from None


def picture_png(pixels: Tensor) -> bytes:
    """uint8 (1 or 3, H, W) as a PNG file."""
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def picture_uri(pixels: Tensor) -> str:
    """uint8 (1 or 3, H, W) as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(picture_png(pixels)).decode()}"
