"""Statements of the papers on residual networks, as identities."""

import copy
import io

import pytest
import torch
from agreement import assert_close, images, randomise
from torch import nn

from reslab.nn.factory import create_model
from reslab.spec.zoo import ARCHS
from tests.tiny_arch import TINY

X = images(3, 3, 8, 8)
PRE = ["full-preact", "full-preact-stem", "wide", "pyramid", "norm-free-preact"]


def tiny(**axes):
    if axes.get("order") in ("fixup", "norm-free-preact"):
        axes = {"norm": "none", "init": "torch"} | axes
    model = create_model(TINY, **axes).double()
    randomise(model)
    return model


def silence(block):
    """Make the residual function of a block zero, by the weights of its last convolution and of what comes after it."""
    last = max(name for name in block.branch_names if name.startswith("conv"))
    for name in block.branch_names[block.branch_names.index(last) :]:
        module = getattr(block, name)
        for key in ("weight", "bias", "running_mean"):
            if isinstance(getattr(module, key, None), torch.Tensor):
                nn.init.zeros_(getattr(module, key))


@pytest.mark.parametrize("plain", [name for name in ARCHS if name.startswith("plain")])
def test_the_plain_twin_is_merge_none(plain):
    """He et al. 2015, Sec. 3.3: the same network without shortcuts; under option A, with as many parameters."""
    named = ARCHS[plain]
    residual = ARCHS[plain.replace("plain", "resnet")]
    twin = residual.without_shortcuts()
    assert (twin.depths, twin.widths, twin.merge) == (named.depths, named.widths, "none")
    with torch.device("meta"):
        ours, other = create_model(plain), create_model(residual, merge="none")
        option_a = create_model(residual, shortcut="pad")
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in other.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in option_a.state_dict().items()}
    assert not [
        module for _, block in ours.blocks() for module in (block.downsample, block.merge) if module is not None
    ]


def test_plain_twin_equals_sequential_of_its_operations():
    model = tiny(merge="none")
    whole = nn.Sequential(*(getattr(block, name) for _, block in model.blocks() for name in block._modules))
    parts = [model.conv1, model.bn1, model.act1, whole, model.avgpool, model.flatten, model.fc]
    assert_close(model(X), nn.Sequential(*parts)(X), "plain", relative=1e-12)


@pytest.mark.parametrize("shortcut", ["pad", "pad-split", "avg-pad"])
def test_option_a_adds_no_parameter(shortcut):
    for name in ("resnet20_cifar", "resnet18"):
        with torch.device("meta"):
            padded, plain = create_model(name, shortcut=shortcut), create_model(name, merge="none")
        assert [p.shape for p in padded.parameters()] == [p.shape for p in plain.parameters()]


def test_option_c_adds_thirteen_projections_to_resnet34():
    """He et al. 2015, Table 3: C projects on every shortcut, thirteen more than B."""
    with torch.device("meta"):
        b, c = create_model("resnet34"), create_model("resnet34", shortcut="project-all")
    projections = [sum(bool(list(block.downsample.parameters())) for _, block in net.blocks()) for net in (b, c)]
    assert projections == [3, 16]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", PRE)
def test_a_pre_activated_block_with_a_zero_branch_is_the_identity(order, training):
    block = dict(tiny(order=order).blocks())["layer2.1"].train(training)
    silence(block)
    x = images(3, 8, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ["original", "se", "fixup"])
def test_a_post_activated_block_with_a_zero_branch_is_the_identity_for_x_from_0(order, training):
    block = dict(tiny(order=order).blocks())["layer2.1"].train(training)
    silence(block)
    x = images(3, 8, 4, 4)
    assert torch.equal(block(x.abs()), x.abs())
    assert torch.equal(block(x), x.clamp(min=0))


