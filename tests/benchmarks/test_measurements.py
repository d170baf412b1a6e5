"""The measurements that the benchmarks compute: convolutions of a step, kinds of operations, exponents, comparisons."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_convolutions_of_a_step_have_the_network_s_multiply_adds() -> None:
    step_profile = importlib.import_module("step_profile")
    case = step_profile.Case((3, 32, 32), 2, 10, step_profile.CASES["resnet20_cifar"].plain)
    count = step_profile.convolutions(case)
    assert sum(count.values()) == 19
    # He et al. 2016: 41 million multiply-adds of ResNet-20; those of the linear layer are not convolutions.
    macs = sum(number * convolution.flops for convolution, number in count.items()) / 2 / case.batch_size
    assert macs == 40_550_400
    assert [convolution.needs_input_grad for convolution in count].count(False) == 1
    assert sum(number for convolution, number in count.items() if convolution.is_3x3) == 18


@pytest.mark.parametrize(("stride", "has_bias"), [(1, False), (2, True)])
def test_the_passes_of_a_convolution_are_those_of_autograd(stride: int, has_bias: bool) -> None:
    step_profile = importlib.import_module("step_profile")
    torch.manual_seed(0)
    convolution = step_profile.Convolution((2, 8, 6, 6), (4, 8, 3, 3), (stride,) * 2, (1, 1), (1, 1), 1, has_bias, True)
    passes = convolution.passes(torch.float32)
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 6, 6).requires_grad_(), torch.randn(4, 8, 3, 3).requires_grad_()
    bias = torch.randn(4).requires_grad_() if has_bias else None
    y = torch.nn.functional.conv2d(x, weight, bias, stride, 1)
    y.backward(y.detach())  # the passes take the output as its gradient
    torch.testing.assert_close(passes[step_profile.FORWARD](), y.detach())
    torch.testing.assert_close(passes[step_profile.TO_INPUT]()[0], x.grad)
    torch.testing.assert_close(passes[step_profile.TO_WEIGHTS]()[1], weight.grad)
    assert convolution.flops == 2 * y.numel() * 8 * 9


def test_operations_have_kinds_and_those_of_the_optimizer_are_its_own() -> None:
    kind_of = importlib.import_module("step_profile").kind_of
    optimizer = SimpleNamespace(name="Optimizer.step#SGD.step", cpu_parent=None)
    names = [
        "aten::convolution_backward",
        "aten::native_batch_norm",
        "aten::threshold_backward",
        "aten::add_",
        "aten::mm",
    ]
    kinds = [kind_of(SimpleNamespace(name=name, cpu_parent=None)) for name in names]
    assert kinds == ["convolution", "norm", "activation", "add", "rest"]
    assert kind_of(SimpleNamespace(name="aten::add_", cpu_parent=optimizer)) == "optimizer"


def test_the_exponent_of_a_power_law_is_found() -> None:
    fit = importlib.import_module("growth").fit_power_law
    assert fit([1, 3, 10, 50], [2 * size**1.5 for size in (1, 3, 10, 50)]) == pytest.approx((1.5, 2.0))


def test_ours_is_compared_with_the_fastest_other_round_by_round() -> None:
    side_by_side = importlib.import_module("side_by_side")
    rates = {"slow": [1.0, 1.0, 1.0], "fast": [2.0, 4.0, 4.0], "ours": [2.0, 3.0, 6.0]}
    assert side_by_side._compare_fastest(rates, ["ours"]) == [
        "ours against the fastest other candidate, fast: 1.00 (0.75 to 1.50)."
    ]
    assert side_by_side._compare_fastest(rates, []) == []
