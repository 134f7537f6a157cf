"""Unions of classes: the states of several spans as one of each query, without a look at how many there are."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from closed_form import normal
from kernel_problems import all_times, make_query, make_rows, small_backend, velocity_error
from recording import Waiting
from tolerances import assert_close, assert_rows_close, assert_within

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import Wanted, reference_state
from oracle_engine.kernels.common.segments import SegmentWork, span_by_span
from oracle_engine.kernels.gpu.core.limits import ScanLimits
from oracle_engine.kernels.gpu.scans.segments import segments_state
from oracle_engine.paths.paths import coefficients
from oracle_engine.scans import backends

# of six queries: two spans, one of two, one of three, all rows, none, and two that are next to each other
SPANS = [
    [[0, 40], [41, 150], [150, 150]],
    [[41, 41], [41, 150], [150, 150]],
    [[0, 40], [40, 41], [260, 300]],
    [[0, 0], [0, 0], [0, 300]],
    [[0, 0], [0, 0], [0, 0]],
    [[150, 260], [260, 300], [300, 300]],
]


def union_work(dim: int, wanted: Wanted, generator: torch.Generator, dtype: torch.dtype = torch.float16) -> SegmentWork:
    """Return the work of six queries over three spans each, of weighted rows, some of which are excluded."""
    rows = make_rows(dtype, 300, dim, generator, weighted=True)
    query = make_query(rows, all_times(6), generator, excluded=1)
    pairs, spans = torch.arange(6).repeat_interleave(3), torch.tensor(SPANS).reshape(-1, 2)
    return SegmentWork(rows, query, pairs, spans, wanted, each=3, longest=110)


@pytest.mark.parametrize("wanted", [Wanted(moments=True, top_k=3), Wanted(), Wanted(mean=False)], ids=str)
@pytest.mark.parametrize(("dim", "unit"), [(48, 1024), (77, 1024), (48, 32), (12, 1024)])
def test_unions_are_those_of_their_spans(dim: int, unit: int, wanted: Wanted, generator: torch.Generator) -> None:
    work = union_work(dim, wanted, generator)
    found = segments_state(work, limits=ScanLimits(score_bytes=1, block_unit=unit))
    true = span_by_span(work, reference_state)
    assert found.lse[4] == true.lse[4] == -torch.inf
    some = torch.tensor([0, 1, 2, 3, 5])
    torch.testing.assert_close(found.lse, true.lse, rtol=2e-6, atol=1e-5)
    if wanted.mean:
        assert_within(velocity_error(work.rows, work.query.take(some), found.take(some), true.take(some)), "bar")
    if wanted.moments:
        torch.testing.assert_close(found.entropy[some], true.entropy[some], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            found.variance[some], true.variance[some], rtol=1e-4, atol=2e-5 * work.rows.radius**2
        )
        assert torch.equal(found.top_rows, true.top_rows)
        torch.testing.assert_close(found.top_logits, true.top_logits)


@pytest.mark.parametrize(("dim", "expected"), [(48, ["_local_scalar_dense"]), (12, [])])
def test_only_how_many_use_all_rows_is_read(
    dim: int, expected: list[str], generator: torch.Generator, counted: Counter[str]
) -> None:
    work = union_work(dim, Wanted(), generator, torch.uint8)
    with Waiting() as waiting:
        segments_state(work)
    assert waiting.found == expected
    # one of all rows beside the scan of the spans, for the query that uses them
    assert counted["score_digits"] == (dim > 16)


@pytest.mark.parametrize("noise", [1e-4, 0.0])
@pytest.mark.parametrize(("path", "dim", "amplitude", "t"), [("gvp", 64, 3, 0.97), ("gvp", 64, 1, 0.99)])
def test_half_way_between_samples_of_two_classes(
    path: str, dim: int, amplitude: int, t: float, noise: float, monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:  # fmt: skip
    # either class, few of many, has its sample at a distance: only the mean of both is where the query is
    monkeypatch.setitem(backends.BACKENDS, "triton", small_backend())
    stored = (amplitude * normal(80, dim, generator)).round().to(torch.int8)
    data = OracleDataset(stored, labels=torch.arange(80) % 40)
    ours, truth = (OracleEngine(data, path=path, backend=name) for name in ("triton", "reference"))
    at = coefficients(ours.path, torch.tensor([t], dtype=torch.float64))
    values = stored.double() * data.value_map.scale + data.value_map.offset
    x = at.alpha_t * (values[:4] + values[1:5]) / 2 + noise * at.sigma_t * normal(4, dim, generator)
    labels = torch.tensor([[0, 1, -1], [1, 2, 3], [2, 3, -1], [3, 4, 2]])
    mean, eps = truth.denoiser(x, t, labels=labels), truth.noise(x, t, labels=labels)
    terms = at.d_alpha_t.abs() * mean.norm(dim=1) + at.d_sigma_t.abs() * eps.norm(dim=1)
    assert_rows_close(ours.velocity(x, t, labels=labels), truth.velocity(x, t, labels=labels), "bar", terms)
    found, true = (side.posterior(x, t, labels=labels, top_k=3) for side in (ours, truth))
    # both samples of the middle are as heavy, and others may be too
    assert torch.equal(found.top_indices[:, :2].sort().values, true.top_indices[:, :2].sort().values)
    every = truth.posterior(x, t, labels=labels, top_k=4)
    weights = torch.zeros(4, 80, dtype=torch.float64).scatter(1, every.top_indices, every.top_weights.double())
    assert_close(weights.gather(1, found.top_indices), true.top_weights.double(), "float64")
    for name in ("top_weights", "ess", "entropy", "log_density"):
        assert_close(getattr(found, name), getattr(true, name), "float64")
