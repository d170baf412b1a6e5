"""CIFAR-10 from WebDataset shards, gzipped or not: unpacked, decoded once, opened with its own mean and deviation.

python benchmarks/gpu/cifar.py --data FOLDER --output FOLDER      --small makes a few images instead
"""

import argparse
import gzip
import io
import shutil
import sys
import tarfile
from pathlib import Path

import torch
from PIL import Image

from reslab.data.dataset import DatasetSplits
from reslab.data.registry import open_dataset

MEAN, STD = "0.4914,0.4822,0.4465", "0.2470,0.2435,0.2616"
NORMALIZE = {"normalize.mean": MEAN, "normalize.std": STD}
SMALL_COUNTS = {"train": 640, "test": 200}


def unpack(source: Path, target: Path) -> int:
    """Put the shards of a folder, also of folders in it, into `target`, gunzipped; return their number."""
    target.mkdir(parents=True, exist_ok=True)
    names = [path for path in sorted(source.rglob("*")) if path.name.endswith((".tar", ".tar.gz"))]
    for path in names:
        output = target / path.name.removesuffix(".gz")
        with path.open("rb") as file:
            is_gzipped = file.read(2) == b"\x1f\x8b"
        if is_gzipped:
            with gzip.open(path) as packed, output.open("wb") as file:
                shutil.copyfileobj(packed, file)
        elif not output.exists():
            output.symlink_to(path.resolve())
    for classes in sorted(source.rglob("classes.txt"))[:1]:
        shutil.copy(classes, target / "classes.txt")
    return len(names)


def make_small(target: Path) -> None:
    """Write shards of noisy images of ten colors: enough to try every step, not to measure anything."""
    target.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (10, 3, 1, 1), generator=generator)
    for split, count in SMALL_COUNTS.items():
        with tarfile.open(target / f"{split}-000.tar", "w") as archive:
            for i in range(count):
                noise = torch.randint(-60, 60, (3, 32, 32), generator=generator)
                pixels = (colors[i % 10] + noise).clamp(0, 255).to(torch.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
                for extension, content in (("png", buffer.getvalue()), ("cls", str(i % 10).encode())):
                    member = tarfile.TarInfo(f"{i:05d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def open_cifar10(folder: Path) -> DatasetSplits:
    """Open unpacked shards; the pixels come from the cache after the first time."""
    return open_dataset(folder)


def main() -> int:
    """Unpack and decode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if args.data is None:
        make_small(args.output)
    elif not args.data.is_dir() or not unpack(args.data, args.output):
        print(f"no shards (*.tar, *.tar.gz) in {args.data}", flush=True)
        return 1
    data = open_cifar10(args.output)
    counts = {split: len(images) for split, images in data.splits.items()}
    print(f"{data.name}: {counts}, {len(data.classes)} classes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