@pytest.mark.parametrize(("order", "shortcut"), [("original", "project"), ("full-preact", "pad"), ("wide", "project")])
def test_a_zero_last_norm_starts_blocks_as_the_identity(order, shortcut):
    """Goyal et al. 2017, Sec. 5.1, as `zero_init_residual`: with fresh weights the branch is zero."""
    model = create_model(TINY, order=order, shortcut=shortcut, zero_init_residual=True).double()
    x = images(3, 8, 4, 4)
    block = dict(model.blocks())["layer2.1"]
    assert torch.equal(block(x), x.clamp(min=0) if order == "original" else x)


@pytest.mark.parametrize("merge", ["rezero add", "skipinit add", "layerscale(0) add", "scale(1,0)"])
def test_merges_that_start_from_zero_start_as_the_identity(merge):
    x = images(2, 8, 4, 4)
    block = dict(create_model(TINY, order="full-preact", merge=merge).double().blocks())["layer2.1"]
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("order", ["original", "full-preact", "wide", "pyramid", "fixup"])
def test_blocks_with_a_zero_branch_inserted_leave_the_outputs_equal(order):
    """He et al. 2015, Sec. 1: a deeper model's solution by construction: the shallower one and identities."""
    shallow = tiny(order=order, depths=(2, 2))
    deep = tiny(order=order, depths=(4, 3), widths=(4, 8))
    state = deep.state_dict()
    deep.load_state_dict(state | shallow.state_dict(), strict=True)
    for name, block in deep.blocks():
        if name in ("layer1.2", "layer1.3", "layer2.2"):
            silence(block)
    for training in (False, True):
        y = deep.train(training)(X)
        assert_close(y, shallow.train(training)(X), f"{order} with blocks inserted", relative=1e-14)


def test_a_constant_gate_is_constant_scaling():
    """He et al. 2016, Sec. 3.1: frozen gating is 0.5 and 0.5, what an exclusive gate of g = 1/2 computes."""
    gated, scaled = tiny(merge="gate(0)"), tiny(merge="scale(0.5,0.5)")
    for _, block in gated.blocks():
        nn.init.zeros_(block.merge.gate.weight)
        nn.init.zeros_(block.merge.gate.bias)
    scaled.load_state_dict({k: v for k, v in gated.state_dict().items() if ".merge." not in k}, strict=True)
    assert_close(gated(X), scaled(X), "g = 1/2", relative=1e-12)


def test_the_gates_close_as_their_bias_falls():
    """g -> 0: the shortcut-only gate becomes the original block (He et al. 2016, Sec. 3.1)."""
    closed, added = tiny(merge="shortcut-gate(-6)"), tiny()
    for _, block in closed.blocks():
        nn.init.constant_(block.merge.gate.bias, -60.0)
    added.load_state_dict({k: v for k, v in closed.state_dict().items() if ".merge." not in k}, strict=True)
    assert_close(closed(X), added(X), "closed gates")


def test_v1_and_v15_share_parameters():
    v1 = create_model("resnet50_v1", depths=(1, 1, 1, 1), num_classes=5).double()
    v15 = create_model("resnet50", depths=(1, 1, 1, 1), num_classes=5).double()
    randomise(v1)
    v15.load_state_dict(v1.state_dict(), strict=True)
    v1.load_state_dict(v15.state_dict(), strict=True)
    x = images(1, 3, 64, 64)
    assert (v1.eval()(x) - v15.eval()(x)).abs().max() > 1e-3
    blocks = dict(v1.blocks()), dict(v15.blocks())
    assert [block["layer2.0"].conv1.stride for block in blocks] == [(2, 2), (1, 1)]
    assert [block["layer2.0"].conv2.stride for block in blocks] == [(1, 1), (2, 2)]


