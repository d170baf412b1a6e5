"""Transforms of the values of one image (C, H, W), uint8 or floats in 0..1, by torchvision's kernels with our draws.

torchvision is imported on the first call.
"""

from torch import Tensor

from reslab.data.rng import RandomDraws
from reslab.data.transforms.ops import size_text
from reslab.spec.errors import invalid


def grayscale(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Replace the color by its luminance in all channels, with a probability."""
    from torchvision.transforms.v2 import functional as F

    if len(image) == 1 or not bool(draws.bernoulli(0, probability)):
        return image
    return F.rgb_to_grayscale(image, num_output_channels=len(image))


def gaussian_blur(image: Tensor, draws: RandomDraws, kernel_size: int, *options: float) -> Tensor:
    """Blur with a Gaussian of random width; options are the least and greatest sigma and the probability.

    Raises ValueError if the kernel reaches beyond the reflection of the image at its edge.
    """
    from torchvision.transforms.v2 import functional as F

    shortest = min(image.shape[-2:])
    if kernel_size // 2 >= shortest:
        got = f"gaussian-blur({kernel_size})"
        raise invalid(f"a kernel below twice the side of {size_text(image)}", got, f"gaussian-blur({2 * shortest - 1})")

    min_sigma, max_sigma, probability = options
    if not bool(draws.bernoulli(0, probability)):
        return image
    sigma = min_sigma + (max_sigma - min_sigma) * float(draws.uniform(1))
    return F.gaussian_blur(image, [kernel_size, kernel_size], [sigma, sigma])


def sharpness(image: Tensor, draws: RandomDraws, factor: float, probability: float) -> Tensor:
    """Sharpen or smooth, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.adjust_sharpness(image, factor) if bool(draws.bernoulli(0, probability)) else image


def solarize(image: Tensor, draws: RandomDraws, threshold: int, probability: float) -> Tensor:
    """Invert the values from a threshold (of 0..255) on, with a probability."""
    from torchvision.transforms.v2 import functional as F

    if not bool(draws.bernoulli(0, probability)):
        return image
    return F.solarize(image, threshold / 255 if image.is_floating_point() else threshold)


def posterize(image: Tensor, draws: RandomDraws, bits: int, probability: float) -> Tensor:
    """Keep the highest bits of every value, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.posterize(image, bits) if bool(draws.bernoulli(0, probability)) else image


def autocontrast(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Stretch the values of each channel to the full range, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.autocontrast(image) if bool(draws.bernoulli(0, probability)) else image


def equalize(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Make the values of each channel equally frequent, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.equalize(image) if bool(draws.bernoulli(0, probability)) else image


def invert(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Replace every value by the greatest one minus it, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.invert(image) if bool(draws.bernoulli(0, probability)) else image
