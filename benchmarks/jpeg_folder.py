"""From a folder of JPEG files to training batches at 224x224, on one core: reslab and torchvision's reference pipeline.

    python benchmarks/jpeg_folder.py FOLDER        class folders of JPEG files, such as hymenoptera_data/train

The reference is `references/classification` of torchvision with its default backend: ImageFolder,
RandomResizedCrop(224), flip, tensor, normalization, in torch's DataLoader. Both run in this process (no workers) on one
thread, and the clock is that thread's processor time, so other processes matter little.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from side_by_side import Step, make_parser, report, run_rounds
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


def ours(folder: Path, batch_size: int) -> Step:
    """Return a step that takes the next batch of reslab's loader with the same transforms."""
    data = open_dataset(str(folder), val_fraction=0.1)
    preprocess = Preprocess(3, "", MEAN, STD)
    loader = TrainLoader(data.split("train"), batch_size, "random-resized-crop(224) flip", preprocess, 0, "cpu")
    batches = loader.iter_from()
    return lambda: next(batches)


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    candidates = {
        "torchvision's reference": reference(args.folder, args.batch_size),
        "ours": ours(args.folder, args.batch_size),
    }
    args.processor_time = True
    rates = run_rounds(candidates, args.batch_size, 1, args)
    title = f"JPEG folder to batches of {args.batch_size} at 224x224, one thread"
    report(title, rates, "torchvision's reference", args.json)


if __name__ == "__main__":
    main()
