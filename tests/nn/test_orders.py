"""Each order, shortcut and merge against its paper's formula: outputs, gradients and running statistics."""

import itertools

import papers
import pytest
import torch
from agreement import assert_close, assert_follows, assert_same, images, randomise
from papers import MERGES, PAPERS, SHORTCUTS, Place, Weights
from torch import nn

from reslab.nn.factory import create_model
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import SHORTCUTS as SHORTCUT_TABLE
from tests.tiny_arch import TINY

NORM_FREE = ("norm-free-preact", "fixup", "book-bare")
PREACT = ("relu-preact", "full-preact", "full-preact-stem", "wide", "norm-free-preact", "fixup")


def build(order, convs=(3, 3), **axes):
    if order in NORM_FREE:
        axes = {"norm": "none", "bias": order == "norm-free-preact", "init": "torch"} | axes
    model = create_model(TINY, order=order, convs=convs, expansion=2 if convs == (1, 3, 1) else 1, **axes).double()
    randomise(model)
    return model


def formula(order, shortcut="project", merge="add", convs=(3, 3), stride_index=None, conv=None, drop=0.0, plain=False):
    """The whole tiny network as its paper has it: a function of weights by name, input and mode."""
    paper, (with_norm, without, every) = PAPERS[order], SHORTCUTS[shortcut]
    matcher = with_norm if paper.projection_norm and order not in NORM_FREE else without
    striding = stride_index if stride_index is not None else next(k for k, size in enumerate(convs) if size > 1)
    expansion = 2 if convs == (1, 3, 1) else 1

    def run(state, x, training):
        w = Weights(state, training)
        x = paper.stem(w, w.conv("conv1", x))
        width = 4
        for stage, block in itertools.product((1, 2), (0, 1)):
            stride = 2 if (stage, block) == (2, 0) else 1
            out = 4 * stage * expansion
            changes = stride != 1 or out != width
            has_shortcut = changes or every
            at = Place(
                tuple(stride if k == striding else 1 for k in range(len(convs))),
                out,
                matcher if has_shortcut else None,
                first=(stage, block) == (1, 0),
                projects=has_shortcut and "pad" not in shortcut,
                merge_fn=(lambda w, read, s, b, stride: b) if plain else MERGES.get(merge, merge),
                conv=conv or {},
                drop=drop,
            )
            if plain:
                at = Place(at.strides, out, None, at.first, at.projects, at.merge_fn, at.conv, drop)
            x = paper.block(w.at(f"layer{stage}.{block}"), x, at)
            width = out
        return w.fc("fc", paper.last(w, x).flatten(2).mean(2))

    return run


X = images(3, 3, 8, 8)
KERNELS = [(3, 3), (1, 3, 1), (3,)]


# Compared with timm's blocks in tests/nn/test_families.py; the others with transcriptions in tests of their own.
TIMMS_ORDERS, TIMMS_SHORTCUTS = {"full-preact-identity", "regnetv", "convnext", "convnextv2"}, {"identity"}
OTHER_ORDERS, OTHER_SHORTCUTS = {"se-preact"}, {"shift-project"}


def test_every_order_and_shortcut_has_a_formula():
    assert set(PAPERS) | TIMMS_ORDERS | OTHER_ORDERS == set(ORDERS)
    assert set(SHORTCUTS) | TIMMS_SHORTCUTS | OTHER_SHORTCUTS == set(SHORTCUT_TABLE)


# The book's blocks have one convolution; PyramidNet has no block of one.
BLOCKS = [pair for pair in itertools.product(PAPERS, KERNELS) if "book" not in pair[0] and pair != ("pyramid", (3,))]


@pytest.mark.parametrize(("order", "convs"), BLOCKS, ids=str)
def test_every_order(order, convs):
    assert_follows(build(order, convs), formula(order, convs=convs), X)


@pytest.mark.parametrize("order", ["book", "book-bare"])
def test_the_books_blocks(order):
    assert_follows(build(order, (3,), shortcut="pad"), formula(order, "pad", convs=(3,)), X)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("order", ["original", "bn-after-add", "full-preact", "full-preact-stem", "fixup", "pyramid"])
