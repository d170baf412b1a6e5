"""Evaluation and the common training transforms work without importing torchvision."""

import subprocess
import sys

CODE = """
import sys, torch
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.preprocess import Preprocess
image = torch.zeros(3, 300, 400, dtype=torch.uint8)
pixels = TransformPipeline("resize(256) center-crop(224)").apply_image(image, 0)
Normalize(Preprocess(3, "", (0.5,) * 3, (0.2,) * 3), torch.device("cpu"))(pixels[None])
train = TransformPipeline("pad(4,reflect) crop(280) random-resized-crop(224) flip lighting(0.1) vertical-flip")
train.apply_image(image, 0), train.apply_batch(image[None], torch.zeros(1, dtype=torch.int64))
print("torchvision" in sys.modules)
TransformPipeline("rotate(15)").apply_image(image, 0)
print("torchvision" in sys.modules)
"""


def test_torchvision_is_imported_by_the_transforms_that_need_it() -> None:
    process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "True"]
