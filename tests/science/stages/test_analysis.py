from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.paths.paths import PATHS, RectifiedFlow, coefficients, resolve_path
from oracle_engine.science.stages.analysis import analyse
from oracle_engine.science.transition import crossing, draw_rows, predict_transition, time_grid, time_of_snr


def gaussians(count: int, dim: int, generator: torch.Generator) -> OracleDataset:
    return OracleDataset(torch.randn(count, dim, generator=generator), name="gaussians")


def test_mean_top_weight_of_gaussians_is_the_published_curve_in_exact_arithmetic(generator: torch.Generator) -> None:
    engine = OracleEngine(gaussians(1000, 1024, generator))
    report = analyse(engine, times=[0.02, 0.04, 0.06, 0.08, 0.10], queries=384)
    known = [0.007, 0.036, 0.125, 0.32, 0.62]
    assert [point.top_weight for point in report.points] == pytest.approx(known, abs=0.02)


def test_predictor_finds_the_transition_of_gaussians(generator: torch.Generator) -> None:
    times = torch.linspace(0.08, 0.36, 11).tolist()
    report = analyse(OracleEngine(gaussians(400, 128, generator)), times=times, queries=256)
    measured, predicted = report.measured, report.predicted
    assert measured.ess_2 is not None
    assert measured.ess_2 == pytest.approx(predicted.isotropic, rel=0.04)
    assert measured.ess_2 == pytest.approx(predicted.anisotropic, rel=0.04)
    assert measured.top_weight_50 is not None
    assert measured.top_weight_90 is not None
    assert measured.top_weight_99 is not None
    assert measured.top_weight_50 < measured.top_weight_90 < measured.top_weight_99


def test_anisotropic_predictor_sees_only_the_directions_that_vary(generator: torch.Generator) -> None:
    points = torch.zeros(600, 300)
    points[:, :10] = torch.randn(600, 10, generator=generator)
    wide, narrow = OracleDataset(points), OracleDataset(points[:, :10].contiguous())
    reference = predict_transition(narrow, RectifiedFlow()).anisotropic
    assert reference is not None
    assert predict_transition(wide, RectifiedFlow()).anisotropic == pytest.approx(reference, rel=1e-6)
    isotropic = predict_transition(wide, RectifiedFlow()).isotropic
    assert isotropic is not None
    assert isotropic < 0.9 * reference


@pytest.mark.parametrize("shape", [(1, 3), (5, 3)])
def test_there_is_no_transition_where_nothing_can_be_told_apart(shape: tuple[int, int]) -> None:
    report = analyse(OracleEngine(OracleDataset(torch.ones(shape))), queries=4)
    assert (report.predicted.isotropic, report.predicted.anisotropic) == (None, None)
    assert report.measured.ess_2 is None
    assert "none in the grid" in report.format_table()
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("path", PATHS)
def test_time_of_snr_inverts_every_path(path: str) -> None:
    found = time_of_snr(resolve_path(path), 0.3)
    assert found is not None
    at = coefficients(resolve_path(path), torch.tensor([found], dtype=torch.float64))
    assert float(at.alpha_t**2 / at.sigma_t**2) == pytest.approx(0.3, rel=1e-9)
    assert time_of_snr(resolve_path(path), 1e-9 if path == "edm" else math.inf) is None


def test_velocity_variance_is_the_loss_of_the_oracle(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(40, 6, generator=generator).double())
    engine = OracleEngine(data, "gvp")
    report = analyse(engine, times=[0.1, 0.4], queries=2000)
    for point in report.points:
        source = torch.randint(40, (8000,), generator=generator)
        noise = torch.randn(8000, 6, generator=generator, dtype=torch.float64)
        at = coefficients(engine.path, torch.tensor([point.t], dtype=torch.float64))
        x = at.alpha_t * data[source] + at.sigma_t * noise
        conditional = at.d_alpha_t * data[source] + at.d_sigma_t * noise
        loss = float((conditional - engine.velocity(x, point.t)).square().mean())
        assert point.velocity_variance == pytest.approx(loss, rel=0.06)


def test_own_share_and_top_weight_agree_on_average(generator: torch.Generator) -> None:
    report = analyse(OracleEngine(gaussians(60, 5, generator)), times=[0.3, 0.6], queries=2000)
    for point in report.points:
        assert point.own_share == pytest.approx(point.top_weight, abs=0.03)


def test_statistics_run_from_all_samples_to_one(generator: torch.Generator) -> None:
    report = analyse(OracleEngine(gaussians(100, 20, generator)), times=[0.0, 0.999], queries=32)
    first, last = report.points
    assert first.top_weight == pytest.approx(0.01)
    assert first.ess_quantiles == pytest.approx((100.0,) * 5)
    assert first.entropy == pytest.approx(math.log(100))
    assert last.top_weight == pytest.approx(1.0)
    assert last.own_share == 1.0
    assert last.velocity_variance == pytest.approx(0.0, abs=1e-9)


