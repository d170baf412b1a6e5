"""The curvature of the loss: Hessian-vector products and the extreme eigenvalues."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.target import BatchLoss, cross_entropy_loss

HessianVectorProduct = Callable[[Tensor], Tensor]

_CONVERGENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HessianSpectrum:
    """The largest eigenvalues in descending and the smallest ones in ascending order, with bounds on their errors.

    `num_products` is the number of Hessian-vector products that were computed.
    """

    largest: tuple[float, ...]
    smallest: tuple[float, ...]
    largest_errors: tuple[float, ...]
    smallest_errors: tuple[float, ...]
    num_products: int


def hessian_vector_product(
    model: nn.Module, x: Tensor, y: Any, loss_fn: BatchLoss = cross_entropy_loss
) -> tuple[HessianVectorProduct, int]:
    """Return the function v -> H v and the length of v; H is the Hessian of the batch's mean loss.

    H v is the gradient of (gradient . v) (Pearlmutter 1994), which takes two backward passes and no matrix. The model
    keeps its mode: in eval mode norms use their running statistics. Parameters that the loss does not depend on are
    left out.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = loss_fn(model, x, y)
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
    """Return the largest and smallest eigenvalues of a symmetric matrix of size `dim`, given by its vector products.

    The Lanczos method, started from `start_vector` (dim,) and with full reorthogonalization; it stops early once the
    Krylov space is exhausted. The bound on an error is the last residual times the last entry of the Ritz vector, and
    at least the rounding of float32. Raises ArithmeticError if a product is infinite or NaN.
    """
    vector = torch.randn(dim, generator=torch.Generator().manual_seed(0)) if start_vector is None else start_vector
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(num_iterations, dim)):
        residual = hvp(basis[-1].to(vector))
        if not bool(residual.isfinite().all()):
            raise ArithmeticError("the Hessian-vector product is not finite")
        diagonal.append(float(residual @ basis[-1]))
        for _ in range(2):  # one pass leaves rounding errors that grow into copies of converged eigenvalues
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
        largest=tuple(reversed(eigenvalues[num_products - num_eigenvalues :])),
        smallest=tuple(eigenvalues[:num_eigenvalues]),
        largest_errors=tuple(reversed(errors[num_products - num_eigenvalues :])),
        smallest_errors=tuple(errors[:num_eigenvalues]),
        num_products=num_products,
    )
