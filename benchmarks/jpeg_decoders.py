"""Decoders of JPEG files: full size and reduced, one thread, processor time.

    python benchmarks/jpeg_decoders.py FOLDER        a folder with JPEG files, such as hymenoptera_data/train
    pip install simplejpeg torchcodec                adds these two; without them the others are measured

Only files with 8 bits, three channels and no rotation are decoded. Pixels at full size must equal Pillow's.
"""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import Step, make_parser, report_rates, run_rounds, set_up

from reslab.data.decode import read_image
from reslab.data.jpeg import decode_jpeg, simple_jpeg_size

PILLOW = "Pillow"
Decoder = Callable[[bytes], np.ndarray]


def pillow(content: bytes) -> np.ndarray:
    """Decode to (H, W, 3)."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def torchvision(content: bytes) -> np.ndarray:
    """Decode to (H, W, 3) as reslab does."""
    pixels = decode_jpeg(content)
    assert pixels is not None
    return pixels.permute(1, 2, 0).numpy()


def reduced(factor: int) -> Decoder:
    """Return reslab's decoder that reduces width and height by a factor."""
    return lambda content: read_image(content, choose_scale=lambda height, width: factor).numpy()


def decoders() -> dict[str, Decoder]:
    """Return the decoders at full size that are installed."""
    result: dict[str, Decoder] = {PILLOW: pillow, "torchvision": torchvision}
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        result["simplejpeg"] = simplejpeg.decode_jpeg
    if importlib.util.find_spec("torchcodec"):
        from torchcodec.decoders import decode_jpeg as codec_jpeg

        result["torchcodec"] = lambda content: codec_jpeg(content).permute(1, 2, 0).numpy()
    return result


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.threads, args.processor_time = 1, True
    set_up(args)
    contents = [path.read_bytes() for path in sorted(args.folder.rglob("*.jpg"))]
    contents = [content for content in contents if simple_jpeg_size(content)]
    for name, decode in decoders().items():
        assert np.array_equal(decode(contents[0]), pillow(contents[0])), name
    every = decoders() | {f"reslab, 1/{factor} of the size": reduced(factor) for factor in (2, 4, 8)}

    def step(decode: Decoder) -> Step:
        return lambda: [decode(content) for content in contents]

    rates = run_rounds({name: step(decode) for name, decode in every.items()}, len(contents), 1, args)
    size = np.mean([simple_jpeg_size(content) for content in contents], 0).round().astype(int).tolist()
    title = f"{len(contents)} JPEG files of {size[1]}x{size[0]} on average, torch {torch.__version__}, one thread"
    report_rates(title, rates, PILLOW, args.json)


if __name__ == "__main__":
    main()
