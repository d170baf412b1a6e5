"""Key schemes: how other code bases name the weights of a residual network, as one table of renaming rules."""

from collections.abc import Iterable

from reslab.nn.checkpoints.foreign_schemes import FOREIGN_SCHEMES
from reslab.nn.checkpoints.key_scheme import KeyScheme, RenameRules
from reslab.nn.checkpoints.timm_schemes import TIMM_SCHEMES

_LINEAR_RULE = (r"^linear\.", "fc.")
_SHORTCUT_RULE = (r"\.shortcut\.", ".downsample.")
_FIRST_CONV_KEY = r"^layer1\.0\.conv1\."
# For code bases whose block is known to be the post-activated one that adds, with the stride in the 3x3.
_POST_ACTIVATION_ARCH = (("order", "original"), ("merge", "add"), ("stride_conv", "0"))
_RAW_SHORTCUT_DIFFERENCE = "in a block that changes shape, the shortcut reads the input ahead of norm and activation"
_D2L_RULES: RenameRules = ((r"\.conv3\.", ".downsample.0."),)
_BOOK_HEAD_RULES: RenameRules = ((r"^fc1\.", "fc.0."), (r"^fc2\.", "fc.2."))

KEY_SCHEMES: tuple[KeyScheme, ...] = (
    KeyScheme(
        "torchvision",
        "torchvision, timm models/resnet.py, reslab",
        (_FIRST_CONV_KEY,),
        absent_keys=(r"^linear\.", r"\.shortcut\.", r"^bn\.", r"^head\.", r"^stem\."),
    ),
    KeyScheme(
        "torchvision video",
        "torchvision models/video/resnet.py",
        (r"^stem\.0\.", r"^layer1\.0\.conv1\.0\."),
        (
            (r"^stem\.0\.", "conv1."),
            (r"^stem\.1\.", "bn1."),
            (r"\.conv(?P<k>\d)\.0\.", ".conv{k}."),
            (r"\.conv(?P<k>\d)\.1\.", ".bn{k}."),
        ),
        implied_arch=_POST_ACTIVATION_ARCH,
    ),
    KeyScheme(
        "akamaster",
        "github.com/akamaster/pytorch_resnet_cifar10 (option A, half of the zeros before)",
        (_FIRST_CONV_KEY, r"^linear\.", r"^bn1\."),
        (_LINEAR_RULE,),
        absent_keys=(r"\.shortcut\.", r"\.downsample\."),
        implied_arch=(("shortcut", "pad-split"), *_POST_ACTIVATION_ARCH),
    ),
    KeyScheme(
        "kuangliu",
        "github.com/kuangliu/pytorch-cifar, models/resnet.py; also akamaster's option B",
        (_FIRST_CONV_KEY, r"\.shortcut\.0\.", r"^linear\.", r"^bn1\."),
        (_SHORTCUT_RULE, _LINEAR_RULE),
        absent_keys=(r"\.shortcut\.0\.bias",),
        implied_arch=_POST_ACTIVATION_ARCH,
    ),
    KeyScheme(
        "kuangliu preact",
        "github.com/kuangliu/pytorch-cifar, models/preact_resnet.py",
        (_FIRST_CONV_KEY, r"^layer1\.0\.bn1\.", r"^linear\."),
        (_SHORTCUT_RULE, _LINEAR_RULE),
        absent_keys=(r"^bn1?\.",),
        implied_arch=(("order", "full-preact"),),
        difference="no norm and activation follow the last block",
    ),
    KeyScheme(
        "meliketoy",
        "github.com/meliketoy/wide-resnet.pytorch",
        (_FIRST_CONV_KEY, r"\.shortcut\.0\.bias", r"^linear\.", r"^bn1\."),
        ((r"^bn1\.", "norm."), _SHORTCUT_RULE, _LINEAR_RULE),
        implied_arch=(("order", "wide"),),
        difference=_RAW_SHORTCUT_DIFFERENCE,
    ),
    KeyScheme(
        "bearpaw preresnet",
        "github.com/bearpaw/pytorch-classification, models/cifar/preresnet.py",
        (_FIRST_CONV_KEY, r"^bn\.", r"^fc\."),
        ((r"^bn\.", "norm."),),
        absent_keys=(r"^bn1\.",),
        implied_arch=(("order", "full-preact"),),
        difference=_RAW_SHORTCUT_DIFFERENCE,
    ),
    KeyScheme(
        "xternalz",
        "github.com/xternalz/WideResNet-pytorch; also bearpaw's wrn",
        (r"^block1\.layer\.0\.conv1\.",),
        (
            (r"^block(?P<stage>\d+)\.layer\.(?P<block>\d+)\.", "layer{stage}.{block}."),
            (r"\.convShortcut\.", ".downsample.0."),
            (r"^bn1\.", "norm."),
        ),
        implied_arch=(("order", "wide"), ("merge", "add")),
    ),
    KeyScheme(
        "szagoruyko",
        "github.com/szagoruyko/wide-residual-networks, pytorch/resnet.py",
        (r"^group0\.block0\.conv0",),
        (
            (r"^conv0(?P<leaf>\.weight)?$", "conv1.weight"),
            (r"^group(?P<stage>\d+)\.block(?P<block>\d+)\.", "layer{stage+1}.{block}."),
            (r"\.conv(?P<k>\d)(\.weight)?$", ".conv{k+1}.weight"),
            (r"\.bn(?P<k>\d)\.", ".bn{k+1}."),
            (r"\.convdim(\.weight)?$", ".downsample.0.weight"),
            (r"^bn\.", "norm."),
        ),
        implied_arch=(("order", "wide"), ("merge", "add")),
    ),
    KeyScheme(
        "weiaicunzai",
        "github.com/weiaicunzai/pytorch-cifar100, models/resnet.py",
        (r"^conv2_x\.0\.residual_function\.0\.",),
        (
            (r"^conv1\.1\.", "bn1."),
            (r"^conv1\.0\.", "conv1."),
            (r"^conv(?P<stage>\d)_x\.(?P<block>\d+)\.", "layer{stage-1}.{block}."),
            (r"\.residual_function\.0\.", ".conv1."),
            (r"\.residual_function\.1\.", ".bn1."),
            (r"\.residual_function\.3\.", ".conv2."),
            (r"\.residual_function\.4\.", ".bn2."),
            (r"\.residual_function\.6\.", ".conv3."),
            (r"\.residual_function\.7\.", ".bn3."),
            _SHORTCUT_RULE,
        ),
        implied_arch=_POST_ACTIVATION_ARCH,
    ),
    KeyScheme(
        "prlz77",
        "github.com/prlz77/ResNeXt.pytorch",
        (r"^stage_1\.stage_1_bottleneck_0\.conv_reduce\.",),
        (
            (r"^conv_1_3x3\.", "conv1."),
            (r"^bn_1\.", "bn1."),
            (r"^stage_(?P<stage>\d)\.stage_\d_bottleneck_(?P<block>\d+)\.", "layer{stage}.{block}."),
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
        implied_arch=_POST_ACTIVATION_ARCH,
    ),
    KeyScheme(
        "mmpretrain",
        "github.com/open-mmlab/mmpretrain",
        (_FIRST_CONV_KEY, r"^head\.fc\."),
        ((r"^head\.fc\.", "fc."),),
        absent_keys=(r"^stem\.",),
    ),
    KeyScheme(
        "transformers",
        "Hugging Face transformers, ResNetForImageClassification",
        (r"^embedder\.embedder\.convolution\.",),
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^(encoder\.)?stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\.", "layer{stage+1}.{block}."),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            (r"\.layer\.(?P<k>\d)\.convolution\.", ".conv{k+1}."),
            (r"\.layer\.(?P<k>\d)\.normalization\.", ".bn{k+1}."),
            (r"^classifier\.1\.", "fc."),
        ),
        implied_arch=_POST_ACTIVATION_ARCH[:2],
    ),
    *TIMM_SCHEMES,
    *FOREIGN_SCHEMES,
    KeyScheme(
        "d2l sequential",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6, nn.Sequential(b1, ..., b5, pool, flatten, linear)",
        (r"^0\.0\.weight$", r"^1\.0\.conv1\.", r"^7\."),
        (
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^7\.", "fc."),
            (r"^(?P<stage>\d)\.(?P<block>\d+)\.", "layer{stage}.{block}."),
            *_D2L_RULES,
        ),
        implied_arch=_POST_ACTIVATION_ARCH[:2],
    ),
    KeyScheme(
        "d2l class",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6, class d2l.ResNet",
        (r"^0\.0\.weight$", r"^b2\.0\.conv1\.", r"^last\.2\."),
        (
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^last\.2\.", "fc."),
            (r"^b(?P<stage>\d)\.(?P<block>\d+)\.", "layer{stage-1}.{block}."),
            *_D2L_RULES,
        ),
        implied_arch=_POST_ACTIVATION_ARCH[:2],
    ),
    KeyScheme(
        "d2l blocks",
        "Dive into Deep Learning, first edition and d2l.resnet18 of its chapter on several GPUs: resnet_block1 ... fc",
        (r"^resnet_block1\.0\.conv1\.", r"^fc\.1\."),
        (
            (r"^0\.(?P<leaf>\w+)$", "conv1.{leaf}"),
            (r"^1\.(?P<leaf>\w+)$", "bn1.{leaf}"),
            (r"^0\.0\.", "conv1."),
            (r"^0\.1\.", "bn1."),
            (r"^fc\.1\.", "fc."),
            (r"^resnet_block(?P<stage>\d)\.(?P<block>\d+)\.", "layer{stage}.{block}."),
            *_D2L_RULES,
        ),
        implied_arch=_POST_ACTIVATION_ARCH[:2],
    ),
    KeyScheme(
        "book resdeep",
        "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8, NetResDeep",
        (r"^resblocks\.0\.conv\.",),
        (
            (r"^resblocks\.(?P<block>\d+)\.conv\.", "layer1.{block}.conv1."),
            (r"^resblocks\.(?P<block>\d+)\.batch_norm\.", "layer1.{block}.bn1."),
            *_BOOK_HEAD_RULES,
        ),
        implied_arch=(("order", "book"), ("merge", "add")),
    ),
    KeyScheme(
        "book res",
        "Deep Learning with PyTorch, ch. 8, NetDepth and NetRes (the same weights)",
        (r"^conv3\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.3."), (r"^conv3\.", "layer1.0.conv1."), *_BOOK_HEAD_RULES),
    ),
    KeyScheme(
        "book batchnorm",
        "Deep Learning with PyTorch, ch. 8, NetBatchNorm",
        (r"^conv1_batchnorm\.", r"^fc2\."),
        (
            (r"^conv1\.", "conv1.0."),
            (r"^conv1_batchnorm\.", "conv1.1."),
            (r"^conv2\.", "conv1.4."),
            (r"^conv2_batchnorm\.", "bn1."),
            *_BOOK_HEAD_RULES,
        ),
    ),
    KeyScheme(
        "book",
        "Deep Learning with PyTorch, ch. 8, Net and NetWidth",
        (r"^conv2\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.3."), *_BOOK_HEAD_RULES),
        absent_keys=(r"batchnorm", r"^conv3\."),
    ),
    KeyScheme(
        "book dropout",
        "Deep Learning with PyTorch, ch. 8, NetDropout (the weights of NetWidth)",
        (r"^conv2\.", r"^fc2\."),
        ((r"^conv1\.", "conv1.0."), (r"^conv2\.", "conv1.4."), *_BOOK_HEAD_RULES),
        absent_keys=(r"batchnorm", r"^conv3\."),
    ),
    KeyScheme(
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
        implied_arch=(("shortcut", "pad"), ("merge", "add")),
    ),
    KeyScheme(
        "dyhan0920",
        "github.com/dyhan0920/PyramidNet-PyTorch",
        (_FIRST_CONV_KEY, r"^bn_final\."),
        ((r"^bn_final\.", "norm."),),
        implied_arch=(("order", "pyramid"), ("shortcut", "avg-pad"), ("merge", "add")),
    ),
)


def matching_key_schemes(keys: Iterable[str]) -> list[KeyScheme]:
    """Return the schemes that these keys follow, in the order of the table."""
    keys = list(keys)
    return [scheme for scheme in KEY_SCHEMES if scheme.matches(keys)]