def test_the_same_seed_gives_the_same_points(generator: torch.Generator) -> None:
    engine = OracleEngine(gaussians(50, 8, generator))
    first, again, other = (
        analyse(engine, times=times, queries=20, seed=seed)
        for times, seed in (([0.2, 0.6], 3), ([0.6, 0.2], 3), ([0.2, 0.6], 4))
    )
    assert first.points == again.points
    assert first.strip is not None
    assert again.strip is not None
    assert torch.equal(first.strip.noisy, again.strip.noisy)
    assert other.points[0].top_weight != first.points[0].top_weight


def test_progress_counts_batches_and_times(generator: torch.Generator) -> None:
    seen: list[tuple[int, int]] = []
    engine = OracleEngine(gaussians(30, 4, generator))
    analyse(engine, times=[0.2, 0.6, 0.8], queries=10, batch=5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(7)]


def test_strip_ends_at_its_samples(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(60, 3, 4, 4, generator=generator))
    strip = analyse(OracleEngine(data), queries=16).strip
    assert strip is not None
    assert strip.noisy.shape == strip.denoised.shape == (6, len(strip.times), 3, 4, 4)
    assert torch.equal(strip.samples, data[torch.tensor(strip.sources)])
    torch.testing.assert_close(strip.denoised[:, 0], data[:].mean(0).expand(6, 3, 4, 4), atol=0.2, rtol=0)
    torch.testing.assert_close(strip.denoised[:, -1], strip.samples, atol=0.2, rtol=0)


def test_rows_are_drawn_by_weight_and_class(generator: torch.Generator) -> None:
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    data = OracleDataset(torch.randn(5, 2, generator=generator), weights=weights)
    assert draw_rows(data, 400, 0).bincount(minlength=5).tolist() == [0, 300, 0, 100, 0]
    labels = torch.arange(90) % 3
    labelled = OracleDataset(torch.randn(90, 2, generator=generator), labels)
    assert labels[labelled.index_of(draw_rows(labelled, 30, 0))].bincount().tolist() == [10, 10, 10]


def test_point_width_moves_the_transition_later(generator: torch.Generator) -> None:
    data, times = gaussians(80, 64, generator), [0.2, 0.4, 0.5, 0.6, 0.8]
    sharp, wide = (analyse(OracleEngine(data, "vp", point_std=width), times=times, queries=32) for width in (0.0, 0.8))
    assert sharp.measured.top_weight_50 is not None
    assert wide.measured.top_weight_50 is not None
    assert wide.measured.top_weight_50 > sharp.measured.top_weight_50
    assert sharp.predicted.anisotropic is not None
    assert wide.predicted.anisotropic is not None
    assert wide.predicted.anisotropic > sharp.predicted.anisotropic


def test_json_and_table_say_the_same(generator: torch.Generator) -> None:
    report = analyse(OracleEngine(gaussians(30, 4, generator)), times=[0.25, 0.5], queries=8, seed=7)
    facts = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (facts["data"]["samples"], facts["data"]["dim"], facts["seed"]) == (30, 4, 7)
    assert [point["t"] for point in facts["points"]] == [0.25, 0.5]
    assert facts["transition"]["predicted"]["entropy"] == pytest.approx(math.log(30))
    lines = report.format_table().splitlines()
    assert lines[0].startswith("gaussians: N = 30 samples, D = 4")
    assert f"{facts['points'][1]['top_weight']:.4f}" in next(line for line in lines if line.startswith("0.5 "))


@pytest.mark.parametrize("times", [[], [-0.1], [1.5], [0.5, 1.0], [math.nan]])
def test_times_without_noise_are_refused(times: list[float], generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="times"):
        analyse(OracleEngine(gaussians(10, 2, generator)), times=times)


@pytest.mark.parametrize("name", ["queries", "strip", "strip_times", "batch"])
def test_counts_below_one_are_refused(name: str, generator: torch.Generator) -> None:
    counts: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"`{name}` must be at least 1"):
        analyse(OracleEngine(gaussians(10, 2, generator)), **counts)


def test_default_times_are_dense_around_the_transition() -> None:
    grid = time_grid(0.06)
    assert (grid[0], grid[-1], len(grid)) == (0.01, 0.99, 24)
    assert sum(0.03 < t < 0.12 for t in grid) >= 9
    assert sum(0.03 < t < 0.12 for t in time_grid(None)) < 6


def test_crossing_is_linear_on_the_running_maximum() -> None:
    assert crossing([0.0, 0.2, 0.4, 0.6], [0.0, 0.4, 0.3, 0.8], 0.6) == pytest.approx(0.5)
    assert crossing([0.0, 0.2], [0.7, 0.8], 0.6) is None
    assert crossing([0.0, 0.2], [0.1, 0.2], 0.6) is None


def test_an_engine_clamped_early_needs_its_times_named(generator: torch.Generator) -> None:
    engine = OracleEngine(gaussians(10, 2, generator), t_max=0.005)
    with pytest.raises(InputError, match="times"):
        analyse(engine)
    assert [point.t for point in analyse(engine, times=[0.005], queries=2).points] == [0.005]
