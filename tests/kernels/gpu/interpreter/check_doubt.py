"""Queries with next to no noise are rescored in full where a loss of float32 sums would show, and no others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_form import normal, stored_as
from exact_answers import Still, assert_within_terms
from kernel_problems import all_times, make_query, make_rows, scanned, small_backend
from recording import Waiting, begin_capture
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import Span, Wanted
from oracle_engine.kernels.common.rows import Query, Rows
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.rescore.doubt import Doubt
from oracle_engine.kernels.gpu.rescore.lists import AGAIN, RescoreList
from oracle_engine.kernels.gpu.rescore.rescored import Rescored
from oracle_engine.kernels.gpu.scans import scan
from oracle_engine.paths.paths import coefficients
from oracle_engine.scans import backends

# data and times at which some samples beside the nearest hold just so much that their loss shows: the dimension, the
# largest value, and t
SLOW_ENDS = [("gvp", 64, 3, 0.97), ("gvp", 784, 1, 0.97), ("gvp", 64, 1, 0.99), ("vp", 64, 3, 0.99)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines scan in small blocks."""
    monkeypatch.setitem(backends.BACKENDS, "triton", small_backend())


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Which queries of each scan were rescored in full after all."""
    found: list[Tensor] = []

    class Watched(Rescored):
        @classmethod
        def of(cls, work: Work, rescore_list: RescoreList, doubt: Doubt | None = None) -> Rescored:
            rescored = Rescored.of(work, rescore_list, doubt)
            found.append(rescore_list.count == AGAIN)
            return rescored

    monkeypatch.setattr(scan, "Rescored", Watched)
    return found


class Case:
    """Samples on a path that ends slowly, and queries on top of one of them or midway between two.

    The velocity along such a path is no larger than what noise is left, of which these have next to none.
    """

    def __init__(self, case: tuple[str, int, int, float], generator: torch.Generator, noise: float = 1e-4) -> None:
        """Draw 40 samples of two classes and 6 queries, with `noise` of what the path has."""
        path, dim, amplitude, self.t = case
        stored = (amplitude * normal(40, dim, generator)).round().to(torch.int8)
        data = OracleDataset(stored, labels=torch.arange(40) // 20)
        self.ours, self.truth = (OracleEngine(data, path=path, backend=name) for name in ("triton", "reference"))
        self.at = coefficients(self.ours.path, torch.tensor([self.t], dtype=torch.float64))
        values = stored.double() * data.value_map.scale + data.value_map.offset
        mean = torch.cat([(values[:4] + values[4:8]) / 2, values[8:10]])
        self.x = self.at.alpha_t * mean + noise * self.at.sigma_t * normal(6, dim, generator)

    def assert_within_the_bar(self, **options: Any) -> None:
        """Compare velocities with float64 by the bar of the two terms that may cancel."""
        mean, noise = self.truth.denoiser(self.x, self.t, **options), self.truth.noise(self.x, self.t, **options)
        terms = self.at.d_alpha_t.abs() * mean.norm(dim=1) + self.at.d_sigma_t.abs() * noise.norm(dim=1)
        found, true = (side.velocity(self.x, self.t, **options) for side in (self.ours, self.truth))
        assert_rows_close(found, true, "bar", terms)


@pytest.mark.parametrize("noise", [1e-4, 0.0])
@pytest.mark.parametrize("case", SLOW_ENDS, ids=str)
def test_half_way_and_on_top_with_next_to_no_noise(
    case: tuple[str, int, int, float], noise: float, marked: list[Tensor], generator: torch.Generator
) -> None:
    Case(case, generator, noise).assert_within_the_bar()
    assert bool(marked[0].all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dim", "share"), [(24, 1e-5), (24, 1e-10), (80, 1e-7), (80, 1e-10)])
def test_on_top_of_a_sample_beside_others_that_hold_next_to_nothing(
    dtype: torch.dtype, dim: int, share: float, generator: torch.Generator
) -> None:
    # all of E[eps | x] comes from a mass that a scan might leave out
    data = OracleDataset(stored_as(normal(20, dim, generator), dtype))
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    nearest = float((values[1:] - values[0]).norm(dim=1).min())
    sigma = nearest / math.sqrt(-2.0 * math.log(share))
    assert_within_terms(OracleEngine(data, path=Still(1.0, sigma), backend="triton"), values[:1])


@pytest.mark.parametrize("far", [1.0, 6.0])
def test_rows_that_are_left_early_hold_nothing(far: float, generator: torch.Generator) -> None:
    # of so many values that a program looks up twice on the way
    values = normal(16, 4300, generator)
    values[8:] *= far
    weights = torch.rand(16, generator=generator).double() + 0.1
    data = OracleDataset(values.half(), weights=weights)
    nearest = float((data.rows.stored[1:].double() - data.rows.stored[0].double()).norm(dim=1).min())
    engine, truth = (
        OracleEngine(data, path=Still(1.0, nearest / math.sqrt(-2.0 * math.log(1e-5))), backend=name)
        for name in ("triton", "reference")
    )
    x = data[:1].double()
    assert_rows_close(engine.noise(x, 0.5), truth.noise(x, 0.5), "bar")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [8, 80])
@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_half_way_between_two_samples_where_only_the_noise_is_left(
    dtype: torch.dtype, dim: int, noise: float, generator: torch.Generator
) -> None:
    data = OracleDataset(stored_as(normal(12, dim, generator), dtype))
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    for distance in (0.1, 0.003):
        sigma = distance * data.value_map.scale * data.rows.radius
        x = 0.7 * (values[:2] + values[2:4]) / 2 + noise * sigma * normal(2, dim, generator)
        assert_within_terms(OracleEngine(data, path=Still(0.7, sigma), backend="triton"), x)


@pytest.mark.parametrize(
    "options", [{"labels": 0}, {"exclude": 39}, {"labels": torch.tensor([0, 0, 0, 0, 0, 1])}], ids=str
)
def test_half_way_between_samples_of_a_class(options: dict[str, Any], generator: torch.Generator) -> None:
    Case(SLOW_ENDS[2], generator).assert_within_the_bar(**options)


def test_a_graph_records_that_too(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(SLOW_ENDS[2], generator)
    expected = case.ours.velocity(case.x, case.t)
    begin_capture(monkeypatch)
    with Waiting() as waiting:
        recorded = case.ours.velocity(case.x, case.t)
    assert waiting.found == []
    assert torch.equal(recorded, expected)


def test_moments_and_heaviest_samples_are_those_of_every_row(marked: list[Tensor], generator: torch.Generator) -> None:
    case = Case(SLOW_ENDS[0], generator)
    found, true = (side.posterior(case.x, case.t, top_k=3) for side in (case.ours, case.truth))
    assert bool(marked[0].all())
    assert torch.equal(found.top_indices, true.top_indices)
    for name in ("top_weights", "ess", "entropy", "log_density"):
        assert_close(getattr(found, name), getattr(true, name), "float64")
    assert_close(found.variance, true.variance, "float64", true.variance)


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(mean=False)], ids=str)
def test_queries_with_noise_are_not_rescored_in_full(
    dim: int, wanted: Wanted, marked: list[Tensor], generator: torch.Generator
) -> None:
    rows = make_rows(torch.float16, 140, dim, generator)
    scanned(Work(rows, make_query(rows, all_times(17), generator), Span(0, 140), wanted))
    assert not bool(marked[0].any())


def on_top(rows: Rows, times: Tensor, away: float) -> Query:
    """Queries `away` of the noise of their time from the first samples, in no direction of another."""
    query = make_query(rows, times, torch.Generator().manual_seed(0))
    step = torch.randn(len(times), rows.dim, generator=torch.Generator().manual_seed(1)).double()
    step *= away * rows.dim**0.5 * query.inverse_variance.rsqrt()[:, None] / step.norm(dim=1, keepdim=True)
    sample = rows.gather(torch.arange(len(times))) - rows.centre
    return Query(times[:, None] * sample + step, times, query.inverse_variance, query.excluded)


@pytest.mark.parametrize(("away", "expected"), [(0.0, True), (1e-3, True), (0.24, False), (0.3, False)])
def test_what_may_have_been_left_out_counts(
    away: float, expected: bool, marked: list[Tensor], generator: torch.Generator
) -> None:
    # late, when the nearest sample is rescored and all others are left out: 1e-6 of a posterior, 5e-6 of E[eps | x]
    rows = make_rows(torch.float16, 60, 77, generator)
    scanned(Work(rows, on_top(rows, torch.tensor([0.9, 0.95]).double(), away), Span(0, 60)))
    assert marked[0].tolist() == [expected, expected]
