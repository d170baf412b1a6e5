"""Decode ordinary JPEG files with torchvision, and collect what the decoder warns of.

torchvision gives the same pixels as Pillow in three quarters of the time: both call libjpeg-turbo, but torchvision
decodes into the tensor, while Pillow's pixels are copied. The markers of a file tell whether it is ordinary: 8 bits,
three channels, upright.
"""

import atexit
import contextlib
import importlib.util
import os
import re
import struct
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_SCAN_MARKER, _APP1_MARKER = 0xDA, 0xE1
_ORIENTATION_TAG, _SHORT_TYPE = 0x0112, 3
_UNCHANGED, _RGB = 0, 3
_IMAGE_LIBRARIES = ("image_stable.so", "image.so")  # named by the version of torchvision


def decode_jpeg(content: bytes) -> Tensor | None:
    """Decode an ordinary JPEG to uint8 (3, H, W), a pixel's channels adjacent in memory; None for any other content.

    A truncated or damaged file is None too: Pillow reports what is wrong with it.
    """
    return _decode(content, _RGB) if simple_jpeg_size(content) else None


def decode_jpeg_with_warning(content: bytes) -> tuple[Tensor | None, str]:
    """Return `decode_jpeg` and the first warning of libjpeg, "" if there is none (as in an undamaged file)."""
    has_torchvision_decoder()  # imports it before standard error is redirected
    return _collector.run(lambda: decode_jpeg(content))


def jpeg_warning(content: bytes) -> str:
    """Return the first warning of libjpeg about a JPEG of any kind, "" if there is none."""
    has_torchvision_decoder()
    return _collector.run(lambda: _decode(content, _UNCHANGED))[1]


def _decode(content: bytes, mode: int) -> Tensor | None:
    if not has_torchvision_decoder():
        return None
    try:
        # torchvision.io.decode_jpeg warns that it will be removed; when it is, `has_torchvision_decoder` notices.
        pixels: Tensor = torch.ops.image.decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode, False
        )
    except RuntimeError:
        return None
    return pixels


@cache
def has_torchvision_decoder() -> bool:
    """Return True if torchvision can decode; the first call loads its decoder.

    A process that starts others to decode calls this first, so that not every one of them loads it.
    """
    if not _load_image_library():
        import torchvision.io  # noqa: F401 - registers torch.ops.image

    return hasattr(torch.ops.image, "decode_jpeg")


def _load_image_library() -> bool:
    """Load torchvision's library of decoders without its Python modules, which take two seconds to import.

    Return False where it is not at one of the places known.
    """
    package = importlib.util.find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        for path in (Path(folder) / name for name in _IMAGE_LIBRARIES):
            if path.is_file():
                with contextlib.suppress(OSError):
                    torch.ops.load_library(path)
                    return True
    return False


def simple_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return height and width of a JPEG with 8 bits, three channels and no rotation; None for any other content."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    offset, size = 2, None
    while offset + 4 <= len(content):
        prefix, marker, length = struct.unpack_from(">BBH", content, offset)
        body = offset + 4
        if prefix != 0xFF or length < 2:
            return None
        if marker == _SCAN_MARKER:
            return size
        if marker in _FRAME_MARKERS:
            if length < 8 or body + 6 > len(content):
                return None
            bits, height, width, channels = struct.unpack_from(">BHHB", content, body)
            size = (height, width) if bits == 8 and channels == 3 and height * width > 0 else None
        elif marker == _APP1_MARKER and not _is_upright(content[body : offset + 2 + length]):
            return None
        offset += 2 + length
    return None


def _is_upright(app1: bytes) -> bool:
    """Return True if an APP1 segment (EXIF or XMP) leaves the image unrotated; False if it cannot be read."""
    if not app1.startswith(b"Exif\0\0"):
        return b"Orientation" not in app1
    byte_order = {b"II": "<", b"MM": ">"}.get(app1[6:8])
    if byte_order is None:
        return False
    try:
        (ifd_offset,) = struct.unpack_from(f"{byte_order}I", app1, 10)
        (num_entries,) = struct.unpack_from(f"{byte_order}H", app1, 6 + ifd_offset)
        for entry_offset in range(8 + ifd_offset, 8 + ifd_offset + 12 * num_entries, 12):
            tag, field_type, _, value = struct.unpack_from(f"{byte_order}HHIH", app1, entry_offset)
            if tag == _ORIENTATION_TAG:
                return bool(field_type == _SHORT_TYPE and value == 1)
    except struct.error:
        return False
    return True


