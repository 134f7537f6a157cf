"""Queries of prepared rows in every regime, and comparisons of the states that kernels give."""

from __future__ import annotations

from dataclasses import fields

import torch
from closed_form import normal
from tolerances import assert_close, assert_rows_close

from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    native_library,
    posterior_state,
    reference_state,
    total_variance,
)
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.native.scan import NativeLimits, NativeScan
from oracle_engine.kernels.portable.blocks import BLOCK_LIMITS, BlockLimits

EVERYTHING = Wanted(moments=True, top_k=4)
MEAN_ONLY = Wanted()

# navigation, transition, refinement and the end, mixed within a batch
REGIMES = (0.001, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999)


def centred(rows: Rows) -> torch.Tensor:
    """Return the samples in the coordinates of a query, float64."""
    return rows.stored.double() - rows.centre


def make_query(
    rows: Rows, generator: torch.Generator, batch: int = 8, times: tuple[float, ...] = REGIMES, excluded: int = 0
) -> Query:
    """Return queries on the path of some samples, at times that repeat over the batch, in units of the rows."""
    t = torch.tensor(times, dtype=torch.float64).repeat(batch // len(times) + 1)[:batch]
    own = centred(rows)[torch.randint(len(rows), (batch,), generator=generator)]
    unit = max((total_variance(rows) / rows.dim) ** 0.5, 1e-3)
    noise = unit * (1 - t)[:, None] * normal(batch, rows.dim, generator)
    start = torch.randint(len(rows), (batch, excluded), generator=generator)
    length = torch.randint(max(1, len(rows) // 3), (batch, excluded), generator=generator)
    return Query(t[:, None] * own + noise, t, (unit * (1 - t)).pow(-2), torch.stack([start, start + length], 2))


def whole(rows: Rows) -> Span:
    return Span(0, len(rows))


# blocks of few rows, as those of a large data set are beside it
SMALL_BLOCKS = BlockLimits(block_bytes=1)


def assert_parity(
    rows: Rows,
    query: Query,
    span: Span | None = None,
    wanted: Wanted = EVERYTHING,
    *,
    limits: BlockLimits = BLOCK_LIMITS,
) -> PosteriorState:
    """Compare the kernel with the reference on what was wanted; return what the kernel gave."""
    work = Work(rows, query, span or whole(rows), wanted)
    return assert_state_parity(posterior_state(work, limits=limits), work)


def assert_state_parity(actual: PosteriorState, work: Work) -> PosteriorState:
    """Compare what a kernel gave for `work` with the reference on what was wanted; return it."""
    return assert_states_close(actual, reference_state(work), work.rows, work.wanted)


def native_scan(work: Work, limits: NativeLimits) -> tuple[NativeScan, PosteriorState]:
    """Return a native scan of `work` that is done, with its counts, and its states: those of the reference."""
    library = native_library().library
    assert library is not None
    scan = NativeScan(work, library, limits)
    return scan, assert_state_parity(scan.state(), work)


def assert_states_close(actual: PosteriorState, expected: PosteriorState, rows: Rows, wanted: Wanted) -> PosteriorState:
    """Compare states on what was wanted of them; return the first."""
    assert_close(actual.lse, expected.lse, "moment")
    if wanted.mean:
        assert_rows_close(actual.mean, expected.mean, "mean", rows.radius or 1.0)
    if wanted.moments:
        assert_close(actual.entropy, expected.entropy, "moment")
        assert_close(actual.concentration, expected.concentration, "moment", expected.concentration.clamp_min(1e-30))
    if wanted.moments and wanted.mean:
        assert_close(actual.variance, expected.variance, "moment", rows.radius**2 or 1.0)
    # logits of the named samples, not their names: ties may be broken either way
    assert_close(actual.top_logits, expected.top_logits, "moment")
    assert torch.equal(actual.top_rows < 0, expected.top_rows < 0)
    return actual


def assert_identical(first: PosteriorState, second: PosteriorState) -> None:
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name
