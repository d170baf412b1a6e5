"""The curvature of the loss: products of its Hessian with vectors, and the ends of its spectrum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HessianVectorProduct = Callable[[Tensor], Tensor]

_CONVERGENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HessianSpectrum:
    """The largest eigenvalues, from the largest down, and the smallest ones, from the smallest up, each with a bound on
    its error, after `num_products` products with vectors."""

    largest: tuple[float, ...]
    smallest: tuple[float, ...]
    largest_errors: tuple[float, ...]
    smallest_errors: tuple[float, ...]
    num_products: int


def hessian_vector_product(model: nn.Module, x: Tensor, y: Tensor) -> tuple[HessianVectorProduct, int]:
    """v -> H v and the length of v: H is the Hessian of the batch's mean cross-entropy over all parameters.

    H v is the gradient of (gradient . v) (Pearlmutter 1994): two passes back, no matrix. The model computes as it
    stands: in eval mode norms use their running statistics.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used_parameters = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    flat_gradient = torch.cat([gradient.flatten() for _, gradient in used_parameters])

    def multiply(vector: Tensor) -> Tensor:
        second_gradients = torch.autograd.grad(
            flat_gradient, [p for p, _ in used_parameters], vector, retain_graph=True, allow_unused=True
        )
        parts = [
            torch.zeros_like(p) if part is None else part
            for (p, _), part in zip(used_parameters, second_gradients, strict=True)
        ]
        return torch.cat([part.detach().flatten() for part in parts])

    return multiply, len(flat_gradient)


def lanczos_spectrum(
    hvp: HessianVectorProduct,
    dim: int,
    num_iterations: int,
    num_eigenvalues: int = 1,
    start_vector: Tensor | None = None,
) -> HessianSpectrum:
    """The `count` largest and smallest eigenvalues of a symmetric matrix, given by its product with vectors.

    Lanczos' method with every vector made orthogonal to all before it, twice; it ends early where the vectors span
    the whole. The bound on an error is the last residual's part in the Ritz vector, and no
    less than the rounding of float32. `start` (size,) begins it.
    ArithmeticError where a product is no finite number.
    """
    vector = torch.randn(dim, generator=torch.Generator().manual_seed(0)) if start_vector is None else start_vector
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(num_iterations, dim)):
        residual = hvp(basis[-1].to(vector))
        if not bool(residual.isfinite().all()):
            raise ArithmeticError("the curvature is no finite number")
        diagonal.append(float(residual @ basis[-1]))
        for _ in range(2):
            for previous in basis:
                residual = residual - (residual @ previous) * previous
        off_diagonal.append(float(residual.norm()))
        if off_diagonal[-1] <= _CONVERGENCE_TOLERANCE * max(1e-12, max(map(abs, diagonal))):
            break
        basis.append(residual / off_diagonal[-1])
    return _extreme_eigenvalues(diagonal, off_diagonal, num_eigenvalues)


def _extreme_eigenvalues(
    diagonal: Sequence[float], off_diagonal: Sequence[float], num_eigenvalues: int
) -> HessianSpectrum:
    num_products = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(off_diagonal[: num_products - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    ritz_values, ritz_vectors = torch.linalg.eigh(matrix)
    rounding = torch.finfo(torch.float32).eps * float(ritz_values.abs().max())
    errors = (abs(off_diagonal[-1]) * ritz_vectors[-1].abs()).clamp_min(rounding).tolist()
    eigenvalues = ritz_values.tolist()
    num_eigenvalues = min(num_eigenvalues, num_products)
    return HessianSpectrum(
        tuple(reversed(eigenvalues[num_products - num_eigenvalues :])),
        tuple(eigenvalues[:num_eigenvalues]),
        tuple(reversed(errors[num_products - num_eigenvalues :])),
        tuple(errors[:num_eigenvalues]),
        num_products,
    )
