"""The curvature of the loss: products of its Hessian with vectors, and the ends of its spectrum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Product = Callable[[Tensor], Tensor]

_DONE = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues, from the largest down, and the smallest ones, from the smallest up, each with a bound on
    its error, after `num_products` products with vectors."""

    largest: tuple[float, ...]
    smallest: tuple[float, ...]
    largest_errors: tuple[float, ...]
    smallest_errors: tuple[float, ...]
    num_products: int


def hessian_product(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Product, int]:
    """v -> H v and the length of v: H is the Hessian of the batch's mean cross-entropy over all parameters.

    H v is the gradient of (gradient . v) (Pearlmutter 1994): two passes back, no matrix. The model computes as it
    stands: in eval mode norms use their running statistics.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    flat = torch.cat([gradient.flatten() for _, gradient in used])

    def product(vector: Tensor) -> Tensor:
        found = torch.autograd.grad(flat, [p for p, _ in used], vector, retain_graph=True, allow_unused=True)
        rows = [torch.zeros_like(p) if row is None else row for (p, _), row in zip(used, found, strict=True)]
        return torch.cat([row.detach().flatten() for row in rows])

    return product, len(flat)


def spectrum(product: Product, size: int, iterations: int, count: int = 1, start: Tensor | None = None) -> Spectrum:
    """The `count` largest and smallest eigenvalues of a symmetric matrix, given by its product with vectors.

    Lanczos' method with every vector made orthogonal to all before it, twice; it ends early where the vectors span
    the whole. The bound on an error is the last residual's part in the Ritz vector, and no
    less than the rounding of float32. `start` (size,) begins it.
    ArithmeticError where a product is no finite number.
    """
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0)) if start is None else start
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(iterations, size)):
        found = product(basis[-1].to(vector))
        if not bool(found.isfinite().all()):
            raise ArithmeticError("the curvature is no finite number")
        diagonal.append(float(found @ basis[-1]))
        for _ in range(2):
            for known in basis:
                found = found - (found @ known) * known
        beside.append(float(found.norm()))
        if beside[-1] <= _DONE * max(1e-12, max(map(abs, diagonal))):
            break
        basis.append(found / beside[-1])
    return _ends(diagonal, beside, count)


def _ends(diagonal: Sequence[float], beside: Sequence[float], count: int) -> Spectrum:
    number = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(beside[: number - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    values, vectors = torch.linalg.eigh(matrix)
    rounding = torch.finfo(torch.float32).eps * float(values.abs().max())
    errors = (abs(beside[-1]) * vectors[-1].abs()).clamp_min(rounding).tolist()
    found = values.tolist()
    count = min(count, number)
    return Spectrum(
        tuple(reversed(found[number - count :])),
        tuple(found[:count]),
        tuple(reversed(errors[number - count :])),
        tuple(errors[:count]),
        number,
    )