def test_every_shortcut(order, shortcut):
    model = build(order, shortcut=shortcut)
    assert_follows(model, formula(order, shortcut), X)


@pytest.mark.parametrize("shortcut", ["pad", "pad-split", "avg-pad", "project", "avg-project"])
def test_every_shortcut_on_maps_of_odd_sides(shortcut):
    assert_follows(build("original", shortcut=shortcut), formula("original", shortcut), images(2, 3, 9, 11))


@pytest.mark.parametrize("order", ["original", "relu-before-add", "full-preact", "wide"])
@pytest.mark.parametrize("merge", MERGES)
def test_every_merge(order, merge):
    """Draws of dropout come in the same order; where the merge has none, the draws do not matter."""
    assert_follows(build(order, merge=merge), formula(order, merge=merge), X, rng=3)


@pytest.mark.parametrize("merge", ["gate(-3)", "shortcut-gate(0)"])
@pytest.mark.parametrize("shortcut", ["pad", "conv1x1-all", "avg-project"])
def test_gates_read_what_the_shortcut_reads(merge, shortcut):
    """The initial bias has no part in the formula: any bias that was learned will do."""
    joined = {"gate(-3)": "gate(-1)", "shortcut-gate(0)": "shortcut-gate(-2)"}[merge]
    for order in ("original", "full-preact"):
        assert_follows(build(order, shortcut=shortcut, merge=merge), formula(order, shortcut, joined), X)


@pytest.mark.parametrize("order", ["original", "full-preact", "wide", "bn-after-add", "pyramid"])
def test_the_plain_twin(order):
    assert_follows(build(order, merge="none"), formula(order, plain=True), X)


@pytest.mark.parametrize("convs", [(3, 3), (1, 3, 1)], ids=str)
def test_dropout_of_the_wide_block(convs):
    assert_follows(build("wide", convs, drop_rate=0.4), formula("wide", convs=convs, drop=0.4), X, rng=5)


@pytest.mark.parametrize("stride_conv", [1, 2, 3])
def test_the_strided_convolution(stride_conv):
    model = build("original", (1, 3, 1), stride_conv=stride_conv)
    assert_follows(model, formula("original", convs=(1, 3, 1), stride_index=stride_conv - 1), X)


def basic_block(groups=1, dilations=((1, 1),) * 4, strides=(1, 1, 2, 1)):
    """The basic block of He et al. 2015 with groups, and the dilations of both convolutions of each block."""

    def run(state, x, training):
        w = Weights(state, training)
        x = papers.norm_relu(w, w.conv("conv1", x))
        for k, (stage, block) in enumerate(itertools.product((1, 2), (0, 1))):
            matcher = papers.project if (stage, block) == (2, 0) else None
            conv = {"groups": groups, "dilation": dilations[k]}
            x = papers.original(w.at(f"layer{stage}.{block}"), x, Place((strides[k], 1), 4 * stage, matcher, conv=conv))
        return w.fc("fc", x.flatten(2).mean(2))

    return run


