"""Key schemes of timm's residual networks other than ResNet, whose keys are torchvision's."""

from reslab.nn.checkpoints.key_scheme import KeyScheme, RenameRules

_BLOCK = r"^stages\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\."
_V2_RULES: RenameRules = (
    (_BLOCK, "layer{stage+1}.{block}."),
    (r"\.norm(?P<k>\d)\.", ".bn{k}."),
    (r"^head\.fc\.", "fc."),
)
_V2_ARCH = (("merge", "add"), ("stride_conv", "0"))
_PREACT_ARCH = (("order", "full-preact-identity"), *_V2_ARCH)
_SK_RULES: RenameRules = (
    (r"\.conv(?P<k>\d)\.conv\.", ".conv{k}."),
    (r"^(?P<block>layer\d+\.\d+)\.conv1\.bn\.", "{block}.bn1."),
)
_REGNET_RULES: RenameRules = (
    (r"^s(?P<stage>\d)\.b(?P<block>\d+)\.", "layer{stage}.{block-1}."),
    (r"\.conv(?P<k>\d)\.conv\.", ".conv{k}."),
    (r"\.conv(?P<k>\d)\.bn\.", ".bn{k}."),
    (r"\.norm(?P<k>\d)\.", ".bn{k}."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\.downsample\.weight", ".downsample.0.weight"),
    (r"^final_conv\.conv\.", "conv."),
    (r"^final_conv\.bn\.", "norm."),
    (r"^head\.fc\.", "fc."),
)
_NF_RULES: RenameRules = (
    (r"^stages\.(?P<stage>\d+)\.(?P<block>\d+)\.", "layer{stage+1}.{block}."),
    (r"\.downsample\.conv\.", ".downsample.1."),
    (r"\.skipinit_gain$", ".merge.scale"),
    (r"\.attn(_last)?\.fc", ".se.fc"),
    (r"\.attn(_last)?\.conv", ".eca.conv"),
    (r"^final_conv\.", "conv."),
    (r"^head\.fc\.", "fc."),
)
_NF_EXTRA_CONV: RenameRules = ((r"\.conv3\.", ".conv4."), (r"\.conv2b\.", ".conv3."))
_CONVNEXT_RULES: RenameRules = (
    (r"^stages\.(?P<stage>\d+)\.downsample\.", "transition{stage+1}."),
    (_BLOCK, "layer{stage+1}.{block}."),
    (r"\.conv_dw\.", ".conv1."),
    (r"^(?P<block>layer\d+\.\d+)\.norm\.", "{block}.bn1."),
    (r"\.mlp\.fc1\.", ".conv2."),
    (r"\.mlp\.fc2\.", ".conv3."),
    (r"\.mlp\.grn\.", ".grn1."),
    (r"^(?P<block>layer\d+\.\d+)\.gamma$", "{block}.merge.gamma"),
    (r"^(head\.norm|norm_pre)\.", "norm."),
)
_CONVNEXT_FC: RenameRules = ((r"^head\.fc\.", "fc."),)
_CONVNEXT_KEY = r"^stages\.0\.blocks\.0\.conv_dw\."

TIMM_SCHEMES: tuple[KeyScheme, ...] = (
    KeyScheme(
        "timm eca",
        "timm models/resnet.py with efficient channel attention",
        (r"^layer1\.0\.conv1\.", r"^layer1\.0\.se\.conv\."),
        ((r"\.se\.conv\.", ".eca.conv."),),
    ),
    KeyScheme(
        "timm rs",
        "timm models/resnet.py, ResNet-RS: a convolution in place of the stem's pool",
        (r"^layer1\.0\.conv1\.", r"^maxpool\.0\."),
        ((r"^bn1\.", "conv1.7."), (r"^maxpool\.0\.", "conv1.9."), (r"^maxpool\.1\.", "bn1.")),
    ),
    KeyScheme(
        "timm res2net",
        "timm models/res2net.py",
        (r"^layer1\.0\.convs\.0\.", r"^layer1\.0\.bns\.0\."),
        (
            (r"\.convs\.", ".conv2.convs."),
            (r"\.bns\.", ".conv2.bns."),
            (r"^(?P<block>layer\d+\.\d+)\.bn3\.", "{block}.bn2."),
        ),
    ),
    KeyScheme(
        "timm resnest",
        "timm models/resnest.py",
        (r"^layer1\.0\.conv2\.bn0\.",),
        ((r"^(?P<block>layer\d+\.\d+)\.bn3\.", "{block}.bn2."),),
    ),
    KeyScheme(
        "timm sknet",
        "timm models/sknet.py, bottlenecks",
        (r"^layer1\.0\.conv2\.paths\.0\.",),
        (*_SK_RULES, (r"^(?P<block>layer\d+\.\d+)\.conv3\.bn\.", "{block}.bn2.")),
    ),
    KeyScheme(
        "timm sknet basic",
        "timm models/sknet.py, basic blocks",
        (r"^layer1\.0\.conv1\.paths\.0\.",),
        (*_SK_RULES, (r"^(?P<block>layer\d+\.\d+)\.conv2\.bn\.", "{block}.bn1.")),
    ),
    KeyScheme(
        "timm legacy senet",
        "timm models/senet.py; Cadene's pretrainedmodels",
        (r"^layer0\.conv1\.", r"^last_linear\."),
        ((r"^layer0\.", ""), (r"\.se_module\.", ".se."), (r"^last_linear\.", "fc.")),
        absent_keys=(r"^layer0\.conv2\.",),
        networks="legacy_*",
    ),
    KeyScheme(
        "timm legacy senet154",
        "timm models/senet.py, three convolutions in the stem; Cadene's pretrainedmodels",
        (r"^layer0\.conv2\.", r"^last_linear\."),
        (
            (r"^layer0\.bn3\.", "bn1."),
            (r"^layer0\.conv1\.", "conv1.0."),
            (r"^layer0\.bn1\.", "conv1.1."),
            (r"^layer0\.conv2\.", "conv1.3."),
            (r"^layer0\.bn2\.", "conv1.4."),
            (r"^layer0\.conv3\.", "conv1.6."),
            (r"\.se_module\.", ".se."),
            (r"^last_linear\.", "fc."),
        ),
        networks="legacy_*",
    ),
    KeyScheme(
        "timm v2",
        "timm models/resnetv2.py",
        (r"^stem\.conv\.", r"^stages\.0\.blocks\.0\.conv1\."),
        ((r"^stem\.conv\.", "conv1."), *_V2_RULES, (r"\.downsample\.conv\.", ".downsample.0.")),
        implied_arch=_PREACT_ARCH,
    ),
    KeyScheme(
        "timm v2 d",
        "timm models/resnetv2.py, deep stem and average-pooled shortcut",
        (r"^stem\.conv1\.", r"^stages\.0\.blocks\.0\.conv1\."),
        (
            (r"^stem\.conv1\.", "conv1.0."),
            (r"^stem\.norm1\.", "conv1.1."),
            (r"^stem\.conv2\.", "conv1.3."),
            (r"^stem\.norm2\.", "conv1.4."),
            (r"^stem\.conv3\.", "conv1.6."),
            *_V2_RULES,
            (r"\.downsample\.conv\.", ".downsample.1."),
        ),
        absent_keys=(r"\.norm1\.(v|tau)$",),
        implied_arch=_PREACT_ARCH,
    ),
    KeyScheme(
        "timm v2 norm-act",
        "timm models/resnetv2.py, deep stem, and a norm that holds the activation (EvoNorm, FRN)",
        (r"^stem\.conv1\.", r"\.norm1\.(v|tau)$"),
        (
            (r"^stem\.conv1\.", "conv1.0."),
            (r"^stem\.norm1\.", "conv1.1."),
            (r"^stem\.conv2\.", "conv1.2."),
            (r"^stem\.norm2\.", "conv1.3."),
            (r"^stem\.conv3\.", "conv1.4."),
            *_V2_RULES,
            (r"\.downsample\.conv\.", ".downsample.1."),
        ),
        implied_arch=_V2_ARCH,
    ),
    KeyScheme(
        "timm regnet",
        "timm models/regnet.py",
        (r"^stem\.conv\.", r"^s1\.b1\.conv1\."),
        ((r"^stem\.conv\.", "conv1."), (r"^stem\.bn\.", "bn1."), *_REGNET_RULES),
    ),
    KeyScheme(
        "timm regnetv",
        "timm models/regnet.py, PreBottleneck",
        (r"^stem\.weight", r"^s1\.b1\.conv1\."),
        ((r"^stem\.", "conv1."), *_REGNET_RULES),
        implied_arch=(("order", "regnetv"),),
    ),
    KeyScheme(
        "timm nfnet",
        "timm models/nfnet.py, one convolution in the stem",
        (r"^stem\.conv\.", r"^stages\.0\.0\.conv1\.gain$"),
        ((r"^stem\.conv\.", "conv1."), *_NF_RULES),
    ),
    KeyScheme(
        "timm nfnet deep",
        "timm models/nfnet.py, four convolutions in the stem",
        (r"^stem\.conv4\.", r"^stages\.0\.0\.conv2b\."),
        (
            (r"^stem\.conv1\.", "conv1.0."),
            (r"^stem\.conv2\.", "conv1.2."),
            (r"^stem\.conv3\.", "conv1.4."),
            (r"^stem\.conv4\.", "conv1.6."),
            *_NF_EXTRA_CONV,
            *_NF_RULES,
        ),
        absent_keys=(r"\.skipinit_gain$",),
    ),
    KeyScheme(
        "timm dm nfnet",
        "timm models/nfnet.py, DeepMind's networks",
        (r"^stem\.conv4\.", r"\.skipinit_gain$"),
        (
            (r"^stem\.conv1\.", "conv1.0."),
            (r"^stem\.conv2\.", "conv1.3."),
            (r"^stem\.conv3\.", "conv1.6."),
            (r"^stem\.conv4\.", "conv1.9."),
            *_NF_EXTRA_CONV,
            *_NF_RULES,
        ),
        implied_arch=(("padding", "same"),),
    ),
    KeyScheme(
        "timm convnext",
        "timm models/convnext.py; Meta's ConvNeXt through timm",
        (_CONVNEXT_KEY, r"^stem\.1\.weight", r"^head\.fc\."),
        (*_CONVNEXT_RULES, *_CONVNEXT_FC, (r"^stem\.0\.", "conv1."), (r"^stem\.1\.", "bn1.")),
        absent_keys=(r"^stem\.2\.", r"^head\.pre_logits\.", r"^norm_pre\."),
        networks="convnext*[!f]",
    ),
    KeyScheme(
        "timm convnext head norm first",
        "timm models/convnext.py, the last norm ahead of the pool",
        (_CONVNEXT_KEY, r"^stem\.1\.weight", r"^norm_pre\."),
        (*_CONVNEXT_RULES, *_CONVNEXT_FC, (r"^stem\.0\.", "conv1."), (r"^stem\.1\.", "bn1.")),
        networks="convnext*_hnf",
    ),
    KeyScheme(
        "timm convnext mlp",
        "timm models/convnext.py, a hidden layer in the head",
        (_CONVNEXT_KEY, r"^head\.pre_logits\.fc\."),
        (
            *_CONVNEXT_RULES,
            (r"^head\.pre_logits\.fc\.", "fc.0."),
            (r"^head\.fc\.", "fc.2."),
            (r"^stem\.0\.", "conv1."),
            (r"^stem\.1\.", "bn1."),
        ),
    ),
    KeyScheme(
        "timm convnext overlap",
        "timm models/convnext.py, two strided convolutions in the stem",
        (_CONVNEXT_KEY, r"^stem\.1\.weight", r"^stem\.2\.weight"),
        (
            *_CONVNEXT_RULES,
            *_CONVNEXT_FC,
            (r"^stem\.(?P<k>[01])\.", "conv1.{k}."),
            (r"^stem\.2\.", "bn1."),
        ),
    ),
    KeyScheme(
        "timm convnext overlap act",
        "timm models/convnext.py, two strided convolutions and an activation in the stem",
        (_CONVNEXT_KEY, r"^stem\.2\.weight", r"^stem\.3\.weight"),
        (
            *_CONVNEXT_RULES,
            *_CONVNEXT_FC,
            (r"^stem\.(?P<k>[02])\.", "conv1.{k}."),
            (r"^stem\.3\.", "bn1."),
        ),
    ),
)
