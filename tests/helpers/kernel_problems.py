"""Rows and queries for Triton kernels, scans with small blocks, and a comparison with the float64 reference."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from oracle_engine.kernels import Query, Rows, Span, Wanted, prepare_rows, reference_state
from oracle_engine.kernels.common.state import PosteriorState
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.limits import ScanLimits
from oracle_engine.kernels.gpu.operands.splits import EXACT, HALF, Split
from oracle_engine.kernels.gpu.scans.launch_checks import checked_config
from oracle_engine.kernels.gpu.scans.scan import TwoPhaseScan, triton_state
from oracle_engine.scans.backends import BACKENDS, Backend

DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)

# spans are cut into blocks of 64 rows, as those of a large data set are into larger ones
SMALL_BLOCKS = ScanLimits(score_bytes=1, block_unit=64)

# accuracy bar on the relative velocity error
BAR = 1e-5

# the ends of [0, 1] that the bar holds up to
EDGE = 1e-4


def make_rows(
    dtype: torch.dtype, count: int, dim: int, generator: torch.Generator, weighted: bool = False, offset: float = 0.0
) -> Rows:
    """Rows with unit-like spread in their own units."""
    if dtype in (torch.uint8, torch.int8):
        low = 0 if dtype == torch.uint8 else -128
        stored = torch.randint(low, low + 256, (count, dim), generator=generator).to(dtype)
    else:
        stored = (torch.randn(count, dim, generator=generator) + offset).to(dtype)
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01 if weighted else None
    return prepare_rows(stored, weights)


def make_query(rows: Rows, times: Tensor, generator: torch.Generator, excluded: int = 0, stray: float = 1.0) -> Query:
    """Queries x_t = t r + (1 - t) eps in the units of the rows; with `stray` above one, off the path."""
    batch = len(times)
    spread = max(rows.radius / rows.dim**0.5, 1e-3)
    source = torch.randint(len(rows), (batch,), generator=generator)
    noise = torch.randn(batch, rows.dim, generator=generator, dtype=torch.float64)
    point = times[:, None] * rows.gather(source) + stray * spread * (1 - times)[:, None] * noise
    start = torch.randint(len(rows), (batch, excluded), generator=generator)
    ranges = torch.stack([start, start + 3], dim=2)
    return Query(point, times, 1 / ((1 - times) * spread) ** 2, ranges)


def all_times(batch: int) -> Tensor:
    """Times from one end to the other."""
    return torch.linspace(EDGE, 1 - EDGE, batch, dtype=torch.float64)


def velocity_error(rows: Rows, query: Query, found: PosteriorState, true: PosteriorState) -> float:
    """Largest relative error of (mean + c - x) / (1 - t) against float64."""
    values = [(state.mean - query.point) / (1 - query.alpha)[:, None] + rows.centre for state in (found, true)]
    return float(((values[0] - values[1]).norm(dim=1) / values[1].norm(dim=1)).max())


def scanned(work: Work, split: Split = EXACT, limits: ScanLimits = SMALL_BLOCKS) -> PosteriorState:
    """Return the states of a Triton scan in small blocks."""
    return triton_state(work, split, limits=limits)


def two_phase_scan(work: Work, split: Split = EXACT) -> TwoPhaseScan:
    """Return a two-phase scan of a piece of work in small blocks, before its first block."""
    return TwoPhaseScan(work, checked_config(work, split), split, limits=SMALL_BLOCKS)


def small_backend() -> Backend:
    """Return the backend of the Triton kernels with small blocks."""
    return replace(BACKENDS["triton"], state=scanned, half=partial(scanned, split=HALF))


def compare(
    rows: Rows, query: Query, wanted: Wanted, span: Span | None = None, limits: ScanLimits = SMALL_BLOCKS
) -> PosteriorState:
    """Check one scan in small blocks against the reference and return its states."""
    work = Work(rows, query, span or Span(0, len(rows)), wanted)
    found, true = scanned(work, limits=limits), reference_state(work)
    torch.testing.assert_close(found.lse, true.lse, rtol=2e-6, atol=1e-5)
    if wanted.mean:
        assert velocity_error(rows, query, found, true) < BAR
    if wanted.moments:
        torch.testing.assert_close(found.concentration, true.concentration, rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(found.entropy, true.entropy, rtol=1e-4, atol=1e-4)
    if wanted.moments and wanted.mean:
        torch.testing.assert_close(found.variance, true.variance, rtol=1e-4, atol=2e-5 * rows.radius**2)
    torch.testing.assert_close(found.top_logits, true.top_logits)
    assert torch.equal(found.top_rows, true.top_rows)
    return found
