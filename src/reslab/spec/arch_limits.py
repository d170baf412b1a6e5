"""The bound on the sizes of an architecture that comes from a file, checked before anything is laid out or built."""

import re
from dataclasses import fields
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid

# A larger input would not fit in memory; the papers' inputs are below 1,000.
MAX_IMAGE_SIDE = 16384
MAX_SIZE = 10_000_000
"""The largest number of channels, classes, groups or blocks."""
MAX_NUMBER_IN_TEXT = 100_000
"""The largest number in an expression, where it may count branches or convolutions: `conv(res2(4))`."""
MAX_TEXT_LENGTH = 10_000
MAX_VALUES = 1_000
"""The most values of an axis: one a stage, or one a convolution of a block."""
_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE]\+?\d+)?|\.\d+(?:[eE]\+?\d+)?")


def check_arch_size(arch: Arch | DenseArch, source: object) -> None:
    """Raise ValueError, naming the axis and `source`, for a size that no network has."""
    if isinstance(arch, DenseArch):
        check_arch_size(arch.backbone, source)
    sides = arch.image_size
    if arch.dims not in (1, 2, 3):
        raise invalid("arch.dims of 1, 2 or 3", f"{str(arch.dims)[:40]} in {source}")
    if len(sides) != arch.dims or min(sides) < 1 or max(sides) > MAX_IMAGE_SIDE:
        number = {1: "one side", 2: "two sides", 3: "three sides"}[arch.dims]
        raise invalid(f"arch.image_size as {number} from 1 to {MAX_IMAGE_SIDE}", f"{list(sides)} in {source}")
    for field in fields(arch):
        if field.name not in ("name", "reference"):
            _check_axis(field.name, getattr(arch, field.name), source)


def _check_axis(name: str, value: Any, source: object) -> None:
    if isinstance(value, str):
        if len(value) > MAX_TEXT_LENGTH:
            raise invalid(f"arch.{name} of at most {MAX_TEXT_LENGTH:,} characters", f"{len(value):,} in {source}")
        for number in _NUMBER.findall(value):
            # The length first: float() of thousands of digits is infinite, and int() of them an error.
            if len(number) > 30 or float(number) > MAX_NUMBER_IN_TEXT:
                raise invalid(f"arch.{name} with numbers up to {MAX_NUMBER_IN_TEXT:,}", f"{number[:40]} in {source}")
    elif isinstance(value, tuple):
        if len(value) > MAX_VALUES:
            raise invalid(f"arch.{name} of at most {MAX_VALUES:,} values", f"{len(value):,} in {source}")
        for item in value:
            _check_axis(name, item, source)
    elif isinstance(value, int) and abs(value) > MAX_SIZE:
        raise invalid(f"arch.{name} of at most {MAX_SIZE:,}", f"{str(value)[:40]} in {source}")
