"""Pictures that lie in tar files, on this machine or by URL, read one by one where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reslab.data.decode import read_picture
from reslab.data.formats.class_folders import name_in
from reslab.data.image_datasets import check_labels
from reslab.data.webdataset.http import read_range


@dataclass(frozen=True)
class Spot:
    """Where a picture's bytes lie: in which shard, from which byte on, how many; what it is called and how it ends.

    A shard is a file's path, or a URL.
    """

    shard: Path | str
    key: str
    start: int
    num_bytes: int
    ending: str

    def read(self) -> bytes:
        """The bytes of the picture's file."""
        if isinstance(self.shard, str):
            return read_range(self.shard, self.start, self.num_bytes)
        with self.shard.open("rb") as file:
            file.seek(self.start)
            return file.read(self.num_bytes)


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Pictures in WebDataset shards, decoded when asked for to uint8 (channels, H, W); names are SHARD/KEY.ENDING.

    Raises ValueError where the number of labels is not the number of spots.
    """

    spots: tuple[Spot, ...]
    labels: Tensor
    channels: int = 3
    root: Path | str | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.spots))

    def __len__(self) -> int:
        return len(self.spots)

    @property
    def by_url(self) -> bool:
        """Whether the shards are not on this machine."""
        return any(isinstance(spot.shard, str) for spot in self.spots)

    def name(self, i: int) -> str:
        return spot_name(self.spots[i], self.root)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.spots[i].num_bytes

    def read(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        return self.spots[i].read()

    def pixels(self, i: int) -> Tensor:
        return read_picture(self.read(i), self.channels, self.name(i), self.spots[i].ending)

    def raw(self, i: int) -> Tensor:
        return self.pixels(i)

    def subset(self, indices: Sequence[int]) -> "ShardImages":
        spots = tuple(self.spots[i] for i in indices)
        return ShardImages(spots, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root)


def spot_name(spot: Spot, root: Path | str | None) -> str:
    """`train-000.tar/cat/0001.jpg`: unlike a key alone, never the same in two shards."""
    if isinstance(spot.shard, str):
        shard = spot.shard.split("?")[0].removeprefix(f"{root}/")
    else:
        shard = name_in(Path(root), spot.shard) if root else spot.shard.as_posix()
    return f"{shard}/{spot.key}.{spot.ending}"
