"""Loss landscapes and curvature against moved weights, dense Hessians and identities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.landscape import LandscapeOptions, LandscapeProgress, analyze_landscape, non_convex_fraction
from reslab.analysis.landscape_evaluator import (
    WeightPlane,
    clone_parameters,
    filter_norms,
    hessian_vector_product,
    lanczos_spectrum,
    random_direction,
    trajectory_directions,
)
from reslab.analysis.open_targets import target_from_module
from reslab.analysis.target import AnalysisTarget, progress_callback, report_progress
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.config import from_dict, to_dict

FEW = LandscapeOptions(points_per_axis=3, curvature_points=0, num_eigenvalues=0)


def network(**axes: Any) -> ResidualNetwork:
    torch.manual_seed(0)
    shape = {"depths": (1, 1), "widths": (4, 8), "strides": (1, 2)}
    model = create_model("resnet20_cifar", stem="conv3(4) norm act", num_classes=3, **(shape | axes))
    assert isinstance(model, ResidualNetwork)
    return model.eval()


def target(model: nn.Module | None = None) -> AnalysisTarget:
    torch.manual_seed(1)
    return target_from_module(model or network(), torch.randn(6, 3, 8, 8), torch.arange(6) % 3, "tiny")


def small_module() -> nn.Module:
    torch.manual_seed(2)
    parts = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    return nn.Sequential(*parts).eval()


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the whole Hessian, by torch.func."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [parameter.numel() for parameter in model.parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = {n: p.view(s) for n, p, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def test_hessian_products_are_those_of_the_dense_matrix() -> None:
    result = target(small_module())
    matrix = dense_hessian(result.model, result.images, result.labels)
    product, size = hessian_vector_product(result.model, result.images, result.labels)
    assert matrix.shape == (size, size)
    for vector in torch.randn(4, size):
        torch.testing.assert_close(product(vector), matrix @ vector, atol=1e-6, rtol=1e-4)


def test_the_ends_of_the_spectrum_are_those_of_the_dense_hessian() -> None:
    result = target(small_module())
    values = torch.linalg.eigvalsh(dense_hessian(result.model, result.images, result.labels))
    product, size = hessian_vector_product(result.model, result.images, result.labels)
    ends = lanczos_spectrum(product, size, 60, 3)
    assert ends.largest == pytest.approx(values.flip(0)[:3].tolist(), rel=1e-3)
    assert ends.smallest[0] == pytest.approx(float(values[0]), rel=1e-3)
    assert ends.num_products <= 60


def test_the_bound_on_an_error_holds() -> None:
    torch.manual_seed(3)
    matrix = torch.randn(80, 80).double()
    matrix = matrix + matrix.T
    exact = torch.linalg.eigvalsh(matrix)
    rough = lanczos_spectrum(lambda v: matrix @ v, 80, 15, 1, torch.randn(80).double())
    gap = min(abs(float(value) - rough.largest[0]) for value in exact)
    assert 0 < gap <= rough.largest_errors[0]
    whole = lanczos_spectrum(lambda v: matrix @ v, 80, 200, 2, torch.randn(80).double())
    assert whole.largest == pytest.approx(exact.flip(0)[:2].tolist())
    assert whole.num_products == 80


def test_lanczos_ends_where_the_vectors_span_the_whole() -> None:
    ends = lanczos_spectrum(lambda v: 2 * v, 10, 10, 3)
    assert (ends.largest, ends.smallest, ends.num_products) == (pytest.approx((2.0,)), pytest.approx((2.0,)), 1)
    with pytest.raises(ArithmeticError):
        lanczos_spectrum(lambda v: v * float("nan"), 10, 3)


def test_every_filter_of_a_direction_is_as_long_as_the_weights_filter() -> None:
    weights = clone_parameters(network())
    direction = random_direction(weights, torch.Generator().manual_seed(0))
    for name, weight in weights.items():
        if weight.ndim == 1:
            assert not direction[name].any(), name
        else:
            torch.testing.assert_close(filter_norms(direction[name]), filter_norms(weight))
    assert "bn1.bias" in weights


def test_the_same_seed_gives_the_same_directions() -> None:
    weights = clone_parameters(network())
    one, two, other = (random_direction(weights, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one["conv1.weight"], two["conv1.weight"])
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_the_origin_has_the_loss_of_the_weights_to_the_bit() -> None:
    inputs = target()
    result = analyze_landscape(inputs, FEW)
    loss = float(functional.cross_entropy(inputs.model(inputs.images), inputs.labels).detach()) * 6 / 6
    assert result.alphas == result.betas == (-1.0, 0.0, 1.0)
    assert result.losses[1][1] == result.loss == loss
    assert result.losses[0][1] != loss


def test_a_point_is_the_loss_of_manually_moved_weights() -> None:
    inputs = target()
    generator = torch.Generator().manual_seed(0)
    weights = clone_parameters(inputs.model)
    one, two = random_direction(weights, generator), random_direction(weights, generator)
    moved = {name: weight + 1.0 * one[name] - 1.0 * two[name] for name, weight in weights.items()}
    logits = torch.func.functional_call(inputs.model, moved, (inputs.images,))
    result = analyze_landscape(inputs, FEW)
    assert result.losses[0][2] == pytest.approx(float(functional.cross_entropy(logits, inputs.labels)), rel=1e-5)


def test_the_network_itself_does_not_move() -> None:
    result = target()
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    analyze_landscape(
        result, LandscapeOptions(points_per_axis=2, curvature_points=1, num_eigenvalues=1, lanczos_iterations=3)
    )
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())


def test_curvature_at_the_weights_is_the_dense_hessians() -> None:
    inputs = target(small_module())
    result = analyze_landscape(
        inputs, LandscapeOptions(points_per_axis=2, curvature_points=1, lanczos_iterations=60, num_eigenvalues=2)
    )
    values = torch.linalg.eigvalsh(dense_hessian(inputs.model, inputs.images, inputs.labels))
    (curvature,) = result.curvature
    assert (curvature.smallest, curvature.largest) == (
        pytest.approx(float(values[0]), rel=1e-3),
        pytest.approx(float(values[-1]), rel=1e-3),
    )
    assert result.largest == pytest.approx(values.flip(0)[:2].tolist(), rel=1e-3)
    assert result.non_convex_fraction == float(-values[0] / values[-1] > 0.1)


def test_the_non_convex_fraction() -> None:
    assert non_convex_fraction([(-1.0, 5.0), (-0.1, 5.0), (None, None), (-0.6, 5.0)]) == pytest.approx(2 / 3)
    assert non_convex_fraction([(0.6, 5.0), (-3.0, -1.0)]) == 0.5  # a bowl, and a hill
    assert non_convex_fraction([]) is None


def test_one_dimension_is_a_line() -> None:
    result = analyze_landscape(
        target(),
        LandscapeOptions(dimensions=1, points_per_axis=5, curvature_points=2, lanczos_iterations=2, num_eigenvalues=0),
    )
    assert (len(result.alphas), result.betas, len(result.losses), len(result.losses[0])) == (5, (0.0,), 1, 5)
    assert [curvature.alpha for curvature in result.curvature] == [-1.0, 1.0]


def test_points_are_cached_and_an_analysis_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = tmp_path / "deeper" / "points.jsonl"
    options = LandscapeOptions(
        points_per_axis=3, curvature_points=1, lanczos_iterations=2, num_eigenvalues=1, cache_file=str(keep)
    )
    whole = analyze_landscape(target(), options)
    lines = keep.read_text().splitlines()
    assert len(lines) == 9 + 1 + 1
    keep.write_text("\n".join(lines[:4]) + '\n{"key": "cut sh')
    messages: list[str] = []
    with progress_callback(messages.append):
        assert analyze_landscape(target(), options) == whole
    assert "4 read from the cache" in messages[0]
    assert (
        len(
            [record for record in keep.read_text().splitlines() if record.startswith('{"key"') and record.endswith("}")]
        )
        == 11
    )
    monkeypatch.setattr("reslab.analysis.landscape_evaluator.score_model", lambda *_: pytest.fail("measured again"))
    assert analyze_landscape(target(), options) == whole


def test_other_weights_have_other_cached_points(tmp_path: Path) -> None:
    options = LandscapeOptions(
        points_per_axis=2, curvature_points=0, num_eigenvalues=0, cache_file=str(tmp_path / "points.jsonl")
    )
    one = analyze_landscape(target(), options)
    other = network()
    nn.init.ones_(other.fc.weight)
    assert analyze_landscape(target(other), options).loss != one.loss
    assert analyze_landscape(target(), options) == one


def test_principal_directions_of_a_run() -> None:
    final = {"w": torch.zeros(2, 3), "b": torch.zeros(2)}
    step = {"w": torch.tensor([[3.0, 0, 0], [0, 0, 0]]), "b": torch.zeros(2)}
    other = {"w": torch.tensor([[1.0, 0, 0], [0, 0, 0]]), "b": torch.tensor([0.0, 0.5])}
    directions, places, explained = trajectory_directions([step, other], final, 2)
    for index, weights in enumerate((step, other)):
        for name in final:
            moved = sum(places[index, k] * directions[k][name] for k in range(2))
            torch.testing.assert_close(moved, weights[name], atol=1e-6, rtol=0)
    dots = [float(sum((directions[i][n] * directions[j][n]).sum() for n in final)) for i, j in ((0, 0), (1, 1), (0, 1))]
    assert dots == pytest.approx([1, 1, 0], abs=1e-6)
    assert sum(explained) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 2 snapshots"):
        trajectory_directions([step], final, 2)


def test_the_plane_of_a_run_goes_through_its_snapshots(tmp_path: Path) -> None:
    class Kept:
        def snapshots(self) -> list[tuple[int, Path]]:
            return [(step, tmp_path / f"{step}.safetensors") for step in (0, 5, 9)]

    final = network()
    losses = {}
    for step in (0, 5, 9):
        earlier = network()
        torch.manual_seed(step)
        for parameter, last in zip(earlier.parameters(), final.parameters(), strict=True):
            parameter.data = last.data + (9 - step) * 0.02 * torch.randn_like(last)
        save_weights(tmp_path / f"{step}.safetensors", earlier)
        losses[step] = analyze_landscape(target(earlier), FEW).loss
    base = target(final)
    inputs = AnalysisTarget("run", final, base.images, base.labels, run=Kept())  # type: ignore[arg-type]
    result = analyze_landscape(
        inputs, LandscapeOptions(points_per_axis=3, directions="trajectory", curvature_points=0, num_eigenvalues=0)
    )
    assert [point.step for point in result.trajectory] == [0, 5]
    assert sum(result.explained_variance) == pytest.approx(1)
    point = result.trajectory[0]
    generator_free = trajectory_directions(
        [clone_parameters(_loaded(tmp_path / f"{step}.safetensors")) for step in (0, 5)], clone_parameters(final), 2
    )[0]
    moved = network()
    WeightPlane(clone_parameters(final), generator_free).set_weights(moved, (point.alpha, point.beta))
    assert analyze_landscape(target(moved), FEW).loss == pytest.approx(losses[0], rel=1e-4)
    assert min(result.alphas) < min(0, point.alpha)


def _loaded(path: Path) -> ResidualNetwork:
    from reslab.nn.factory import load_network

    return load_network(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"directions": "randm"}, "unknown directions 'randm'; nearest: 'random'"),
        ({"dimensions": 3}, "1 or 2 dimensions"),
        ({"points_per_axis": 1}, "points_per_axis of at least 2"),
        ({"radius": 0.0}, "radius above 0"),
        ({"directions": "trajectory"}, "a run with snapshots"),
        ({"points_per_axis": 400, "max_minutes": 0.001}, r"about \d+ minutes: .* points_per_axis=\d+.*max_minutes="),
    ],
)
def test_invalid_options_of_the_landscape_are_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        analyze_landscape(target(), from_dict(LandscapeOptions, {**to_dict(FEW), **options}))


def test_a_loss_that_is_not_finite_is_none() -> None:
    model = network()
    model.fc.weight.data.fill_(1e38)
    result = analyze_landscape(
        target(model), LandscapeOptions(points_per_axis=3, radius=1e30, curvature_points=1, num_eigenvalues=1)
    )
    assert result.losses[0][0] is None
    assert "NaN" not in str(to_dict(result))


def test_progress_without_a_callback_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    report_progress("nobody listens")
    assert capsys.readouterr() == ("", "")


def test_the_remaining_time_weighs_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 60.0])
    monkeypatch.setattr("reslab.analysis.landscape.time.monotonic", lambda: next(clock))
    messages: list[str] = []
    with progress_callback(messages.append):
        step = LandscapeProgress("tiny", [1.0, 1.0, 4.0])
        for _ in range(3):
            step.advance()
    assert messages == ["tiny: 1 of 3, 50 s left", "tiny: 2 of 3, 40 s left", "tiny: 3 of 3, 0 s left"]
