"""The networks for semantic segmentation by name: decoders on networks of the zoo."""

from dataclasses import replace

from reslab.spec.segmentation import Decoder, SegmentationArch
from reslab.spec.zoo import ARCHS

_TORCHVISION = "torchvision models/segmentation"
LONG2015 = "Long, Shelhamer and Darrell 2015, arXiv:1411.4038"
_CHEN2017 = "Chen et al. 2017, arXiv:1706.05587"
_RONNEBERGER2015 = "Ronneberger, Fischer and Brox 2015, arXiv:1505.04597"

_FCN = SegmentationArch(
    "",
    f"{LONG2015}; {_TORCHVISION}/fcn.py",
    ARCHS["resnet50"],
    aux=True,
    output_stride=8,
    image_size=(520, 520),
)
_DEEPLABV3 = replace(_FCN, reference=f"{_CHEN2017}; {_TORCHVISION}/deeplabv3.py", decoder=Decoder.DEEPLABV3)
_UNET = SegmentationArch("", _RONNEBERGER2015, ARCHS["resnet18"], decoder=Decoder.UNET, image_size=(256, 256))
_FCN_CIFAR = SegmentationArch("", LONG2015, ARCHS["resnet20_cifar"], output_stride=2, image_size=(32, 32))

SEGMENTATION: dict[str, SegmentationArch] = {
    "fcn_resnet50": _FCN,
    "fcn_resnet101": replace(_FCN, backbone=ARCHS["resnet101"]),
    "deeplabv3_resnet50": _DEEPLABV3,
    "deeplabv3_resnet101": replace(_DEEPLABV3, backbone=ARCHS["resnet101"]),
    "unet_resnet18": _UNET,
    "unet_resnet34": replace(_UNET, backbone=ARCHS["resnet34"]),
    "unet_resnet50": replace(_UNET, backbone=ARCHS["resnet50"]),
    "fcn_resnet20_cifar": _FCN_CIFAR,
    "deeplabv3_resnet20_cifar": replace(
        _FCN_CIFAR, reference=_CHEN2017, decoder=Decoder.DEEPLABV3, atrous_rates=(2, 4, 6)
    ),
    "unet_resnet20_cifar": replace(
        _FCN_CIFAR, reference=_RONNEBERGER2015, decoder=Decoder.UNET, output_stride=None, decoder_channels=64
    ),
}
