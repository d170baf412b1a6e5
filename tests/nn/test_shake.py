"""Parallel branches and their random weights, compared with transcriptions of Gastaldi 2017 and its code."""

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_close, assert_same, images, randomise
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reslab.nn.factory import create_model
from reslab.nn.merge import Shake, draw_branch_weights
from reslab.spec.shortcut import parse_merge

SMALL = {"depths": (2, 1, 1), "widths": (8, 16, 32)}


class ShakeShake(torch.autograd.Function):
    """alpha x1 + (1 - alpha) x2 forward, beta and 1 - beta times the gradient backward."""

    @staticmethod
    def forward(ctx, x1, x2, alpha, beta):
        ctx.save_for_backward(beta)
        return alpha * x1 + (1 - alpha) * x2

    @staticmethod
    def backward(ctx, grad):
        (beta,) = ctx.saved_tensors
        return beta * grad, (1 - beta) * grad, None, None


class Skip(nn.Module):
    """models/shakeshakeblock.lua, `skip`, without its ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shifted = torch.zeros_like(x)
        shifted[:, :, 1:, 1:] = x[:, :, :-1, :-1]
        paths = [F.avg_pool2d(x, 1, self.stride), F.avg_pool2d(shifted, 1, self.stride)]
        return self.bn(torch.cat([self.conv1(paths[0]), self.conv2(paths[1])], 1))


class Path(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(F.relu(x))))))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = Path(inputs, outputs, stride), Path(inputs, outputs, stride)
        self.downsample = Skip(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(F.relu(x))
        x1, x2 = self.branch1(x), self.branch2(x)
        if not self.training:
            return skip + 0.5 * x1 + 0.5 * x2
        # Our draws, in our order; a_1 of two branches is the uniform number itself.
        alpha, beta = (torch.rand(len(x)).to(x.dtype).view(-1, 1, 1, 1) for _ in range(2))
        return skip + ShakeShake.apply(x1, x2, alpha, beta)


class Network(nn.Module):
    """models/shakeshake.lua, by our names."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inputs = 16
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = []
            for block in range(depth):
                blocks.append(Block(inputs, width, 2 if stage > 1 and not block else 1))
                inputs = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(F.relu(x).mean((2, 3)))


def test_shake_shake_gives_the_outputs_and_gradients_of_its_transcription():
    ours, theirs = create_model("shake26_2x32d_cifar", **SMALL).double(), Network(**SMALL).double()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, images(3, 3, 16, 16), rng=3)


@pytest.mark.parametrize("level", ["image", "batch"])
@pytest.mark.parametrize("backward", ["shake", "even", "keep"])
@pytest.mark.parametrize("forward", ["shake", "even"])
def test_every_mode_weighs_outputs_and_gradients_as_table_1_says(forward, backward, level):
    shake = Shake(forward, backward, level)
    branches = [images(4, 2, 3, 3, seed=k).requires_grad_() for k in range(2)]
    torch.manual_seed(0)
    y = shake(branches)
    torch.manual_seed(0)
    num_draws = 4 if level == "image" else 1
    half = torch.full((num_draws,), 0.5, dtype=torch.float64)
    alpha = torch.rand(num_draws).double() if forward == "shake" else half
    beta = {"shake": lambda: torch.rand(num_draws).double(), "even": lambda: half, "keep": lambda: alpha}[backward]()
    alpha, beta = alpha.view(-1, 1, 1, 1), beta.view(-1, 1, 1, 1)
    assert_close(y, alpha * branches[0] + (1 - alpha) * branches[1], "output")
    weighting = images(*y.shape, seed=9)
    grads = torch.autograd.grad((y * weighting).sum(), branches)
    assert_close(grads[0], beta * weighting, "gradient of branch 1")
    assert_close(grads[1], (1 - beta) * weighting, "gradient of branch 2")


def test_weights_of_three_branches_have_sum_1_and_equal_means():
    torch.manual_seed(0)
    weights = draw_branch_weights(torch.zeros(20_000, 1, 1, 1, dtype=torch.float64), 3, "shake", "image")
    assert weights.min() >= 0
    assert_close(weights.sum(0), torch.ones(20_000, 1, 1, 1, dtype=torch.float64), "sum")
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18.
    assert weights.mean((1, 2, 3, 4)).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert weights.var((1, 2, 3, 4)).tolist() == pytest.approx([1 / 18] * 3, abs=0.003)


def test_in_eval_mode_shake_is_the_mean():
    branches = [images(2, 3, 4, 4, seed=k) for k in range(3)]
    assert torch.equal(Shake().eval()(branches), torch.stack(branches).mean(0))


def test_draws_follow_the_seed_and_are_repeated_by_activation_checkpointing():
    network = create_model("shake26_2x32d_cifar", depths=(1,), widths=(8,), strides=(1,)).double()
    block, x = network.layer1[0], images(3, 16, 8, 8)

    def grads(seed: int, recompute: bool) -> list[Tensor]:
        torch.manual_seed(seed)
        y = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return [y.detach(), *torch.autograd.grad((y**2).sum(), list(block.parameters()))]

    stored = grads(1, recompute=False)
    assert all(map(torch.equal, grads(1, recompute=False), stored))
    assert all(map(torch.equal, grads(1, recompute=True), stored))
    assert not torch.equal(grads(2, recompute=False)[0], stored[0])


def test_without_a_combination_parallel_branches_are_added():
    """y = relu(x + T_1(x) + T_2(x)) (Xie et al. 2017, Eq. 2)."""
    network = create_model("resnet20_cifar", depths=(1,), widths=(16,), strides=(1,), branches=2).double()
    randomise(network)
    block, x = network.eval().layer1[0], images(2, 16, 8, 8)
    expected = F.relu(x + block.branch1(x) + block.branch2(x))
    assert_close(block(x), expected, "output")
    plain = create_model("resnet20_cifar", depths=(1,), widths=(16,), strides=(1,)).double().eval()
    halves = [plain.layer1[0].state_dict() | branch.state_dict() for branch in block.branches]
    for branch, state in zip(block.branches, halves, strict=True):
        plain.layer1[0].load_state_dict(state)
        assert torch.equal(plain.layer1[0].branch(x), branch(x))


def test_zero_init_and_fixup_reach_every_branch():
    network = create_model("shake26_2x32d_cifar", depths=(1, 1, 1), last_norm_weight=0)
    assert all(not norm.weight.any() for _, block in network.blocks() for norm in block.last_norms())
    fixup = create_model("fixup110_cifar", depths=(1, 1, 1), branches=2)
    assert all(not branch.conv2.weight.any() for _, block in fixup.blocks() for branch in block.branches)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"merge": "shake add"}, "at least 2 branches"),
        ({"branches": 0}, "branches of whole numbers from 1"),
        ({"branches": 2, "merge": "shake shake"}, "one operation that combines the parallel branches"),
        ({"branches": 2, "merge": "shake(shaky)"}, "shake"),
        ({"branches": 2, "merge": "shake(shake,shake,pixel)"}, "image"),
    ],
    ids=str,
)
def test_what_cannot_be_combined(axes, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnet20_cifar", **axes)


def test_the_operations_of_a_merge_come_in_any_order():
    assert parse_merge("drop-path(0.1) shake") == parse_merge("shake drop-path(0.1) add")
    assert [str(op) for op in parse_merge("drop-path(0.1) shake").ops] == ["shake", "drop-path(0.1)", "add"]
