"""The image formats that are read, by file extension and by Pillow's name, and how a file of one is opened.

The list is explicit: Pillow would open anything that it has a plugin for, and run Ghostscript for EPS.
"""

import contextlib
import importlib
import importlib.util
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# Pillow's name of a format -> the file extensions. TGA comes last: it has no signature.
FORMAT_EXTENSIONS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
}
IMAGE_EXTENSIONS: tuple[str, ...] = tuple(sorted(e for names in FORMAT_EXTENSIONS.values() for e in names))
"""The file extensions that are images, everywhere: in class folders, CSV files, shards and folders to predict."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_EXTRA = "heic"


_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Avif", "Jpeg2K", "Qoi", "Tga")
# Imported now: a process that is forked to decode then has them, and `Image.init` would import all 45.
for _plugin in _PLUGINS:
    with contextlib.suppress(ImportError):  # AVIF is newer than the oldest Pillow allowed
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")


def is_image_name(name: str) -> bool:
    """Return True if a file name has an image extension and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def is_heif(prefix: bytes) -> bool:
    """Return True if a file begins like HEIF (of HEVC, not AVIF)."""
    return prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS


def has_heif_reader() -> bool:
    """Return True if the extra `heic` is installed; then Pillow can open HEIF."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    if "HEIF" not in Image.OPEN:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return True


_limit_lock = threading.Lock()
_pillow_limit: list[int | None] = []  # Pillow's limit, once for every thread that is decoding


@contextlib.contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Suspend Pillow's own limit on pixels in the `with` block, for `DecodeLimits` are checked in its place.

    Some plugins raise above twice `Image.MAX_IMAGE_PIXELS`, 178 million, and warn above it. It is one for the whole
    process: it is restored when no thread is in such a block.
    """
    with _limit_lock:
        _pillow_limit.append(_pillow_limit[0] if _pillow_limit else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _limit_lock:
            limit = _pillow_limit.pop()
            if not _pillow_limit:
                Image.MAX_IMAGE_PIXELS = limit


def open_image(file: BinaryIO, formats: Iterable[str] = FORMAT_EXTENSIONS) -> Image.Image:
    """Return Pillow's image of an open file of one of the formats, with size and mode but without pixels yet.

    Raises UnidentifiedImageError for a file of no listed format, with a reason if it begins like one, and whatever
    Pillow raises for a damaged header.
    """
    file.seek(0)
    prefix, reason = file.read(16), ""
    if is_heif(prefix):
        has_heif_reader()  # registers it
    for name in formats:
        # The plugins are called directly: `Image.open` has a limit on pixels of its own, one for the whole process.
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory is not None and (accept is None or accept(prefix))
        if factory is None or not accepted or isinstance(accepted, str):  # a str says why the format is not supported
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            reason = reason or (str(error) if accept else "")
    raise UnidentifiedImageError(reason)