@pytest.mark.parametrize(("groups", "base", "inner"), [(2, 64, (8, 16)), (4, 16, (4, 8)), (1, 128, (8, 16))])
def test_basic_blocks_with_groups_and_base_width(groups, base, inner):
    """Torchvision refuses them; the inner width is int(width * base / 64) * groups, as in its bottleneck."""
    model = build("original", groups=groups, width_per_group=base)
    for stage, width in zip((1, 2), inner, strict=True):
        assert model.get_submodule(f"layer{stage}.1.conv1").weight.shape == (width, 4 * stage // groups, 3, 3)
        assert model.get_submodule(f"layer{stage}.1.conv2").weight.shape == (4 * stage, width // groups, 3, 3)
    assert_follows(model, basic_block(groups), X)


@pytest.mark.parametrize("groups", [1, 2])
def test_basic_blocks_with_dilation(groups):
    """The convolution that would be strided keeps the previous dilation, here 1, as in timm; torchvision refuses."""
    model = build("original", replace_stride_with_dilation=(True,), groups=groups)
    assert_follows(model, basic_block(groups, ((1, 1), (1, 1), (1, 2), (2, 2)), (1, 1, 1, 1)), X)


def test_dilation_multiplies_from_stage_to_stage():
    model = create_model("resnet18", replace_stride_with_dilation=(True, True, True))
    dilations = [(block.conv1.dilation[0], block.conv2.dilation[0]) for _, block in model.blocks()]
    assert dilations == [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8)]
    assert {block.spec.stride for _, block in model.blocks()} == {1}


def test_a_layout_equals_the_order_with_that_layout():
    for order in ("original", "bn-after-add", "relu-before-add", "full-preact"):
        named, spelt = build(order), build(ORDERS[order].layout)
        assert list(named.state_dict()) == list(spelt.state_dict()) or order == "bn-after-add"
        if order != "bn-after-add":  # its bare projection is a fact of the name
            assert_same(named, spelt, X)


def test_a_layout_written_out_in_full():
    full = "norm act conv norm act conv +"
    assert_same(build("full-preact"), build(full), X)
    three = "conv norm act conv norm act conv norm + act"
    assert_same(build("original", (1, 3, 1)), build(three, (1, 3, 1)), X)


def test_a_custom_layout():
    """conv act | norm conv + norm: no operations ahead, an activation and no norm after the first convolution."""
    model = build("conv act | norm conv + norm", merge="scale(0.5,2)")

    def own(w, x, at):
        y = torch.relu(w.conv("conv1", x, at.stride))
        y = w.conv("conv2", w.norm("bn1", y))
        return w.norm("bn2", at.meet(w, x, y))

    def run(state, x, training):
        w = Weights(state, training)
        x = papers.norm_relu(w, w.conv("conv1", x))
        for stage, block in itertools.product((1, 2), (0, 1)):
            first = (stage, block) == (2, 0)
            at = Place(
                (2 if first else 1, 1), 4 * stage, papers.project if first else None, merge_fn=papers.scaled(0.5, 2)
            )
            x = own(w.at(f"layer{stage}.{block}"), x, at)
        return w.fc("fc", x.flatten(2).mean(2))

    assert_follows(model, run, X)


def test_three_segments_repeat_the_middle_one():
    model = build("conv norm | conv act | conv +", (3, 3, 3, 3))
    block = dict(model.blocks())["layer1.1"]
    assert block.branch_names == ("conv1", "bn1", "conv2", "act1", "conv3", "act2", "conv4")


def test_an_activation_named_in_the_layout_keeps_its_name_at_stem_and_end():
    model = build("norm act(gelu) conv | norm act(gelu) conv +")
    assert isinstance(model.act, nn.GELU)
    assert not [module for module in model.modules() if isinstance(module, nn.ReLU)]
    model = build("conv norm act(tanh) | conv norm + act(tanh)")
    assert isinstance(model.act1, nn.Tanh)


def test_preresnet110_is_the_original_with_another_order_key_for_key():
    with torch.device("meta"):
        ours = create_model("resnet110_cifar", order="full-preact")
        named = create_model("preresnet110_cifar")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in named.state_dict().items()}
    assert list(ours.state_dict()) == list(named.state_dict())


def test_the_first_and_the_last_block_of_full_preactivation():
    """He et al. 2016, appendix: the first activation comes right after conv1, before the fork, and an extra one after
    the last block."""
    model = create_model(
        "preresnet20_cifar" if "preresnet20_cifar" in ORDERS else "resnet20_cifar", order="full-preact"
    )
    blocks = dict(model.blocks())
    assert model.stem_names == ["conv1"]
    assert model.final_names == ["norm", "act"]
    assert blocks["layer1.0"].pre_names == ("bn1", "act1")
    assert all(not block.pre_names for name, block in blocks.items() if name != "layer1.0")
    bottleneck = dict(create_model("preresnet164_cifar").blocks())
    ahead = [name for name, block in bottleneck.items() if block.pre_names]
    assert ahead == ["layer1.0", "layer2.0", "layer3.0"]
    assert all(len(list(bottleneck[name].downsample)) == 1 for name in ahead)


