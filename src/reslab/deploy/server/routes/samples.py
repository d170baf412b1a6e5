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

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.images import encode_png
from reslab.deploy.server.schemas import READ_ERRORS, ModelPath, SamplesResponse
from reslab.deploy.server.state import AppState, ModelHandle
from reslab.training.run_data import reopen_data

_SEED = 0
_MAX_SIDE = 640
_PNG_RESPONSES = {**READ_ERRORS, 200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}}


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The held-out pictures of a run, in an order drawn once: any beginning of it holds all classes."""

    data: DatasetSplits
    images: ImageDataset
    order: tuple[int, ...]

    def describe(self, index: int) -> dict[str, Any]:
        """id, label and name of the picture of this number."""
        return {
            "id": index,
            "label": self.data.classes[int(self.images.labels[index])],
            "name": self.images.name(index),
        }

    def load_batch(self, indices: Sequence[int]) -> Tensor:
        """The pictures as a network reads them (N, C, H, W)."""
        selected = self.images.subset(list(indices))
        return torch.cat([x for x, _, _ in eval_loader(selected, len(selected), self.data.preprocess, "cpu")])


class SampleStore:
    """The shelves of all networks, each opened when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sample_sets: dict[str, SampleSet] = {}

    def get(self, handle: ModelHandle) -> SampleSet:
        """The run's pictures. Raises Refused (404) where it has none to show, with the reason."""
        with self._lock:
            if handle.name not in self._sample_sets:
                self._sample_sets[handle.name] = _open_sample_set(handle)
            return self._sample_sets[handle.name]

    async def normalized_images(self, handle: ModelHandle, num_images: int) -> Tensor:
        """The first pictures of the run's shelf, as its network reads them. Raises Refused (404)."""

        def load() -> Tensor:
            sample_set = self.get(handle)
            return sample_set.load_batch(sample_set.order[:num_images])

        return await asyncio.to_thread(load)


def _open_sample_set(handle: ModelHandle) -> SampleSet:
    if handle.run is None:
        raise http_error(404, "a run, which knows its test images", f"{handle.name}, weights alone", "serve its folder")
    try:
        data = reopen_data(handle.run.metadata["data"])
    except (ValueError, OSError) as error:
        raise HTTPError(404, f"the test images of {handle.name} cannot be opened: {error}") from None
    images = data.split(data.eval_split)
    permutation = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return SampleSet(data, images, tuple(permutation.tolist()))


def sample_routes(state: AppState, sample_store: SampleStore) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/v1/models/{name}/samples", response_model=SamplesResponse, responses=READ_ERRORS)
    def list_samples(
        name: ModelPath, n: Annotated[int, Query(ge=1, le=500, description="How many pictures.")] = 24
    ) -> JSONResponse:
        """Test images of a run by number, in an order drawn once; 404 where its data cannot be opened."""
        sample_set = sample_store.get(state.get_model(name))
        return JSONResponse({"samples": [sample_set.describe(index) for index in sample_set.order[:n]]})

    @router.get("/v1/models/{name}/samples/{number}.png", response_class=Response, responses=_PNG_RESPONSES)
    def sample_image(name: ModelPath, number: Annotated[int, Path(description="A picture by its number.")]) -> Response:
        """A test image, its longer side at most 640 pixels."""
        sample_set = sample_store.get(state.get_model(name))
        if not 0 <= number < len(sample_set.images):
            raise http_error(404, f"a picture from 0 to {len(sample_set.images) - 1}", number)
        png = encode_png(_downscale(sample_set.images.preview(number).cpu()))
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    return router


def _downscale(pixels: Tensor) -> Tensor:
    """The picture with its longer side at most _LARGEST_SIDE."""
    if max(pixels.shape[1:]) <= _MAX_SIDE:
        return pixels
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BICUBIC)
    resized = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return resized.permute(2, 0, 1)