def test_a_shared_block_is_the_explicit_loop():
    """book_resdeep: outputs equal the loop's, the gradient is the sum over the hundred uses."""
    model = create_model("book_resdeep").double()
    randomise(model)
    block = model.layer1[0]
    with torch.no_grad():
        block.conv1.weight.mul_(0.05)
    separate = create_model("book_resdeep_separate").double()
    state = model.state_dict()
    for i in range(100):
        state |= {f"layer1.{i}.{key}": tensor for key, tensor in block.state_dict().items()}
    separate.load_state_dict(state, strict=True)
    x = images(2, 3, 32, 32)
    ours, theirs = model.eval()(x), separate.eval()(x)
    assert_close(ours, theirs, "100 uses")
    ours.sum().backward()
    theirs.sum().backward()
    for name, parameter in block.named_parameters():
        total = sum(other.get_parameter(name).grad for _, other in separate.blocks())
        assert_close(parameter.grad, total, f"gradient of {name}")
    loop = model.forward_stem(x)
    for _ in range(100):
        loop = loop + block.act1(block.bn1(block.conv1(loop)))
    assert_close(model.forward_tail(loop), ours.detach(), "the loop")


def test_running_statistics_of_a_shared_block_see_every_use():
    model = create_model("book_resdeep", depths=(7,)).train()
    model(images(2, 3, 32, 32, dtype=torch.float32))
    assert model.layer1[0].bn1.num_batches_tracked == 7


@pytest.mark.parametrize("name", ["resnet20_cifar", "preresnet164_cifar", "seresnet50", "book_net", "fixup110_cifar"])
def test_each_activation_module_runs_once_and_not_in_place(name):
    """Counted by hooks: no activation module runs twice in a forward pass."""
    model = create_model(name)
    calls = []
    acts = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.Tanh)]
    for act in acts:
        act.register_forward_hook(lambda module, *_: calls.append(id(module)))
    with torch.no_grad():
        model.eval()(torch.zeros(1, *(model.arch.input_size if "cifar" in name or "book" in name else (3, 32, 32))))
    assert sorted(calls) == sorted(map(id, acts))
    assert not any(getattr(act, "inplace", False) for act in acts)


def test_a_network_of_1202_layers_builds_and_runs():
    model = create_model("resnet1202_cifar").eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 19_421_274
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_building_on_meta_allocates_nothing():
    with torch.device("meta"):
        model = create_model("resnet152", merge="gate(-6)", order="full-preact", drop_rate=0.1)
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert all(tensor.untyped_storage().data_ptr() == 0 for tensor in tensors)


def test_building_does_not_read_the_global_weights_of_another():
    """Two networks of one seed are equal, and the order of the axes does not matter."""
    torch.manual_seed(4)
    one = create_model(TINY, merge="rezero", shortcut="pad")
    torch.manual_seed(4)
    two = create_model(TINY, shortcut="pad", merge="rezero")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "axes",
    [
        {"order": "full-preact", "merge": "gate(-6)"},
        {"merge": "drop-path(0.2) layerscale(0.1) add", "shortcut": "avg-project"},
        {"order": "se", "merge": "stochastic-depth(0.5) dropout(0.1) scale(0.5,1)", "norm": "group(2)"},
        {"merge": "none"},
    ],
)
def test_copies_and_pickles(axes):
    model = tiny(**axes).eval()
    y = model(X)
    assert torch.equal(copy.deepcopy(model)(X), y)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(X), y)
    assert loaded.arch == model.arch


def test_export_and_trace():
    model = tiny(order="full-preact", shortcut="avg-project", merge="gate(-6)").eval()
    exported = torch.export.export(model, (X,)).module()
    assert_close(exported(X), model(X).detach(), "export")


def test_symbolic_tracing():
    """Torchvision's own tools for feature maps trace a network symbolically."""
    model = tiny(order="original", shortcut="pad").eval()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(X), model(X))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_channels_last_and_half_precision_run(device):
    model = create_model(TINY, merge="stochastic-depth(0.5) drop-path(0.3) rezero add")
    model = model.to(device, torch.bfloat16, memory_format=torch.channels_last)
    x = torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16, device=device).to(memory_format=torch.channels_last)
    assert model(x).dtype == torch.bfloat16
