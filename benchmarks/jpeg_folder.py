"""From a folder of JPEG files to training batches at 224x224, on one core: reslab and torchvision's reference pipeline.

    python benchmarks/jpeg_folder.py FOLDER             class folders of JPEG files, such as hymenoptera_data/train
    python benchmarks/jpeg_folder.py FOLDER --enlarge 4 their copies in 4 times the width and height

The reference is `references/classification` of torchvision with its default backend: ImageFolder,
RandomResizedCrop(224), flip, tensor, normalization, in torch's DataLoader. Both run in this process (no workers) on one
thread, and the clock is that thread's processor time, so other processes matter little. "Scaled decoding" reads a file
at a fraction of its size where the crop allows it (`decoding=scaled`), which changes its pixels a little.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from side_by_side import Step, make_parser, report_rates, run_rounds, set_up
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from reslab.data.loader import TrainLoader
from reslab.data.registry import open_dataset
from reslab.spec.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference(folder: Path, batch_size: int) -> Step:
    """Return a step that takes the next batch of torchvision's reference pipeline."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.ToPureTensor(),
        ]
    )  # fmt: skip
    loader = DataLoader(ImageFolder(str(folder), transform), batch_size, shuffle=True, drop_last=True)

    def endless() -> Iterator[object]:
        for _ in itertools.count():
            yield from loader

    batches = endless()
    return lambda: next(batches)


def ours(folder: Path, batch_size: int, decoding: str) -> Step:
    """Return a step that takes the next batch of reslab's loader with the same transforms."""
    data = open_dataset(str(folder), val_fraction=0.1)
    preprocess = Preprocess(3, "", MEAN, STD)
    transform = f"random-resized-crop(224,decoding={decoding}) flip"
    loader = TrainLoader(data.split("train"), batch_size, transform, preprocess, 0, "cpu")
    batches = loader.iter_from()
    return lambda: next(batches)


def enlarged(folder: Path, target: Path, factor: int) -> Path:
    """Write copies of the photographs in `factor` times their width and height, and return their folder."""
    for path in sorted(folder.glob("*/*.jpg")):
        with Image.open(path) as image:
            size = image.width * factor, image.height * factor
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(copy, quality=90)
    return target


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--enlarge", type=int, default=1, help="factor of width and height")
    args = parser.parse_args()
    args.threads, args.processor_time = 1, True
    set_up(args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder if args.enlarge == 1 else enlarged(args.folder, Path(temporary), args.enlarge)
        candidates = {
            "torchvision's reference": reference(folder, args.batch_size),
            "ours": ours(folder, args.batch_size, "full"),
            "ours, scaled decoding": ours(folder, args.batch_size, "scaled"),
        }
        rates = run_rounds(candidates, args.batch_size, 1, args)
    title = f"batches of {args.batch_size} at 224x224, one thread, processor time, {args.rounds} rounds"
    title += f", photographs enlarged {args.enlarge} times" if args.enlarge > 1 else ""
    report_rates(title, rates, "torchvision's reference", args.json)


if __name__ == "__main__":
    main()
