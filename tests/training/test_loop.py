"""The loop against the same steps written out, and from any step on.

A batch in parts, clipped, in half precision, compiled: the steps they have to equal.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from reslab.data.rng import step_seed
from reslab.training.freezing import Freezing
from reslab.training.loop import TrainLoop, TrainStep, grad_scaler_state, make_grad_scaler
from reslab.training.losses import DistillationLoss, LossFn, build_loss, dense_targets
from reslab.training.meters import TrainMeter, count_correct


class Wheel:
    """Batches that are a function of the step."""

    num_steps_per_epoch = 4

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(0, 100, (8,), generator=generator)
        return torch.randn(8, 1, 4, 4, generator=generator), indices % 3, indices

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            yield self.batch(start_step)
            start_step += 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))


def rate(step: int) -> float:
    return 0.1 / (1 + step)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int, seed: int = 5) -> TrainMeter:
    meter = TrainMeter(first_step=start)
    make_loop(model, optimizer, seed=seed).run(start, stop, lr_at=rate, meter=meter, after_step=lambda step: False)
    return meter


def make_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0, train_step: TrainStep | None = None
) -> TrainLoop:
    return TrainLoop(
        model=model,
        loader=Wheel(),
        loss=functional.cross_entropy,
        optimizer=optimizer,
        train_step=train_step or TrainStep(),
        freezing=Freezing(model, (), Wheel.num_steps_per_epoch, 100),
        seed=seed,
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)


def test_the_loop_is_the_loop_that_tutorials_write() -> None:
    ours, plain = network(), network()
    meter = run(ours, sgd(ours), 0, 6)
    optimizer, losses = sgd(plain), []
    for step in range(6):
        torch.manual_seed(step_seed(5, step))
        optimizer.param_groups[0]["lr"] = rate(step)
        x, y, _ = Wheel().batch(step)
        optimizer.zero_grad()
        value = functional.cross_entropy(plain(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert [loss.item() for loss in meter.values["loss"]] == losses
    for result, expected in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(result, expected)


def test_a_loop_from_the_middle_is_the_loop_that_came_there() -> None:
    whole, halves = network(), network()
    run(whole, sgd(whole), 0, 7)
    optimizer = sgd(halves)
    run(halves, optimizer, 0, 3)
    torch.manual_seed(999)
    run(halves, optimizer, 3, 7)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True)
    )


def test_noise_depends_on_seed_step_and_rank() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(10) for step in range(-1, 20) for rank in range(3)}
    assert len(seeds) == 10 * 21 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_after_step_gets_the_steps_done_and_ends_the_loop() -> None:
    model, seen = network(), []
    optimizer = sgd(model)

    def after_step(step: int) -> bool:
        seen.append(step)
        return step == 4

    make_loop(model, optimizer).run(2, 9, lr_at=rate, meter=TrainMeter(), after_step=after_step)
    assert seen == [3, 4]


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    model, dtypes = network(), []
    model.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    loop = make_loop(model, sgd(model), train_step=TrainStep("bf16", channels_last=True))
    loop.run(0, 2, lr_at=rate, meter=TrainMeter(), after_step=lambda step: False)
    assert dtypes == [torch.bfloat16] * 2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_steps_on_maps_narrower_than_the_stride_have_the_gradients_of_float32(
    is_compiled: bool, channels_last: bool
) -> None:
    """The gradient of oneDNN in bf16 has values of memory that was freed: here of tensors of 1e20."""
    torch.manual_seed(0)
    # The strided one gets maps that are bfloat16 already.
    model = nn.Sequential(nn.Conv2d(2, 16, 1), nn.Conv2d(16, 64, 3, 2, 1), nn.Flatten(), nn.Linear(128, 3))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    x, y = torch.randn(4, 2, 3, 1), torch.arange(4) % 3
    TrainStep(channels_last=channels_last).backward(model, functional.cross_entropy, x, y)
    expected = [parameter.grad for parameter in model.parameters()]
    compiled_model = torch.compile(model, backend="aot_eager") if is_compiled else None
    step = TrainStep("bf16", channels_last=channels_last, compiled_model=compiled_model)
    for _ in range(5):
        model.zero_grad()
        freed = [torch.full((size,), 1e20) for size in (64, 1024, 4096, 16384, 65536)]
        del freed
        step.backward(model, functional.cross_entropy, x, y)
        for parameter, grad in zip(model.parameters(), expected, strict=True):
            assert parameter.grad is not None
            assert grad is not None
            assert (parameter.grad - grad).norm() <= 2**-6 * grad.norm()  # a few roundings to bfloat16


def network_gradient(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(size) % 3


def steps(stepping: TrainStep, model: nn.Module, loss: LossFn, num_steps: int = 3, mixed: bool = False) -> list[Tensor]:
    """The losses of some steps of SGD, and the weights they led to."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    result = []
    for _ in range(num_steps):
        x, y = batch()
        y = 0.5 * (dense_targets(x.new_zeros(12, 3), y) + dense_targets(x.new_zeros(12, 3), y.roll(1))) if mixed else y
        metrics = replace(stepping, batch_metrics=lambda *batch: {"top1": count_correct(*batch)}).run(
            model, loss, optimizer, x, y
        )
        assert metrics["top1"].dtype == torch.int64
        assert 0 <= metrics["top1"] <= 12
        result.append(metrics["loss"])
    return [*result, *(parameter.detach() for parameter in model.parameters())]


