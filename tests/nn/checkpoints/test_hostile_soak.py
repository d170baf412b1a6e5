"""Hostile checkpoints of every format: nothing is executed, and each is loaded right or refused with a clear error.

Every file goes through `create_model(pretrained=)` and `reslab predict`.
"""

import io
import json
import math
import os
import pickle
import resource
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from reslab.cli.app import main
from reslab.nn.checkpoints.safetensors_io import format_header, read_header, save_weights
from reslab.nn.factory import create_model

AXES: dict[str, Any] = {"depths": "1,1,1", "widths": "4,4,4", "stem": "conv3(4) norm act", "num_classes": 3}
MAX_SECONDS = 15.0
MAX_GROWTH_BYTES = 1 << 30
Write = Callable[[Path], object]


class Call:
    """A value whose pickle calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def good_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(create_model("resnet20_cifar", **AXES).state_dict())


def torch_cases(folder: Path) -> Iterator[tuple[str, Write]]:
    """Pickles that run something, in every protocol and wrapping of torch, and with tensors that are not plain."""
    mark = f"touch {folder / 'ran'}"
    calls = {"os.system": Call(os.system, mark), "eval": Call(eval, f"__import__('os').system({mark!r})")}
    calls["open"] = Call(open, str(folder / "ran"), "w")
    for name, call in calls.items():
        for protocol in range(6):
            content = pickle.dumps({"model": call}, protocol)
            yield f"bare pickle {protocol} {name}", lambda path, content=content: path.write_bytes(content)
        for protocol in (2, 3, 4, 5):
            for zipped in (True, False):
                state = {**good_state(), "more": call}
                options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
                yield (
                    f"torch {protocol} {'zip' if zipped else 'legacy'} {name}",
                    lambda path, state=state, options=options: torch.save(state, path, **options),
                )
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "complex": lambda tensor: tensor.to(torch.complex64),
        "sparse": lambda tensor: tensor.to_sparse(),
        "sparse rows": lambda tensor: tensor.flatten(1).to_sparse_csr(),
        "meta": lambda tensor: tensor.to("meta"),
        "integer": lambda tensor: tensor.to(torch.int32),
        "bool": lambda tensor: tensor.to(torch.bool),
        "NaN": lambda tensor: tensor * math.nan,
        "infinite": lambda tensor: tensor + math.inf,
        "8 bits": lambda tensor: tensor.to(torch.float8_e4m3fn),
        "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "expanded to 10^12": lambda tensor: torch.zeros(1).expand(10**12),
        "empty": lambda tensor: torch.zeros(0),
        "other shape": lambda tensor: tensor[:1],
    }
    for name, change in changes.items():
        state = good_state()
        state["conv1.weight"] = change(state["conv1.weight"])
        yield f"weights {name}", lambda path, state=state: torch.save(state, path)
    yield "a tensor alone", lambda path: torch.save(torch.zeros(3), path)
    yield "nothing", lambda path: torch.save({}, path)
    yield "names that are numbers", lambda path: torch.save({7: torch.zeros(3)}, path)
    shared = torch.zeros(1)
    many = {f"n{number}": shared for number in range(1_000_000)}
    yield "a million names", lambda path: torch.save(many, path)
    yield "a million names, legacy", lambda path: torch.save(many, path, _use_new_zipfile_serialization=False)
    yield "storage too small", lambda path: torch.save({"w": _oversized_tensor()}, path)
    deep: Any = {}
    for _ in range(400):
        deep = {"model": deep}
    yield "nested 400 deep", lambda path: torch.save(deep, path)
    yield "brackets 100,000 deep", lambda path: path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"." * 2)
    yield "memo of 2^32", lambda path: path.write_bytes(b"\x80\x02]r\xff\xff\xff\xff.")
    yield "string of 2^31", lambda path: path.write_bytes(b"\x80\x02X\xff\xff\xff\x7fabc.")
    yield "number of 2^31 bytes", lambda path: path.write_bytes(b"\x80\x02\x8b\xff\xff\xff\x7fabc.")


def _oversized_tensor() -> Call:
    storage = torch.zeros(4).storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, (2 * 10**9,), (1,), False, {})


def zip_cases(folder: Path) -> Iterator[tuple[str, Write]]:
    """Zip and npz files that declare what they lack, in sizes, checksums, types and names."""

    def npz(shape: Any, dtype: str = "<f4", content: bytes = bytes(16), method: int = zipfile.ZIP_STORED) -> Write:
        def write(path: Path) -> None:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
            with zipfile.ZipFile(path, "w", method) as archive:
                archive.writestr("fc.weight.npy", header.getvalue() + content)

        return write

    for shape in [(5 * 10**9,), (10**12,), (-1,), (-(2**40), 2**40), (2**62, 4), (2**64,), (0, 2**63), (3,)]:
        yield f"npz of shape {shape}", npz(shape)
    for dtype in ("<c8", "<f16", "|V8", "<U4", "<M8[s]", "|b1", "<i8", "|O"):
        yield f"npz of {dtype}", npz((1,), dtype, bytes(16)[: max(1, np.dtype(dtype).itemsize)])
    yield "npz bomb", npz((1 << 28,), content=bytes(1 << 30), method=zipfile.ZIP_DEFLATED)
    objects = np.array([Call(os.system, f"touch {folder / 'ran'}")], dtype=object)
    yield "npz of objects", lambda path: path.write_bytes(_bytes(lambda file: np.savez(file, w=objects)))
    yield (
        "npz header of code",
        lambda path: _write_zip(path, {"w.npy": b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('x')    \n"}),
    )
    yield "npz header too long", lambda path: _write_zip(path, {"w.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"})
    yield "npz of version 9", lambda path: _write_zip(path, {"w.npy": b"\x93NUMPY\x09\x00\x02\x00{}"})
    yield "npz of nothing", lambda path: _write_zip(path, {"w.npy": b""})
    yield "zip of 20,000 entries", lambda path: _write_zip(path, {f"{number}.npy": b"" for number in range(20_000)})
    yield "zip of names that climb", lambda path: _write_zip(path, {"../../ran/data.pkl": pickle.dumps({}, 2)})
    yield "zip without torch weights", lambda path: _write_zip(path, {"a.txt": b"a"})
    whole = _bytes(lambda file: torch.save(good_state(), file))
    for index in (len(whole) // 4, len(whole) // 2):
        damaged = whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]
        yield f"torch with a wrong checksum at {index}", lambda path, damaged=damaged: path.write_bytes(damaged)
    for length in (1, 30, 1000, len(whole) // 2, len(whole) - 1):
        yield f"torch cut at {length}", lambda path, length=length: path.write_bytes(whole[:length])
    legacy = _bytes(lambda file: torch.save(good_state(), file, _use_new_zipfile_serialization=False))
    for length in (5, 100, 1000, len(legacy) // 2, len(legacy) - 1):
        yield f"legacy cut at {length}", lambda path, length=length: path.write_bytes(legacy[:length])


def safetensors_cases(folder: Path) -> Iterator[tuple[str, Write]]:
    """Headers of safetensors that fit nothing, and headers of our own with networks of any size."""

    def header(entries: Any, content: bytes = bytes(16), length: int | None = None) -> Write:
        text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        size = struct.pack("<Q", len(text) if length is None else length)
        return lambda path: path.write_bytes(size + text + content)

    def tensor(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
        return {"fc.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    shapes: tuple[Any, ...] = ((10**12,), (2**62, 4), (-4,), (2**64,), ("4",), (4.5,), None)
    for shape in shapes:
        yield f"safetensors of shape {shape}", header(tensor(shape=shape))
    for offsets in ((0, 2**63), (16, 0), (-16, 0), (0, 8), (8, 24)):
        yield f"safetensors at {offsets}", header(tensor(offsets=offsets))
    for dtype in ("F99", "C64", "I64", "BOOL", "U8", "F8_E4M3", "BF16"):
        yield f"safetensors of {dtype}", header(tensor(dtype))
    for length in (2**63, 2**64 - 1, 10**8, 0):
        yield f"safetensors header of {length} bytes", header(b"{}", length=length)
    for text in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b'{"a": 1}',
        b'{"__metadata__": []}',
    ):
        yield f"safetensors header {text[:12]!r}", header(text)
    million = {f"n{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(1_000_000)}
    yield "safetensors of a million names", header(million, b"")
    whole = save(good_state())
    for length in (4, 8, 100, len(whole) // 2, len(whole) - 1):
        yield f"safetensors cut at {length}", lambda path, length=length: path.write_bytes(whole[:length])
    axes: dict[str, Any] = {
        "depths": [10**9, 1, 1],
        "order": "conv(res2(1000000000)) norm act | conv norm + act",
        "groups": 10**9,
        "image_size": [10**6, 10**6],
        "convs": "3(100000*w), 3",
        "widths": "additive(16,100000)",
        "stem": "(" * 5000,
        "expansion": 10**7,
        "norm": "group(100000)",
        "head": "avgpool flatten " + "fc " * 3000,
        "num_classes": -1,
        "in_channels": 10**9,
        "strides": [0, 0, 0],
        "merge": "stochastic-depth(nan)",
        "drop_rate": math.nan,
        "norm_eps": -1.0,
    }
    for axis, value in axes.items():
        yield f"own header, {axis} {str(value)[:24]}", lambda path, axis=axis, value=value: _own_file(path, axis, value)


def _own_file(path: Path, axis: str, value: Any) -> None:
    torch.manual_seed(0)
    save_weights(path, create_model("resnet20_cifar", **AXES))
    header, tensors = read_header(path), load_file(path)
    header["arch"][axis] = value
    save_file(tensors, path, metadata={"reslab": format_header(header, tensors)})


def _write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _bytes(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


# Files whose weights differ from those of `good_state`, and are right as they are.
OTHER_LOADS = ("weights 8 bits",)


def is_right(model: Any) -> bool:
    """Return True if the network has the weights of `good_state`: what was damaged is not among them."""
    return all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in good_state().items())


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_hostile_checkpoints_are_loaded_right_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest: tuple[float, str] = (0.0, "")
    cases = [case for make in (torch_cases, zip_cases, safetensors_cases) for case in make(tmp_path)]
    for number, (name, write) in enumerate(cases):
        path = tmp_path / (f"{number}.safetensors" if "safetensors" in name or "own" in name else f"{number}.pth")
        write(path)
        peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            model: Any = create_model("resnet20_cifar", **AXES, pretrained=path)
            outcomes["loaded"] += 1
            if not (is_right(model) or name in OTHER_LOADS):
                failures.append(f"{name}: was loaded, {model.load_report.summary}")
        except ValueError as error:
            outcomes[type(error).__name__] += 1
            if "required:" not in str(error) or "got:" not in str(error):
                failures.append(f"{name}: {str(error)[:200]}")
        except BaseException as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        code = main(["predict", str(path), str(tmp_path / "a.png"), "--json"])
        output = capsys.readouterr().out
        outcomes[f"predict exit {code}"] += 1
        if code != 0 and ("unexpected error" in output or '"error"' not in output):
            failures.append(f"{name}: predict says {output[:200]}")
        if code == 0 and not name.startswith("own header"):
            failures.append(f"{name}: predict answers {output[:100]}")
        seconds = time.monotonic() - start
        slowest = max(slowest, (seconds, name))
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
        if growth > MAX_GROWTH_BYTES or seconds > MAX_SECONDS:
            failures.append(f"{name}: {growth >> 20} MiB more, {seconds:.1f} s")
        if (tmp_path / "ran").exists():
            failures.append(f"{name}: was executed")
            (tmp_path / "ran").unlink()
        path.unlink()
    with capsys.disabled():
        print(f"\n{len(cases)} hostile checkpoints: {dict(outcomes)}, slowest {slowest[0]:.1f} s ({slowest[1]})")
        print("\n".join(failures))
    assert failures == []