def test_facts_of_fb_preresnet():
    """fb.resnet.torch: norm and activation ahead of the max-pool, none in the first block."""
    model = create_model("preresnet152", depths=(2, 2, 2, 2))
    assert model.stem_names == ["conv1", "bn1", "act1", "maxpool"]
    blocks = dict(model.blocks())
    assert blocks["layer1.0"].pre_names == ()
    assert not hasattr(blocks["layer1.0"], "bn1")
    assert [name for name, block in blocks.items() if block.pre_names] == ["layer2.0", "layer3.0", "layer4.0"]


def test_fb_preresnet_as_a_whole():
    """models/preresnet.lua with its ImageNet stem, bottlenecks and 'no_preact', transcribed."""
    model = create_model("preresnet200", depths=(2, 1, 2, 1), num_classes=3).double()
    randomise(model)

    def run(state, x, training):
        w = Weights(state, training)
        x = torch.relu(w.norm("bn1", w.conv("conv1", x, 2)))
        x = torch.max_pool2d(x, 3, 2, 1)
        for stage, depth in enumerate((2, 1, 2, 1), 1):
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                first = (stage, block) == (1, 0)
                at = Place((1, stride, 1), 0, papers.bare if block == 0 else None, first, projects=block == 0)
                x = papers.preact_fb(w.at(f"layer{stage}.{block}"), x, at)
        return w.fc("fc", torch.relu(w.norm("norm", x)).flatten(2).mean(2))

    assert_follows(model, run, images(2, 3, 32, 48))


def test_pyramidnet_as_a_whole():
    """Widths 16 + alpha k / N, rounded; average pool and zeros where a block changes shape."""
    model = create_model("pyramidnet110_cifar", depths=(2, 2, 2)).double()
    randomise(model)
    widths = [round(16 + 48 * k / 6) for k in range(1, 7)]
    assert [block.spec.out_channels for _, block in model.blocks()] == widths

    def run(state, x, training):
        w = Weights(state, training)
        x = w.norm("bn1", w.conv("conv1", x))
        for k in range(6):
            stride = 2 if k in (2, 4) else 1
            at = Place((stride, 1), widths[k], papers.avg_pad)
            x = papers.pyramid(w.at(f"layer{k // 2 + 1}.{k % 2}"), x, at)
        return w.fc("fc", torch.relu(w.norm("norm", x)).flatten(2).mean(2))

    assert_follows(model, run, images(2, 3, 16, 16))


def test_the_widths_of_pyramidnet110_follow_the_authors_sum():
    """The authors' code adds alpha / N block by block and rounds."""
    model_width, widths = 16.0, []
    for _ in range(54):
        model_width += 48 / 54
        widths.append(round(model_width))
    with torch.device("meta"):
        assert [block.spec.out_channels for _, block in create_model("pyramidnet110_cifar").blocks()] == widths


def test_fixup_as_a_whole():
    """fixup_resnet_cifar.py: a bias after the stem's convolution, one ahead of the linear layer."""
    model = create_model("fixup110_cifar", depths=(1, 2, 1)).double()
    randomise(model)

    def run(state, x, training):
        w = Weights(state, training)
        x = torch.relu(w.conv("conv1", x) + w["bias1.bias"])
        for stage, depth in enumerate((1, 2, 1), 1):
            for block in range(depth):
                changes = stage > 1 and block == 0
                at = Place((2 if changes else 1, 1), 8 << stage, papers.pad if changes else None)
                x = papers.fixup(w.at(f"layer{stage}.{block}"), x, at)
        return w.fc("fc", x.flatten(2).mean(2) + w["bias.bias"])

    assert_follows(model, run, images(2, 3, 16, 16))


