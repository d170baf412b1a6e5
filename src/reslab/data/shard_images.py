"""Pictures that lie in tar files, read one by one where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reslab.data.decode import read_picture
from reslab.data.folders import name_in
from reslab.data.images import check_labels


@dataclass(frozen=True)
class Spot:
    """Where a picture's bytes lie: in which shard, from which byte on, how many; what it is called and how it ends."""

    shard: Path
    key: str
    start: int
    num_bytes: int
    ending: str


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Pictures in WebDataset shards, decoded when asked for to uint8 (channels, H, W); names are SHARD/KEY.ENDING.

    Raises ValueError where the number of labels is not the number of spots.
    """

    spots: tuple[Spot, ...]
    labels: Tensor
    channels: int = 3
    root: Path | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.spots))

    def __len__(self) -> int:
        return len(self.spots)

    def name(self, i: int) -> str:
        return spot_name(self.spots[i], self.root)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.spots[i].num_bytes

    def read(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        spot = self.spots[i]
        with spot.shard.open("rb") as file:
            file.seek(spot.start)
            return file.read(spot.num_bytes)

    def pixels(self, i: int) -> Tensor:
        return read_picture(self.read(i), self.channels, self.name(i), self.spots[i].ending)

    def raw(self, i: int) -> Tensor:
        return self.pixels(i)

    def subset(self, indices: Sequence[int]) -> "ShardImages":
        spots = tuple(self.spots[i] for i in indices)
        return ShardImages(spots, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root)


def spot_name(spot: Spot, root: Path | None) -> str:
    """`train-000.tar/cat/0001.jpg`: unlike a key alone, never the same in two shards."""
    shard = name_in(root, spot.shard) if root else spot.shard.as_posix()
    return f"{shard}/{spot.key}.{spot.ending}"
