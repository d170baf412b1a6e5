"""`/v1/models/NAME/samples`: test images of a run, by number, where its data can still be opened."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from PIL import Image
from torch import Tensor

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import eval_batches
from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.images import picture_png
from reslab.deploy.server.schemas import SEEING, PathName, SamplesAnswer
from reslab.deploy.server.state import House, Served
from reslab.training.run_data import reopen_data

_SEED = 0
_LARGEST_SIDE = 640
_PNG = {**SEEING, 200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}}


@dataclass(frozen=True, eq=False)
class Shelf:
    """The held-out pictures of a run, in an order drawn once: any beginning of it holds all classes."""

    data: Data
    images: Images
    order: tuple[int, ...]

    def row(self, number: int) -> dict[str, Any]:
        """id, label and name of the picture of this number."""
        return {
            "id": number,
            "label": self.data.classes[int(self.images.labels[number])],
            "name": self.images.name(number),
        }

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The pictures as a network reads them (N, C, H, W)."""
        chosen = self.images.subset(list(numbers))
        return torch.cat([x for x, _, _ in eval_batches(chosen, len(chosen), self.data.preprocess, "cpu")])


class Samples:
    """The shelves of all networks, each opened when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, served: Served) -> Shelf:
        """The run's pictures. Raises Refused (404) where it has none to show, with the reason."""
        with self._lock:
            if served.name not in self._shelves:
                self._shelves[served.name] = _open(served)
            return self._shelves[served.name]

    async def normalised(self, served: Served, num_images: int) -> Tensor:
        """The first pictures of the run's shelf, as its network reads them. Raises Refused (404)."""

        def read() -> Tensor:
            shelf = self.shelf(served)
            return shelf.batch(shelf.order[:num_images])

        return await asyncio.to_thread(read)


def _open(served: Served) -> Shelf:
    if served.run is None:
        raise refused(404, "a run, which knows its test images", f"{served.name}, weights alone", "serve its folder")
    try:
        data = reopen_data(served.run.facts["data"])
    except (ValueError, OSError) as error:
        raise Refused(404, f"the test images of {served.name} cannot be opened: {error}") from None
    images = data.split(data.held_out)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return Shelf(data, images, tuple(order.tolist()))


def sample_routes(house: House, samples: Samples) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/v1/models/{name}/samples", response_model=SamplesAnswer, responses=SEEING)
    def listed(
        name: PathName, n: Annotated[int, Query(ge=1, le=500, description="How many pictures.")] = 24
    ) -> JSONResponse:
        """Test images of a run by number, in an order drawn once; 404 where its data cannot be opened."""
        shelf = samples.shelf(house.find(name))
        return JSONResponse({"samples": [shelf.row(number) for number in shelf.order[:n]]})

    @router.get("/v1/models/{name}/samples/{number}.png", response_class=Response, responses=_PNG)
    def picture(name: PathName, number: Annotated[int, Path(description="A picture by its number.")]) -> Response:
        """A test image, its longer side at most 640 pixels."""
        shelf = samples.shelf(house.find(name))
        if not 0 <= number < len(shelf.images):
            raise refused(404, f"a picture from 0 to {len(shelf.images) - 1}", number)
        png = picture_png(_shrunk(shelf.images.raw(number).cpu()))
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    return router


def _shrunk(pixels: Tensor) -> Tensor:
    """The picture with its longer side at most _LARGEST_SIDE."""
    if max(pixels.shape[1:]) <= _LARGEST_SIDE:
        return pixels
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.BICUBIC)
    small = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return small.permute(2, 0, 1)
