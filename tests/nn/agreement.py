"""Two implementations held against each other: outputs, gradients of inputs and of every weight, running statistics."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5}
Formula = Callable[[Mapping[str, Tensor], Tensor, bool], Tensor]


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Draw every weight and every running statistic, so that none is the 0 or 1 it starts from."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            drawn = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        elif tensor.ndim > 1:
            drawn = normal * math.sqrt(2 / tensor[0].numel())
        elif name.endswith(("bias", "running_mean")):
            drawn = normal * 0.3
        else:
            drawn = 1 + normal * 0.3
        with torch.no_grad():
            tensor.copy_(drawn)


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(ours: Tensor, theirs: Tensor, what: str, relative: float | None = None, floor: float = 0.0) -> None:
    """Equal up to `relative` times the largest entry (or `floor`, for a gradient that is zero but for rounding)."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    assert ours.isfinite().all(), f"{what} is not finite"
    if not ours.numel():
        return
    scale = max(theirs.abs().max().item(), floor)
    error = (ours - theirs).abs().max().item()
    limit = RELATIVE[ours.dtype] if relative is None else relative
    assert error <= limit * scale, f"{what}: off by {error:.3g}, {error / max(scale, 1e-300):.3g} of the largest entry"


def gradients(
    call: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor], x: Tensor, rng: int | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradient of a random weighting of it to the input and to each weight."""
    x = x.clone().requires_grad_()
    if rng is not None:
        torch.manual_seed(rng)
    y = call(x)
    loss = (y * images(*y.shape, seed=7, dtype=y.dtype)).sum()
    read = {"input": x} | {name: weight for name, weight in weights.items() if weight.requires_grad}
    result = torch.autograd.grad(loss, list(read.values()), allow_unused=True)
    pairs = zip(read.items(), result, strict=True)
    return y.detach(), {name: torch.zeros_like(of) if grad is None else grad for (name, of), grad in pairs}


def assert_same(
    ours: nn.Module,
    theirs: nn.Module,
    x: Tensor,
    rename: Callable[[str], str] = lambda name: name,
    training: tuple[bool, ...] = (True, False),
    rng: int | None = None,
) -> None:
    """Two modules with the same weights agree: `rename` turns our names into theirs."""
    their_weights = dict(theirs.named_parameters())
    for mode in training:
        y, grads = gradients(ours.train(mode), dict(ours.named_parameters()), x, rng)
        expected, their_grads = gradients(theirs.train(mode), their_weights, x, rng)
        assert_close(y, expected, f"output, training={mode}")
        floor = max(grad.abs().max().item() for grad in their_grads.values()) * 1e-3
        for name, grad in grads.items():
            theirs_named = their_grads[name if name == "input" else rename(name)].reshape(grad.shape)
            assert_close(grad, theirs_named, f"gradient of {name}, training={mode}", floor=floor)
        their_buffers = dict(theirs.named_buffers())
        for name, buffer in ours.named_buffers():
            if buffer.is_floating_point():
                assert_close(buffer, their_buffers[rename(name)], f"{name} after training={mode}")


def assert_follows(
    module: nn.Module,
    formula: Formula,
    x: Tensor,
    training: tuple[bool, ...] = (True, False),
    rng: int | None = None,
) -> None:
    """A module agrees with a formula over its own weights: formula(weights by name, x, training) -> output."""
    for mode in training:
        state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        learned = {name for name, _ in module.named_parameters()}
        for name in learned:
            state[name].requires_grad_()
        unread = Read(state)
        y, grads = gradients(module.train(mode), dict(module.named_parameters()), x, rng)
        expected, their_grads = gradients(lambda z, u=unread, m=mode: formula(u, z, m), state, x, rng)
        assert_close(y, expected, f"output, training={mode}")
        floor = max(grad.abs().max().item() for grad in their_grads.values()) * 1e-3
        for name, grad in grads.items():
            assert_close(grad, their_grads[name], f"gradient of {name}, training={mode}", floor=floor)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                assert_close(buffer, state[name], f"{name} after training={mode}")
        missed = learned - unread.names
        assert not missed, f"the formula does not know {sorted(missed)}"


class Read(dict[str, Tensor]):
    """A state dict that remembers which of its names were read."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)
