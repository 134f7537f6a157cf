"""Answers keep their digits at every scale and between samples, late, where differences of float64 logits lose them."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from closed_form import normal, stored_as
from exact_answers import Still, assert_within_terms, exact_answer
from tolerances import assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, ValueMap
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.paths.paths import coefficients

LATE = (0.5, 0.99, 0.999, 0.9999, 1 - 1e-6)


def assert_exact(data: OracleDataset, x: Tensor, t: float, **conditions: object) -> None:
    """Compare velocity and log density with 60 digits: the bar, and 1e-6 of the density or 1e-9 nats."""
    engine, times = OracleEngine(data), torch.tensor([t], dtype=torch.float64)
    velocity = engine.velocity(x[None], times, **conditions)[0]  # type: ignore[arg-type]
    density = float(engine.log_density(x[None], times, **conditions))  # type: ignore[arg-type]
    with mpmath.workdps(60):
        true = exact_answer(data, x, coefficients(engine.path, times))
        error = true.error(velocity) / mpmath.sqrt(sum(b * b for b in true.velocity))
        missed = abs(mpmath.mpf(density) - true.log_density)
        assert missed <= max(mpmath.mpf(1e-9), mpmath.mpf(1e-6) * abs(true.log_density)), (t, float(missed))
    assert_within(torch.tensor([float(error)]), "bar")


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("dim", [16, 192])
def test_half_way_between_two_samples(generator: torch.Generator, dtype: torch.dtype, dim: int) -> None:
    data = OracleDataset(stored_as(normal(12, dim, generator), dtype))
    first, second = data[0].double(), data[1].double()
    for t in LATE:
        assert_exact(data, t * (first + second) / 2, t)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("path", ["gvp", "vp"])
@pytest.mark.parametrize(("dim", "amplitude", "t"), [(64, 3, 0.97), (784, 1, 0.97), (64, 1, 0.99), (64, 3, 0.99)])
def test_half_way_with_next_to_no_noise_along_paths_that_end_slowly(
    generator: torch.Generator, backend: str, path: str, dim: int, amplitude: int, t: float
) -> None:
    # the signal hardly grows any more, and E[eps | x] is next to nothing: so is the velocity
    stored = (amplitude * normal(40, dim, generator)).round().to(torch.int8)
    data = OracleDataset(stored)
    engine, reference = (
        OracleEngine(data, path=path, backend=backend),
        OracleEngine(data, path=path, backend="reference"),
    )
    at = coefficients(engine.path, torch.tensor([t], dtype=torch.float64))
    values = stored.double() * data.value_map.scale + data.value_map.offset
    x = at.alpha_t * (values[:20] + values[20:]) / 2 + 1e-4 * at.sigma_t * normal(20, dim, generator)
    mean, noise = reference.denoiser(x, t), reference.noise(x, t)
    terms = at.d_alpha_t.abs() * mean.norm(dim=1) + at.d_sigma_t.abs() * noise.norm(dim=1)
    assert_rows_close(engine.velocity(x, t), reference.velocity(x, t), "bar", terms)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("dim", "share"), [(24, 1e-5), (24, 1e-7), (24, 1e-10), (80, 1e-7), (80, 1e-10)])
def test_on_top_of_a_sample_beside_others_that_hold_next_to_nothing(
    generator: torch.Generator, backend: str, dtype: torch.dtype, dim: int, share: float
) -> None:
    # all of E[eps | x] comes from a mass that a scan might leave out
    data = OracleDataset(stored_as(normal(20, dim, generator), dtype))
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    nearest = float((values[1:] - values[0]).norm(dim=1).min())
    sigma = nearest / math.sqrt(-2.0 * math.log(share))
    assert_within_terms(OracleEngine(data, path=Still(1.0, sigma), backend=backend), values[:1])


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [8, 24, 80])
@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_half_way_between_two_samples_where_only_the_noise_is_left(
    generator: torch.Generator, backend: str, dtype: torch.dtype, dim: int, noise: float
) -> None:
    data = OracleDataset(stored_as(normal(12, dim, generator), dtype))
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    for distance in (0.1, 0.03, 0.003):
        sigma = distance * data.value_map.scale * data.rows.radius
        x = 0.7 * (values[:3] + values[3:6]) / 2 + noise * sigma * normal(3, dim, generator)
        assert_within_terms(OracleEngine(data, path=Still(0.7, sigma), backend=backend), x)


@pytest.mark.parametrize("classes", [[0, 1], [0, 0]])
def test_half_way_between_two_samples_of_a_union(generator: torch.Generator, classes: list[int]) -> None:
    # the states of two classes merge by the difference of their log-partitions
    points = normal(6, 100, generator).float()
    labels = torch.tensor([*classes, 1, 0, 1, 0])
    data = OracleDataset(points, labels)
    for t in LATE:
        x = t * (points[0].double() + points[1].double()) / 2
        union = OracleEngine(data).velocity(x[None], torch.tensor([t]).double(), labels=torch.tensor([[0, 1, -1]]))
        everything = OracleEngine(data).velocity(x[None], torch.tensor([t]).double())
        assert_within((union - everything).norm(dim=1) / everything.norm(dim=1), "bar")
        assert_exact(data, x, t, labels=torch.tensor([[0, 1, -1]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e18])
@pytest.mark.parametrize("dim", [1, 3, 70])
def test_every_scale_of_the_data(generator: torch.Generator, dtype: torch.dtype, scale: float, dim: int) -> None:
    # off centre, as coordinates in metres are
    data = OracleDataset(((normal(9, dim, generator) + 3.0) * scale).to(dtype))
    sample = data[4].double()
    for t in (1e-4, 0.3, 0.99, 1 - 1e-6):
        assert_exact(data, t * sample + (1 - t) * normal(1, dim, generator)[0], t)
        assert_exact(data, 3 * t * sample, t)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("scale", [1e-20, 1e-16, 1e-14, 1e-12, 1e13])
def test_little_noise_at_every_scale_of_the_data(generator: torch.Generator, backend: str, scale: float) -> None:
    # alpha / sigma^2 leaves float32 long before the squares of the samples do
    data = OracleDataset((scale * normal(9, 100, generator)).float())
    x = data[:2].double() + 1e-5 * scale * normal(2, 100, generator)
    assert_within_terms(OracleEngine(data, path=Still(1.0, 1e-5 * scale), backend=backend), x)


def test_posteriors_far_from_all_samples(generator: torch.Generator) -> None:
    data = OracleDataset(normal(5, 30, generator))
    t = 1 - 1e-5
    x = t * (data[0] + data[1]) / 2
    found = OracleEngine(data).posterior(x[None], t, top_k=2)
    assert_within((found.top_weights.sum(1) - 1.0).abs(), "float64")
    assert_within((found.top_weights - 0.5).abs()[0] * 1e-3, "bar")


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("count", [1, 3, 600])
def test_equal_samples_far_away_share_the_weight(generator: torch.Generator, backend: str, count: int) -> None:
    data = OracleDataset((normal(1, 70, generator) - 1000.0).repeat(count, 1).float())
    x = 1.5 * data[:1].double() + normal(1, 70, generator)
    found = OracleEngine(data, backend=backend).posterior(x, 1.0 - 1e-5, top_k=3)
    share = torch.full_like(found.top_weights, 1.0 / count)
    share[:, count:] = 0.0
    assert_within(found.top_weights - share, "float64")


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_many_copies_far_from_zero_weigh_as_one(generator: torch.Generator, backend: str) -> None:
    # weights that add up to one but for rounding move a mean by their error times where it is
    sample = (normal(1, 20, generator) - 1000.0).float()
    x = sample.double() + 1e-7 * normal(1, 20, generator)
    assert_within_terms(OracleEngine(OracleDataset(sample.repeat(300, 1)), path=Still(1.0, 0.01), backend=backend), x)


@pytest.mark.parametrize("dim", [2, 96])
def test_the_heaviest_samples_are_named_where_float64_logits_tie(generator: torch.Generator, dim: int) -> None:
    # so far away that the logits differ in digits that float64 does not hold
    points = 1e-3 * normal(40, dim, generator)
    points[:, 0] = torch.randperm(40, generator=generator).double() * 1e-5
    data = OracleDataset(points.float())
    x = torch.zeros(1, dim, dtype=torch.float64)
    x[0, 0] = 1e12
    found = OracleEngine(data).posterior(x, 0.5, top_k=4)
    assert found.top_indices[0].tolist() == points[:, 0].argsort(descending=True)[:4].tolist()
    assert found.top_weights[0].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("storage", [torch.uint8, torch.float32])
def test_early_means_that_are_next_to_zero_in_mapped_values(
    generator: torch.Generator, backend: str, storage: torch.dtype
) -> None:
    # stored numbers of one sign, whose sums are a hundred times as long as what is left of them
    stored = (128 + 45 * normal(150, 65, generator)).clamp(0, 255).round().to(storage)
    data = OracleDataset(stored, value_map=ValueMap(2 / 255, -1.0))
    assert data.rows.raw_operand
    engine, reference = (OracleEngine(data, path="gvp", backend=name) for name in (backend, "reference"))
    t = torch.full((8,), 1e-4, dtype=torch.float64)
    values = data[:16].double()
    x = coefficients(engine.path, t).alpha_t[:, None] * (values[:8] + values[8:]) / 2 + 1e-3 * normal(8, 65, generator)
    assert_rows_close(engine.velocity(x, t), reference.velocity(x, t), "bar")
