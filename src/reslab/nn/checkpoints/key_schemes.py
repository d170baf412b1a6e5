"""How others name the weights of a residual network: one literal table of dialects.

A dialect: how others name the weights of a residual network, told by renaming rules.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dialect:
    """Names of a source, after wrappers and prefixes are gone.

    `marks`: patterns each of which some key must hold; `absent`: patterns that none may. `rules`: (pattern, template),
    applied in order, each at most once a key; `{unit}` stands for what `(?P<unit>...)` matched and `{stage+1}` for a
    number counted on. `implies`: (axis, value) of the networks that bear these names, where the weights alone cannot
    tell. `differs`: what such a network does that no axis says.
    """

    name: str
    source: str
    marks: tuple[str, ...]
    rules: Rules = ()
    absent: tuple[str, ...] = ()
    implies: tuple[tuple[str, str], ...] = ()
    differs: str = ""

    def speaks(self, keys: Iterable[str]) -> bool:
        """Whether these keys bear the marks of this dialect."""
        keys = list(keys)
        has = [any(re.search(mark, key) for key in keys) for mark in (*self.marks, *self.absent)]
        return all(has[: len(self.marks)]) and not any(has[len(self.marks) :])

    def translate(self, key: str) -> str:
        """The name that reslab gives to this key."""
        for pattern, template in self.rules:
            key = re.sub(pattern, functools.partial(_fill, template), key, count=1)
        return key


def _fill(template: str, match: re.Match[str]) -> str:
    def value(slot: re.Match[str]) -> str:
        text = match[slot[1]]
        return str(int(text) + int(slot[2])) if slot[2] else text

    return re.sub(r"\{(\w+)([+-]\d+)?\}", value, template)


_LINEAR = (r"^linear\.", "fc.")
_SHORTCUT = (r"\.shortcut\.", ".downsample.")
_UNIT = r"^layer1\.0\.conv1\."
# Where the unit is known to be the post-activated one that adds, with the stride in the 3x3.
_PLAIN_FACTS = (("order", "original"), ("mix", "add"), ("stride_at", "0"))
_RAW_SHORTCUT = "a unit that changes shape hands its shortcut what comes in, before norm and activation"
_D2L_UNIT: Rules = ((r"\.conv3\.", ".downsample.0."),)
_BOOK_HEAD: Rules = ((r"^fc1\.", "fc.0."), (r"^fc2\.", "fc.2."))
_TIMM_V2: Rules = (
    (r"^stages\.(?P<stage>\d+)\.blocks\.(?P<unit>\d+)\.", "layer{stage+1}.{unit}."),
    (r"\.norm(?P<k>\d)\.", ".bn{k}."),
    (r"^head\.fc\.", "fc."),
)

DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "torchvision",
        "torchvision, timm models/resnet.py, reslab",
        (_UNIT,),
        absent=(r"^linear\.", r"\.shortcut\.", r"^bn\.", r"^head\."),
    ),
    Dialect(
        "akamaster",
        "github.com/akamaster/pytorch_resnet_cifar10 (option A, half of the zeros before)",
        (_UNIT, r"^linear\.", r"^bn1\."),
        (_LINEAR,),
        absent=(r"\.shortcut\.", r"\.downsample\."),
        implies=(("match", "pad-split"), *_PLAIN_FACTS),
    ),
    Dialect(
        "kuangliu",
        "github.com/kuangliu/pytorch-cifar, models/resnet.py; also akamaster's option B",
        (_UNIT, r"\.shortcut\.0\.", r"^linear\.", r"^bn1\."),
        (_SHORTCUT, _LINEAR),
        absent=(r"\.shortcut\.0\.bias",),
        implies=_PLAIN_FACTS,
    ),
    Dialect(
        "kuangliu preact",
        "github.com/kuangliu/pytorch-cifar, models/preact_resnet.py",
        (_UNIT, r"^layer1\.0\.bn1\.", r"^linear\."),
        (_SHORTCUT, _LINEAR),
        absent=(r"^bn1?\.",),
        implies=(("order", "full-preact"),),
        differs="no norm and activation follow the last unit",
    ),
    Dialect(
        "meliketoy",
        "github.com/meliketoy/wide-resnet.pytorch",
        (_UNIT, r"\.shortcut\.0\.bias", r"^linear\.", r"^bn1\."),
        ((r"^bn1\.", "norm."), _SHORTCUT, _LINEAR),
        implies=(("order", "wide"),),
        differs=_RAW_SHORTCUT,
    ),
    Dialect(
        "bearpaw preresnet",
        "github.com/bearpaw/pytorch-classification, models/cifar/preresnet.py",
        (_UNIT, r"^bn\.", r"^fc\."),
        ((r"^bn\.", "norm."),),
        absent=(r"^bn1\.",),
        implies=(("order", "full-preact"),),
        differs=_RAW_SHORTCUT,
    ),
    Dialect(
        "xternalz",
        "github.com/xternalz/WideResNet-pytorch; also bearpaw's wrn",
        (r"^block1\.layer\.0\.conv1\.",),
        (
            (r"^block(?P<stage>\d+)\.layer\.(?P<unit>\d+)\.", "layer{stage}.{unit}."),
            (r"\.convShortcut\.", ".downsample.0."),
            (r"^bn1\.", "norm."),
        ),
        implies=(("order", "wide"), ("mix", "add")),
    ),
    Dialect(
        "szagoruyko",
        "github.com/szagoruyko/wide-residual-networks, pytorch/resnet.py",
        (r"^group0\.block0\.conv0",),
        (
            (r"^conv0(?P<leaf>\.weight)?$", "conv1.weight"),
            (r"^group(?P<stage>\d+)\.block(?P<unit>\d+)\.", "layer{stage+1}.{unit}."),
            (r"\.conv(?P<k>\d)(\.weight)?$", ".conv{k+1}.weight"),
            (r"\.bn(?P<k>\d)\.", ".bn{k+1}."),
            (r"\.convdim(\.weight)?$", ".downsample.0.weight"),
            (r"^bn\.", "norm."),
        ),
        implies=(("order", "wide"), ("mix", "add")),
    ),
    Dialect(
        "weiaicunzai",
        "github.com/weiaicunzai/pytorch-cifar100, models/resnet.py",
        (r"^conv2_x\.0\.residual_function\.0\.",),
        (
            (r"^conv1\.1\.", "bn1."),
            (r"^conv1\.0\.", "conv1."),
            (r"^conv(?P<stage>\d)_x\.(?P<unit>\d+)\.", "layer{stage-1}.{unit}."),
            (r"\.residual_function\.0\.", ".conv1."),
            (r"\.residual_function\.1\.", ".bn1."),
            (r"\.residual_function\.3\.", ".conv2."),
            (r"\.residual_function\.4\.", ".bn2."),
            (r"\.residual_function\.6\.", ".conv3."),
            (r"\.residual_function\.7\.", ".bn3."),
            _SHORTCUT,
        ),
        implies=_PLAIN_FACTS,
    ),
    Dialect(
        "prlz77",
        "github.com/prlz77/ResNeXt.pytorch",
        (r"^stage_1\.stage_1_bottleneck_0\.conv_reduce\.",),
        (
            (r"^conv_1_3x3\.", "conv1."),
            (r"^bn_1\.", "bn1."),
            (r"^stage_(?P<stage>\d)\.stage_\d_bottleneck_(?P<unit>\d+)\.", "layer{stage}.{unit}."),
            (r"\.conv_reduce\.", ".conv1."),
            (r"\.bn_reduce\.", ".bn1."),
            (r"\.conv_conv\.", ".conv2."),
            (r"\.bn\.", ".bn2."),
            (r"\.conv_expand\.", ".conv3."),
            (r"\.bn_expand\.", ".bn3."),
            (r"\.shortcut\.shortcut_conv\.", ".downsample.0."),
            (r"\.shortcut\.shortcut_bn\.", ".downsample.1."),
            (r"^classifier\.", "fc."),
        ),
        implies=_PLAIN_FACTS,
    ),
    Dialect("mmpretrain", "github.com/open-mmlab/mmpretrain", (_UNIT, r"^head\.fc\."), ((r"^head\.fc\.", "fc."),)),
    Dialect(
        "transformers",
        "Hugging Face transformers, ResNetForImageClassification",
        (r"^embedder\.embedder\.convolution\.",),
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^(encoder\.)?stages\.(?P<stage>\d+)\.layers\.(?P<unit>\d+)\.", "layer{stage+1}.{unit}."),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            (r"\.layer\.(?P<k>\d)\.convolution\.", ".conv{k+1}."),
            (r"\.layer\.(?P<k>\d)\.normalization\.", ".bn{k+1}."),
            (r"^classifier\.1\.", "fc."),
        ),
        implies=_PLAIN_FACTS[:2],
    ),
    Dialect(
        "timm v2",
        "timm models/resnetv2.py",
        (r"^stem\.conv\.", r"^stages\.0\.blocks\.0\.conv1\."),
        ((r"^stem\.conv\.", "conv1."), *_TIMM_V2, (r"\.downsample\.conv\.", ".downsample.0.")),
        implies=(("order", "full-preact"), ("mix", "add"), ("stride_at", "0")),
    ),
    Dialect(
        "timm v2 d",
        "timm models/resnetv2.py, deep stem and average-pooled shortcut",
        (r"^stem\.conv1\.", r"^stages\.0\.blocks\.0\.conv1\."),
        (
            (r"^stem\.conv1\.", "conv1.0."),
            (r"^stem\.norm1\.", "conv1.1."),
            (r"^stem\.conv2\.", "conv1.3."),
            (r"^stem\.norm2\.", "conv1.4."),
            (r"^stem\.conv3\.", "conv1.6."),
            *_TIMM_V2,
            (r"\.downsample\.conv\.", ".downsample.1."),
        ),
        implies=(("order", "full-preact"), ("mix", "add"), ("stride_at", "0")),
    ),
    Dialect(
        "d2l sequential",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6, nn.Sequential(b1, ..., b5, pool, flatten, linear)",
        (r"^0\.0\.weight$", r"^1\.0\.conv1\.", r"^7\."),
        (
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^7\.", "fc."),
            (r"^(?P<stage>\d)\.(?P<unit>\d+)\.", "layer{stage}.{unit}."),
            *_D2L_UNIT,
        ),
        implies=_PLAIN_FACTS[:2],
    ),
    Dialect(
        "d2l class",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6, class d2l.ResNet",
        (r"^0\.0\.weight$", r"^b2\.0\.conv1\.", r"^last\.2\."),
        (
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^last\.2\.", "fc."),
            (r"^b(?P<stage>\d)\.(?P<unit>\d+)\.", "layer{stage-1}.{unit}."),
            *_D2L_UNIT,
        ),
        implies=_PLAIN_FACTS[:2],
    ),
    Dialect(
        "d2l blocks",
        "Dive into Deep Learning, first edition and d2l.resnet18 of its chapter on several GPUs: resnet_block1 ... fc",
        (r"^resnet_block1\.0\.conv1\.", r"^fc\.1\."),
        (
            (r"^0\.(?P<leaf>\w+)$", "conv1.{leaf}"),
            (r"^1\.(?P<leaf>\w+)$", "bn1.{leaf}"),
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^fc\.1\.", "fc."),
            (r"^resnet_block(?P<stage>\d)\.(?P<unit>\d+)\.", "layer{stage}.{unit}."),
            *_D2L_UNIT,
        ),
        implies=_PLAIN_FACTS[:2],
    ),
    Dialect(
        "book resdeep",
        "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8, NetResDeep",
        (r"^resblocks\.0\.conv\.",),
        (
            (r"^resblocks\.(?P<unit>\d+)\.conv\.", "layer1.{unit}.conv1."),
            (r"^resblocks\.(?P<unit>\d+)\.batch_norm\.", "layer1.{unit}.bn1."),
            *_BOOK_HEAD,
        ),
        implies=(("order", "book"), ("mix", "add")),
    ),
    Dialect(
        "book res",
        "Deep Learning with PyTorch, ch. 8, NetDepth and NetRes (the same weights)",
        (r"^conv3\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.3."), (r"^conv3\.", "layer1.0.conv1."), *_BOOK_HEAD),
    ),
    Dialect(
        "book batchnorm",
        "Deep Learning with PyTorch, ch. 8, NetBatchNorm",
        (r"^conv1_batchnorm\.", r"^fc2\."),
        (
            (r"^conv1\.", "conv1.0."),
            (r"^conv1_batchnorm\.", "conv1.1."),
            (r"^conv2\.", "conv1.4."),
            (r"^conv2_batchnorm\.", "bn1."),
            *_BOOK_HEAD,
        ),
    ),
    Dialect(
        "book",
        "Deep Learning with PyTorch, ch. 8, Net and NetWidth",
        (r"^conv2\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.3."), *_BOOK_HEAD),
        absent=(r"batchnorm", r"^conv3\."),
    ),
    Dialect(
        "book dropout",
        "Deep Learning with PyTorch, ch. 8, NetDropout (the weights of NetWidth)",
        (r"^conv2\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.4."), *_BOOK_HEAD),
        absent=(r"batchnorm", r"^conv3\."),
    ),
    Dialect(
        "fixup",
        "github.com/hongyi-zhang/Fixup, cifar/models/fixup_resnet_cifar.py",
        (r"^layer1\.0\.bias1a$",),
        (
            (r"^bias1$", "bias1.bias"),
            (r"^bias2$", "bias.bias"),
            (r"\.bias1a$", ".bias1.bias"),
            (r"\.bias1b$", ".bias2.bias"),
            (r"\.bias2a$", ".bias3.bias"),
            (r"\.bias2b$", ".bias4.bias"),
            (r"\.scale$", ".scale1.scale"),
        ),
        implies=(("match", "pad"), ("mix", "add")),
    ),
    Dialect(
        "dyhan0920",
        "github.com/dyhan0920/PyramidNet-PyTorch",
        (_UNIT, r"^bn_final\."),
        ((r"^bn_final\.", "norm."),),
        implies=(("order", "pyramid"), ("match", "avg-pad"), ("mix", "add")),
    ),
)


def known_dialects(keys: Iterable[str]) -> list[Dialect]:
    """The dialects whose marks these keys bear, as the table has them."""
    keys = list(keys)
    return [dialect for dialect in DIALECTS if dialect.speaks(keys)]
