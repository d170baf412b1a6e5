"""A small network of two stages, for tests of layouts."""

from reslab.spec.arch import Arch

TINY = Arch(
    "tiny",
    "made for the test",
    depths=(2, 2),
    widths=(4, 8),
    strides=(1, 2),
    stem="conv3(4) norm act",
    num_classes=3,
    image_size=(8, 8),
)
