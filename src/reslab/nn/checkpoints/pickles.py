"""Describe a pickle without running it: which functions and classes it would call."""

import io
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 20
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
# The number that starts a file of torch.save before zip files (torch.serialization.MAGIC_NUMBER).
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_MIN_OPCODES = 3  # nearly any file begins with one or two bytes that are opcodes
# Names that files of tensors have.
_HARMLESS = re.compile(
    r"(collections\.OrderedDict|(__builtin__|builtins)\.(set|dict|list)|argparse\.Namespace|_codecs\.encode"
    r"|numpy\..*(dtype|scalar|ndarray|_reconstruct|_frombuffer)|torch\.(Size|\w+Storage|storage\.\w+|_utils\._rebuild_\w+|device|\w+\d+))"
)


def unsafe_names(content: bytes) -> list[str]:
    """Return the functions and classes that the first pickles in `content` call, beyond those of tensors.

    Names that a pickle assembles in its memo are found too, as far as they are strings just before their use.
    """
    names = [name for name in _global_names(content) if not _HARMLESS.fullmatch(name)]
    return list(dict.fromkeys(names))


def _global_names(content: bytes) -> Iterator[str]:
    stream, strings, memo = io.BytesIO(content), list[str](), dict[Any, str]()
    while stream.tell() < len(content):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif opcode.name in _STRINGS:
                    strings.append(str(argument))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = strings[-1] if strings else ""
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET") and argument in memo:
                    strings.append(memo[argument])
        except Exception:  # damaged, cut, or not a pickle: pickletools raises ValueError and others
            return


def is_pickle(content: bytes) -> bool:
    """Return True if `content` begins with a whole pickle of any protocol."""
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(content)):
            count += 1
            if opcode.name == "STOP":
                return count >= _MIN_OPCODES
    except Exception:  # as above
        return False
    return False


def is_torch_pickle(content: bytes) -> bool:
    """Return True if `content` begins as the files of torch.save did before they were zip files."""
    return _TORCH_MAGIC in content[:32]


def pickle_protocol(content: bytes) -> int:
    """Return the protocol of a pickle; 1 stands for 0 too."""
    return content[1] if content[:1] == b"\x80" and len(content) > 1 else 1


def read_head(path: Path) -> bytes:
    """Return the first MiB of a file, enough for the names in a pickle without its tensors."""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