def test_se_inner_width_is_timms_rounding():
    model = create_model("seresnet50")
    assert [model.get_submodule(f"layer{k}.0.se.fc1").out_channels for k in range(1, 5)] == [16, 32, 64, 128]


def test_stochastic_depth_in_eval_mode_is_the_branch_times_p():
    """Huang et al. 2016, Eq. 5 and Sec. 3: p_l = 1 - (l / L)(1 - p_L)."""
    model = build("original", merge="stochastic-depth(0.5) add")
    survival = [1 - k / 4 * 0.5 for k in (1, 2, 3, 4)]

    def run(state, x, training):
        values = iter(survival)
        return formula("original", merge=lambda w, read, s, b, stride: s + next(values) * b)(state, x, training)

    assert_follows(model, run, X, training=(False,))
    assert [block.merge.branch_modifiers[0].probability for _, block in model.blocks()] == pytest.approx(survival)


def test_stochastic_depth_draws_once_per_batch():
    """In training a block is relu(x) or relu(x + F(x)) for the whole batch, each as often as its probability says."""
    model = build("original", merge="stochastic-depth(0.3) add", depths=(1, 1), norm="none")
    block = dict(model.blocks())["layer1.0"]
    assert block.merge.branch_modifiers[0].probability == pytest.approx(1 - 0.5 * 0.7)
    x = images(4, 4, 5, 5)
    with torch.no_grad():
        branch = block.train().branch(x)
        on, off = torch.relu(x + branch), torch.relu(x)
        torch.manual_seed(0)
        drawn = [block(x) for _ in range(600)]
    ons = sum(torch.equal(y, on) for y in drawn)
    assert ons + sum(torch.equal(y, off) for y in drawn) == 600
    assert abs(ons / 600 - 0.65) < 5 * (0.65 * 0.35 / 600) ** 0.5
    grads = torch.autograd.grad(block(x).sum(), list(block.parameters()), allow_unused=True)
    assert all(grad is not None for grad in grads)


def test_drop_path_in_a_network():
    """A sample's branch is dropped or divided by 1 - p; the first block's rate is 0, the last one's the one given."""
    model = build("original", merge="drop-path(0.4) add", depths=(1, 2), norm="none")
    rates = [block.merge.branch_modifiers[0].rate for _, block in model.blocks()]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    block = dict(model.blocks())["layer2.1"].train()
    x = images(64, 8, 3, 3)
    with torch.no_grad():
        branch = block.branch(x)
        torch.manual_seed(0)
        y = block(x)
    kept = torch.isclose(y, torch.relu(x + branch / 0.6)).flatten(1).all(1)
    dropped = torch.isclose(y, torch.relu(x)).flatten(1).all(1)
    assert (kept ^ dropped).all()
    assert 20 < int(kept.sum()) < 60
    with torch.no_grad():
        assert_close(block.eval()(x), torch.relu(x + branch), "drop-path at test")


@pytest.mark.parametrize("bias", [-6, -7.5, 0])
def test_the_gates_initial_bias(bias):
    for merge_fn in ("gate", "shortcut-gate"):
        model = create_model(TINY, merge=f"{merge_fn}({bias})")
        for _, block in model.blocks():
            assert torch.equal(block.merge.gate.bias, torch.full_like(block.merge.gate.bias, bias))
            assert block.merge.gate.weight.std() > 0
            assert block.merge.gate.stride == block.conv1.stride
            assert block.merge.gate.out_channels == block.spec.out_channels


def test_initial_values_of_the_learned_scales():
    for merge, name, value in [
        ("rezero", "scale", 0),
        ("skipinit add", "scale", 0),
        ("layerscale(1e-4)", "gamma", 1e-4),
    ]:
        for _, block in create_model(TINY, merge=merge).blocks():
            parameter = getattr(block.merge, name)
            assert parameter.shape == ((8 if "layer2" in block.spec.name else 4) if name == "gamma" else 1,)
            assert torch.equal(parameter, torch.full_like(parameter, value))
