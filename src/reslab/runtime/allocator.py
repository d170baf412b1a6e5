"""The C library's allocator: set glibc to keep freed memory, which saves the page faults of every training step.

glibc gives large freed tensors back to the system and allocates them again, so that a step on a CPU pays thousands of
page faults, each of which the kernel answers with a zeroed page. Results do not depend on any of this.
"""

import ctypes
import os
from enum import StrEnum

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MAX_INT = 2**31 - 1
_MAX_MMAP_THRESHOLD = 32 * 2**20  # the largest that glibc takes; larger tensors are still given back
_GLIBC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_PRELOADED = ("jemalloc", "tcmalloc", "mimalloc")


class Allocator(StrEnum):
    """The allocator of this process, as far as `keep_freed_memory` finds out."""

    TUNED = "glibc, keeps freed memory"
    DEFAULT = "glibc, gives freed memory back"
    BY_ENVIRONMENT = "glibc, set by environment variables"
    PRELOADED = "preloaded"
    OTHER = "not glibc"


def keep_freed_memory() -> Allocator:
    """Set glibc to keep freed memory for the next tensors; call it before torch is imported.

    The memory of the process stays at its peak until it ends. Does nothing where another allocator is preloaded
    (LD_PRELOAD with jemalloc, tcmalloc or mimalloc, which save more), where environment variables set glibc's, and on
    systems without glibc. Returns the allocator in force.
    """
    allocator = _detect()
    if allocator is not Allocator.DEFAULT:
        return allocator
    mallopt = ctypes.CDLL(None).mallopt
    is_tuned = mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _MAX_INT)
    return Allocator.TUNED if is_tuned else Allocator.DEFAULT


def _detect() -> Allocator:
    if any(name in os.environ.get("LD_PRELOAD", "") for name in _PRELOADED):
        return Allocator.PRELOADED
    try:
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018
    except (AttributeError, OSError, TypeError):
        return Allocator.OTHER
    if any(os.environ.get(name) for name in _GLIBC_VARIABLES):
        return Allocator.BY_ENVIRONMENT
    return Allocator.DEFAULT
