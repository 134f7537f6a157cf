"""The native scan in float64 agrees with the formula, keeps the gaps of late queries, and lists nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_cases import EVERYTHING, assert_identical, make_query, whole
from tolerances import assert_close, assert_rows_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import PosteriorState, Query, Span, Wanted, Work, prepare_rows, reference_state
from oracle_engine.kernels.native import double
from oracle_engine.kernels.portable.double import double_state as portable_double_state


def assert_parity(work: Work) -> PosteriorState:
    """Compare the scan with the formula, for what all is wanted; return its states."""
    found, true, radius = double.double_state(work), reference_state(work), work.rows.radius or 1.0
    assert_close(found.lse, true.lse, "float64")
    assert_rows_close(found.mean, true.mean, "mean", radius)
    for name in ("entropy", "concentration", "variance"):
        scale = radius**2 if name == "variance" else None
        assert_close(getattr(found, name), getattr(true, name), "moment", scale)
    assert_close(found.top_logits, true.top_logits, "float64")
    assert torch.equal(found.top_rows < 0, true.top_rows < 0)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    generators(),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from([1, 3, 64, 65, 300]),
    st.sampled_from([1, 2, 8, 33]),
    st.sampled_from([4, 90, 1200]),
    st.integers(0, 2),
)
def test_states_are_those_of_the_formula(
    target: str,
    generator: torch.Generator,
    family: str,
    dtype: torch.dtype,
    dim: int,
    batch: int,
    count: int,
    excluded: int,
) -> None:
    weights = torch.rand(count, generator=generator).double() + 0.01 if excluded else None
    rows = prepare_rows(stored_as(FAMILIES[family](count, dim, generator), dtype), weights)
    query = make_query(rows, generator, batch=batch, excluded=excluded)
    assert_parity(Work(rows, query, Span(1, count), EVERYTHING))


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_running_maximum_may_move_any_distance(target: str, generator: torch.Generator, order: str) -> None:
    distance = torch.linspace(30, 0, 1000, dtype=torch.float64)[:, None]
    points = 0.1 * normal(1000, 40, generator) + (distance if order == "rising" else distance.flip(0))
    rows = prepare_rows(points, None)
    assert_parity(Work(rows, make_query(rows, generator), whole(rows), EVERYTHING))


@pytest.mark.parametrize("sigma", [1e-3, 1e-5])
@pytest.mark.parametrize("dim", [2, 96])
def test_late_between_two_samples_weights_are_right(
    target: str, generator: torch.Generator, sigma: float, dim: int
) -> None:
    # in blocks that different threads scan; float64 logits alone differ by 1e-16 / sigma^2 nats
    points = 5.0 + normal(3000, dim, generator)
    points[0], points[-1] = normal(2, dim, generator)
    rows = prepare_rows(points, None)
    alpha = torch.tensor([1.0 - sigma], dtype=torch.float64)
    point = alpha * (rows.stored[[0, -1]] - rows.centre).mean(0, keepdim=True)
    query = Query(point, alpha, torch.tensor([sigma**-2], dtype=torch.float64), torch.empty(1, 0, 2).long())
    work = Work(rows, query, whole(rows), Wanted(top_k=2))
    found, expected = double.double_state(work), portable_double_state(work)
    assert set(found.top_rows[0].tolist()) == {0, 2999}
    shares = [((s.top_logits - s.lse[:, None]) + (s.top_rest - s.lse_rest[:, None])).exp() for s in (found, expected)]
    assert_close(shares[0], shares[1], "float64")
    assert_rows_close(found.mean, expected.mean, "float64", rows.radius)


def test_calls_and_threads_change_no_more_than_rounding(
    target: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare_rows(normal(2500, 70, generator).float(), None)
    work = Work(rows, make_query(rows, generator, batch=40), whole(rows), EVERYTHING)
    once = assert_parity(work)
    assert_identical(once, double.double_state(work))
    monkeypatch.setattr(double, "CALL_VALUES", 1)
    assert_rows_close(double.double_state(work).mean, once.mean, "float64", rows.radius)


def test_memory_does_not_grow_with_the_samples_that_have_weight(target: str, generator: torch.Generator) -> None:
    # queries in the middle of a ring, so late that products in float64 are too coarse
    points = normal(100_000, 2, generator)
    rows = prepare_rows(points / points.norm(dim=1, keepdim=True), None)
    query = make_query(rows, generator, batch=32, times=(0.9999,))
    query = replace(query, point=-query.alpha[:, None] * rows.centre)
    peak_kilobytes()
    before = peak_kilobytes()
    state = double.double_state(Work(rows, query, whole(rows), Wanted(moments=True)))
    assert bool((1 / state.concentration > 1000).all())
    # a list of all pairs of a query and a row would be 77 MB
    assert peak_kilobytes() - before < 20_000


def peak_kilobytes() -> int:
    """Return the largest memory of the process since the last call."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(found.split()[1])


def test_nothing_to_scan_gives_the_empty_state(target: str, generator: torch.Generator) -> None:
    rows = prepare_rows(normal(5, 3, generator), None)
    query = make_query(rows, generator)
    for work in (Work(rows, query, Span(2, 2)), Work(rows, query.take(torch.arange(0)), whole(rows))):
        assert_identical(double.double_state(work), work.nothing())