# The beginnings of libjpeg's warnings (jerror.h, messages JWRN_*); it has no other way to report them.
_WARNING = re.compile(
    rb"(Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression sequence|Unknown Adobe color transform"
    rb"|Warning: unknown JFIF revision|Invalid SOS parameters for sequential JPEG|Application transferred too many)"
)
_STDERR = 2


class _WarningCollector:
    """Runs decoders while the file descriptor of standard error, where libjpeg writes its warnings, is a file.

    What others write there meanwhile is passed on. Decoders run concurrently; if a warning appears that one of several
    may have caused, each of them decodes again alone. Where there is no standard error, no warning is known.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._num_running, self._num_started, self._is_exclusive = 0, 0, False
        self._real_stderr, self._num_drained = -1, 0
        self._file: BinaryIO | None = None
        self._warnings: list[str] = []

    def run(self, decode: Callable[[], Tensor | None]) -> tuple[Tensor | None, str]:
        """Return the result of `decode` and the first warning of libjpeg meanwhile."""
        result, warnings, was_alone = self._run(decode, is_exclusive=False)
        if warnings and not was_alone:
            result, warnings, _ = self._run(decode, is_exclusive=True)
        return result, warnings[0] if warnings else ""

    def _run(self, decode: Callable[[], Tensor | None], is_exclusive: bool) -> tuple[Tensor | None, list[str], bool]:
        with self._condition:
            self._condition.wait_for(lambda: not self._is_exclusive and not (is_exclusive and self._num_running))
            self._is_exclusive = is_exclusive
            if self._num_running == 0:
                self._redirect()
            was_alone = self._num_running == 0
            self._num_running += 1
            self._num_started += 1
            num_started, num_warnings = self._num_started, len(self._warnings)
        try:
            result = decode()
        finally:
            with self._condition:
                self._drain()
                warnings = self._warnings[num_warnings:]
                was_alone = was_alone and self._num_started == num_started
                self._num_running -= 1
                self._is_exclusive = False
                if self._num_running == 0:
                    self._restore()
                self._condition.notify_all()
        return result, warnings, was_alone

    def _redirect(self) -> None:
        self._drain()
        self._warnings.clear()
        with contextlib.suppress(OSError):
            self._real_stderr = os.dup(_STDERR)
            os.set_inheritable(self._real_stderr, False)
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
            os.dup2(self._file.fileno(), _STDERR)

    def _restore(self) -> None:
        if self._real_stderr >= 0:
            os.dup2(self._real_stderr, _STDERR)
            os.close(self._real_stderr)
            self._real_stderr = -1
            self._drain()  # a write that has begun before this may still end in the file, so it stays

    def close(self) -> None:
        """Pass on the rest and close the file."""
        self._drain()
        if self._file is not None:
            self._file.close()
            self._file, self._num_drained = None, 0

    def _drain(self) -> None:
        """Move what was written since the last call: warnings into the list, all else to the real standard error."""
        if self._file is None:
            return
        real_stderr = self._real_stderr if self._real_stderr >= 0 else _STDERR
        # The descriptor shares its position with the file, so the end is where the next writer continues.
        content = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, self._num_drained)
        self._num_drained += len(content)
        for line in content.splitlines(keepends=True):
            if _WARNING.match(line):
                self._warnings.append(line.decode(errors="replace").strip())
            else:
                with contextlib.suppress(OSError):  # its reader is gone: no reason for a decoder to fail
                    os.write(real_stderr, line)

    def restore_after_fork(self) -> None:
        """Give a forked process its standard error back: the threads that decoded are not in it."""
        if self._real_stderr >= 0:
            os.dup2(self._real_stderr, _STDERR)
        self._reset()


_collector = _WarningCollector()
atexit.register(_collector.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collector.restore_after_fork)
