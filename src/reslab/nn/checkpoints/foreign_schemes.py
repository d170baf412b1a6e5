"""Key schemes of other frameworks and libraries: Keras, Caffe, detectron2, BiT, pytorchcv, torchvision's RegNet."""

from reslab.nn.checkpoints.key_scheme import KeyScheme, RenameRules

_ORIGINAL = (("order", "original"), ("merge", "add"))
_CAFFE_STEM = "conv7/2(64) norm act maxpool3/2(ceil)"
_CAFFE_RULES: RenameRules = (
    (r"^bn_conv1\.", "bn1."),
    (r"^fc1000\.", "fc."),
    (r"^(?P<kind>res|bn)(?P<stage>\d)b(?P<block>\d+)_branch", "layer{stage-1}.{block}.{kind}_"),
    *(
        (rf"^(?P<kind>res|bn)(?P<stage>\d){letter}_branch", f"layer{{stage-1}}.{block}.{{kind}}_")
        for block, letter in enumerate("abcdefgh")
    ),
    (r"\.res_1\.", ".downsample.0."),
    (r"\.bn_1\.", ".downsample.1."),
    *((rf"\.res_2{letter}\.", f".conv{k}.") for k, letter in enumerate("abc", 1)),
    *((rf"\.bn_2{letter}\.", f".bn{k}.") for k, letter in enumerate("abc", 1)),
)
_MMPRETRAIN_RULES: RenameRules = ((r"^stem\.7\.", "bn1."), (r"^stem\.", "conv1."), (r"^head\.fc\.", "fc."))
_KERAS_EPS = ("norm_eps", "1.001e-05")
_KERAS_BLOCK = r"^conv(?P<stage>\d)_block(?P<block>\d+)_"
_KERAS_RULES: RenameRules = (
    (r"^conv1_conv\.", "conv1."),
    (r"^(predictions|probs)\.", "fc."),
    (r"\.0_conv\.", ".downsample.0."),
    (r"\.(?P<k>\d)_conv\.", ".conv{k}."),
)


def _keras_v2(depth: int, depths: tuple[int, ...]) -> KeyScheme:
    """Return the scheme of keras.applications' ResNet50V2 and deeper ones, with these numbers of blocks.

    Their stride is in the last block of a stage, which is a stage of its own here: layer1, 3, 5 are the others.
    """
    last_blocks = tuple(
        (rf"^conv{stage}_block{count}_", f"layer{2 * stage - 2}.0.") for stage, count in enumerate(depths[:3], 2)
    )
    others = tuple(
        (rf"^conv{stage}_block(?P<block>\d+)_", f"layer{2 * stage - 3}.{{block-1}}.") for stage in range(2, 6)
    )
    norms: RenameRules = (
        (r"\.preact_bn\.", ".bn1."),
        (r"\.(?P<k>\d)_bn\.", ".bn{k+1}."),
        (r"^post_bn\.", "norm."),
    )
    return KeyScheme(
        f"keras v2 {depth}",
        f"keras.applications.ResNet{depth}V2",
        (r"^conv2_block1_preact_bn\.", rf"^conv4_block{depths[2]}_"),
        (*last_blocks, *others, *_KERAS_RULES, *norms),
        absent_keys=(rf"^conv4_block{depths[2] + 1}_",),
        implied_arch=(
            ("order", "full-preact-identity"),
            ("shortcut", "conv1x1-grow"),
            ("merge", "add"),
            ("stem", "conv7/2(64) maxpool3/2(zero)"),
            _KERAS_EPS,
        ),
        zero_biases=True,
    )