def taught() -> LossFn:
    torch.manual_seed(7)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    distilled: Any = DistillationLoss(build_loss("cross-entropy", 0.1), teacher, 0.5, 3.0)
    return distilled


LOSSES: dict[str, Callable[[], LossFn]] = {
    "cross-entropy": lambda: build_loss("cross-entropy", 0.1),
    "weighted": lambda: build_loss("cross-entropy", 0.1, torch.tensor([0.5, 1.0, 2.0])),
    "bce": lambda: build_loss("bce(0.2,sum)", 0.1),
    "focal": lambda: build_loss("focal"),
    "distilled": taught,
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("parts", [2, 5, 12])
def test_parts_of_a_batch_make_the_step_of_the_whole(parts: int, name: str, mixed: bool) -> None:
    whole = steps(TrainStep(), network_gradient(), LOSSES[name](), mixed=mixed)
    result = steps(TrainStep(grad_accum_steps=parts), network_gradient(), LOSSES[name](), mixed=mixed)
    for a, b in zip(result, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14)


def test_norms_see_the_parts() -> None:
    model, x = network_gradient(norm=True), batch()[0]
    steps(TrainStep(grad_accum_steps=3), model, build_loss("cross-entropy"), num_steps=1)
    expected = network_gradient(norm=True)
    for part in x.chunk(3):
        expected(part)
    for result, norm in zip(model.buffers(), expected.buffers(), strict=True):
        assert torch.equal(result, norm)


def test_clipping_bounds_the_norm_of_the_whole_gradient_of_all_parts() -> None:
    for parts in (1, 3):
        model, plain = network_gradient(), network_gradient()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        TrainStep(clip_grad_norm=0.01, grad_accum_steps=parts).run(
            model, build_loss("cross-entropy"), optimizer, *batch()
        )
        x, y = batch()
        nn.functional.cross_entropy(plain(x), y).backward()
        gradients = [parameter.grad for parameter in plain.parameters() if parameter.grad is not None]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert norm > 0.01
        for result, before, gradient in zip(model.parameters(), plain.parameters(), gradients, strict=True):
            torch.testing.assert_close(result, before - gradient * 0.01 / (norm + 1e-6), rtol=1e-10, atol=1e-13)


def halves(model: nn.Module, scaler: GradScaler, num_steps: int, factor: float = 1.0) -> list[Tensor]:
    """The outputs of some steps in fp16."""
    outputs: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepping, (x, y) = TrainStep("fp16", scaler=scaler), batch()
    for _ in range(num_steps):
        stepping.run(model, build_loss("cross-entropy"), optimizer, x.float() * factor, y)
    hook.remove()
    return outputs


def test_fp16_computes_in_fp16_and_keeps_float32_weights_near_those_of_float32() -> None:
    model, plain = network_gradient().float(), network_gradient().float()
    scaler = make_grad_scaler("fp16", torch.device("cpu"))
    assert scaler is not None
    outputs = halves(model, scaler, 5)
    assert {output.dtype for output in outputs} == {torch.float16}
    optimizer, (x, y) = torch.optim.SGD(plain.parameters(), lr=0.1), batch()
    for _ in range(5):
        TrainStep().run(plain, build_loss("cross-entropy"), optimizer, x.float(), y)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3)


def test_a_gradient_that_overflows_in_fp16_is_no_step_and_lowers_the_scale() -> None:
    model, scaler = network_gradient().float(), GradScaler("cpu", init_scale=2.0**30)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    halves(model, scaler, 1)
    assert scaler.get_scale() == 2.0**29
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_the_scaler_is_resumed() -> None:
    scaler, again = (GradScaler("cpu", init_scale=2.0**30) for _ in range(2))
    halves(network_gradient().float(), scaler, 2)
    state = grad_scaler_state(scaler)
    assert state is not None
    again.load_state_dict(state)
    assert again.get_scale() == scaler.get_scale() == 2.0**28
    assert make_grad_scaler("bf16", torch.device("cpu")) is grad_scaler_state(None) is None


def test_the_compiled_model_runs_and_shares_the_weights_of_the_model() -> None:
    model, plain = network_gradient(), network_gradient()
    ran = []
    compiled: Any = torch.compile(model, backend=lambda graph, inputs: ran.append(len(inputs)) or graph.forward)
    result = steps(
        TrainStep(grad_accum_steps=2, compiled_model=compiled), model, build_loss("cross-entropy"), num_steps=2
    )
    expected = steps(TrainStep(grad_accum_steps=2), plain, build_loss("cross-entropy"), num_steps=2)
    assert ran
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
