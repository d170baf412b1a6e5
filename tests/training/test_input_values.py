"""The input that a network's author states: mean image, BGR and 0 to 255, in evaluation, in the file, in prediction."""

import numpy as np
import pytest
import torch

from reslab.data.transforms.normalize import Normalize
from reslab.nn.factory import create_model, load_network
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.input_values import InputValues, read_mean_image
from reslab.training.losses import RenormalizedModel

BASE = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
PIXELS = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalized(preprocess):
    return Normalize(preprocess, torch.device("cpu"))(PIXELS.clone())


def test_caffes_input_is_bgr_from_0_to_255_less_its_mean():
    mean = (103.939, 116.779, 123.68)
    preprocess = InputValues(mean=mean, channel_order="bgr", pixel_max=255).apply(BASE)
    expected = PIXELS[:, [2, 1, 0]].float() - torch.tensor(mean)[:, None, None]
    torch.testing.assert_close(normalized(preprocess), expected, rtol=0, atol=1e-4)


def test_a_mean_image_is_subtracted_pixel_by_pixel():
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3)).astype("f4")
    preprocess = InputValues(mean_image=image, channel_order="bgr", pixel_max=255).apply(BASE)
    expected = PIXELS.flip(1).float() - torch.from_numpy(image).permute(2, 0, 1)
    torch.testing.assert_close(normalized(preprocess), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(preprocess.mean) * 255, torch.from_numpy(image).mean((0, 1)))


def test_another_channel_order_alone_takes_the_values_with_it():
    preprocess = InputValues(channel_order="bgr").apply(BASE)
    torch.testing.assert_close(normalized(preprocess), normalized(BASE).flip(1), rtol=0, atol=0)
    assert InputValues(channel_order="rgb").apply(preprocess) == BASE


def test_a_teacher_in_another_channel_order_sees_the_images_in_its_own():
    bgr = Preprocess(3, "", (0.1, 0.2, 0.3), (0.3, 0.2, 0.1), channel_order="bgr")
    for data, teacher in ((BASE, bgr), (bgr, BASE)):
        outputs = RenormalizedModel(torch.nn.Identity(), data, teacher)(normalized(data))
        torch.testing.assert_close(outputs, normalized(teacher), rtol=0, atol=1e-5)


def test_a_mean_image_is_read_from_files(tmp_path):
    image = np.arange(60, dtype="f4").reshape(3, 4, 5)
    np.save(tmp_path / "mean.npy", image)
    header = b"\x08\x01\x10\x03\x18\x04\x20\x05"  # num, channels, height, width
    (tmp_path / "mean.binaryproto").write_bytes(header + b"\x2a\xf0\x01" + image.tobytes())
    assert all(np.array_equal(read_mean_image(tmp_path / f"mean.{s}", 3), image) for s in ("npy", "binaryproto"))
    with pytest.raises(ValueError, match=r"shape \(1, H, W\) or \(H, W, 1\).*got: \(3, 4, 5\)"):
        read_mean_image(image, 1)


WRONG = {
    "two means": ({"mean": (1, 2)}, "3 numbers as mean"),
    "both": ({"mean": (1, 2, 3), "mean_image": np.zeros((3, 4, 5))}, "mean or mean_image; got: both"),
    "a range without a mean": ({"pixel_max": 255}, "mean or mean_image with pixel_max"),
    "no range": ({"pixel_max": 0, "mean": (1, 2, 3)}, "pixel_max above 0"),
    "another order": ({"channel_order": "bgra"}, "unknown channel order 'bgra'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_do_not_fit_are_an_error(case):
    values, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        InputValues(**values).apply(BASE)


def test_evaluation_saves_the_values_with_the_weights(tmp_path):
    torch.manual_seed(0)
    network = create_model(
        "resnet20_cifar", depths=(1, 1, 1), widths=(4, 4, 4), stem="conv3(4) norm act", num_classes=2
    )
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(12) % 2
    image = np.random.default_rng(0).uniform(0, 255, (3, 32, 32)).astype("f4")
    path = tmp_path / "w.safetensors"
    scores = evaluate(
        network,
        (images, labels),
        mean_image=image,
        channel_order="bgr",
        pixel_max=255,
        save_weights=path,
        device="cpu",
        keep_predictions=True,
    )
    again = load_network(path)
    assert again.preprocess.channel_order == "bgr"
    assert again.preprocess.mean_image
    with torch.inference_mode():
        outputs = again.eval()(torch.cat([again.preprocess(one) for one in images]))
        expected = again(images.flip(1).float() - torch.from_numpy(image))
    torch.testing.assert_close(outputs, expected, rtol=1e-3, atol=1e-3)
    assert scores.num_samples <= 12