FOREIGN_SCHEMES: tuple[KeyScheme, ...] = (
    KeyScheme(
        "caffe",
        "github.com/KaimingHe/deep-residual-networks (Caffe); Keras before 2.2.3",
        (r"^res2a_branch2a\.", r"^bn2a_branch2a\."),
        _CAFFE_RULES,
        implied_arch=(*_ORIGINAL, ("stride_conv", "1"), ("stem", _CAFFE_STEM)),
    ),
    KeyScheme(
        "keras",
        "keras.applications.ResNet50, 101 and 152",
        (r"^conv2_block1_1_conv\.", r"^conv2_block1_3_bn\."),
        (
            (r"^conv1_bn\.", "bn1."),
            (_KERAS_BLOCK, "layer{stage-1}.{block-1}."),
            *_KERAS_RULES,
            (r"\.0_bn\.", ".downsample.1."),
            (r"\.(?P<k>\d)_bn\.", ".bn{k}."),
        ),
        absent_keys=(r"_preact_bn\.",),
        implied_arch=(*_ORIGINAL, ("stride_conv", "1"), _KERAS_EPS),
    ),
    _keras_v2(50, (3, 4, 6, 3)),
    _keras_v2(101, (3, 4, 23, 3)),
    _keras_v2(152, (3, 8, 36, 3)),
    KeyScheme(
        "bit",
        "github.com/google-research/big_transfer (BiT), .npz",
        (r"^root_block\.standardized_conv2d\.", r"^block1\.unit01\.a\."),
        (
            (r"^root_block\.standardized_conv2d\.", "conv1."),
            (r"^block(?P<stage>\d)\.unit(?P<block>\d+)\.", "layer{stage}.{block-1}."),
            (r"\.a\.proj\.standardized_conv2d\.", ".downsample.0."),
            *((rf"\.{letter}\.standardized_conv2d\.", f".conv{k}.") for k, letter in enumerate("abc", 1)),
            *((rf"\.{letter}\.group_norm\.", f".bn{k}.") for k, letter in enumerate("abc", 1)),
            (r"^group_norm\.", "norm."),
            (r"^head\.conv2d\.", "fc."),
        ),
        implied_arch=(("order", "full-preact-identity"), ("merge", "add")),
    ),
    KeyScheme(
        "detectron2",
        "github.com/facebookresearch/detectron2, modeling/backbone/resnet.py",
        (r"^res2\.0\.conv1\.", r"^stem\.conv1\."),
        (
            (r"^stem\.conv1\.norm\.", "bn1."),
            (r"^stem\.conv1\.", "conv1."),
            (r"^res(?P<stage>\d)\.", "layer{stage-1}."),
            (r"\.conv(?P<k>\d)\.norm\.", ".bn{k}."),
            (r"\.shortcut\.norm\.", ".downsample.1."),
            (r"\.shortcut\.", ".downsample.0."),
            (r"^linear\.", "fc."),
        ),
        implied_arch=_ORIGINAL,
    ),
    KeyScheme(
        "mmpretrain v1c",
        "github.com/open-mmlab/mmpretrain, ResNetV1c: three convolutions in the stem",
        (r"^layer1\.0\.conv1\.", r"^stem\.6\."),
        _MMPRETRAIN_RULES,
        absent_keys=(r"\.downsample\.2\.",),
        implied_arch=_ORIGINAL,
    ),
    KeyScheme(
        "mmpretrain v1d",
        "github.com/open-mmlab/mmpretrain, ResNetV1d: also pools on the shortcuts",
        (r"^layer1\.0\.conv1\.", r"^stem\.6\.", r"\.downsample\.2\."),
        (
            *_MMPRETRAIN_RULES,
            # The first stage has no stride, and its shortcut no pool.
            (r"^layer1\.0\.downsample\.1\.", "layer1.0.downsample.2."),
            (r"^layer1\.0\.downsample\.0\.", "layer1.0.downsample.1."),
        ),
        implied_arch=_ORIGINAL,
    ),
    *(
        KeyScheme(
            f"pytorchcv{suffix}",
            f"github.com/osmr/pytorchcv{note}",
            (r"^features\.stage1\.unit1\.body\.conv1\.conv\.", stem_key),
            (
                *stem_rules,
                (r"^features\.stage(?P<stage>\d)\.unit(?P<block>\d+)\.(body\.)?", "layer{stage}.{block-1}."),
                (r"\.conv(?P<k>\d)\.conv\.", ".conv{k}."),
                (r"\.conv(?P<k>\d)\.bn\.", ".bn{k}."),
                (r"\.identity_conv\.conv\.", ".downsample.0."),
                (r"\.identity_conv\.bn\.", ".downsample.1."),
                (r"\.identity_conv\.weight$", ".downsample.0.weight"),
                (r"\.se\.conv(?P<k>\d)\.", ".se.fc{k}."),
                (r"^features\.post_activ\.bn\.", "norm."),
                (r"^output\.(fc\.)?", "fc."),
            ),
            absent_keys=absent,
            implied_arch=implied,
        )
        for suffix, note, stem_key, absent, stem_rules, implied in (
            (
                "",
                ", resnet.py",
                r"^features\.init_block\.conv\.(conv\.)?weight",
                (r"^features\.post_activ\.",),
                (
                    (r"^features\.init_block\.conv\.bn\.", "bn1."),
                    (r"^features\.init_block\.conv\.(conv\.)?", "conv1."),
                    (r"^features\.init_block\.bn\.", "bn1."),
                ),
                (("merge", "add"),),
            ),
            (
                " deep",
                ", resnetd.py (dilated) and senet.py: three convolutions in the stem",
                r"^features\.init_block\.conv3\.conv\.",
                (r"^features\.post_activ\.",),
                (
                    (r"^features\.init_block\.conv3\.bn\.", "bn1."),
                    (r"^features\.init_block\.conv1\.conv\.", "conv1.0."),
                    (r"^features\.init_block\.conv1\.bn\.", "conv1.1."),
                    (r"^features\.init_block\.conv2\.conv\.", "conv1.3."),
                    (r"^features\.init_block\.conv2\.bn\.", "conv1.4."),
                    (r"^features\.init_block\.conv3\.conv\.", "conv1.6."),
                ),
                (("merge", "add"),),
            ),
            (
                " preact",
                ", preresnet.py",
                r"^features\.post_activ\.",
                (r"^features\.init_block\.weight",),
                ((r"^features\.init_block\.conv\.", "conv1."), (r"^features\.init_block\.bn\.", "bn1.")),
                (("order", "full-preact-norm-stem"), ("merge", "add")),
            ),
            (
                " preact cifar",
                ", preresnet_cifar.py and wrn_cifar.py",
                r"^features\.init_block\.weight",
                (),
                ((r"^features\.init_block\.", "conv1."),),
                (("order", "full-preact-identity"), ("merge", "add")),
            ),
        )
    ),
    KeyScheme(
        "torchvision convnext",
        "torchvision models/convnext.py",
        (r"^features\.0\.0\.", r"^features\.1\.0\.block\.0\."),
        (
            (r"^features\.0\.0\.", "conv1."),
            (r"^features\.0\.1\.", "bn1."),
            *((rf"^features\.{2 * stage - 1}\.", f"layer{stage}.") for stage in range(1, 9)),
            *((rf"^features\.{2 * stage - 2}\.", f"transition{stage}.") for stage in range(2, 9)),
            (r"\.block\.0\.", ".conv1."),
            (r"\.block\.2\.", ".bn1."),
            (r"\.block\.3\.", ".conv2."),
            (r"\.block\.5\.", ".conv3."),
            (r"\.layer_scale$", ".merge.gamma"),
            (r"^classifier\.0\.", "norm."),
            (r"^classifier\.2\.", "fc."),
        ),
    ),
    KeyScheme(
        "torchvision regnet",
        "torchvision models/regnet.py",
        (r"^stem\.0\.", r"^trunk_output\.block1\.block1-0\.f\.a\.0\."),
        (
            (r"^stem\.0\.", "conv1."),
            (r"^stem\.1\.", "bn1."),
            (r"^trunk_output\.block(?P<stage>\d)\.block\d-(?P<block>\d+)\.", "layer{stage}.{block}."),
            (r"\.proj\.", ".downsample."),
            (r"\.f\.se\.", ".se."),
            *((rf"\.f\.{letter}\.0\.", f".conv{k}.") for k, letter in enumerate("abc", 1)),
            *((rf"\.f\.{letter}\.1\.", f".bn{k}.") for k, letter in enumerate("abc", 1)),
        ),
    ),
)
