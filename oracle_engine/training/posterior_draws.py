"""Samples drawn from the posterior of each query, exactly, in one streaming pass over the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..kernels import Query, Rows, Span
from ..paths.paths import marginal_variance
from ..queries.classes import batch_slices, scan_tasks
from ..queries.request import Conditions, Request

# float64 values of a block of rows, and of its logits: 32 MB each
SCORED_VALUES = 1 << 22


@dataclass(frozen=True)
class Draw:
    """One sample for each query, drawn from its posterior over a subset of the samples.

    lse: log of the sum of the weights of the subset, -inf where it is empty. row: the sample drawn, -1 for none.
    """

    lse: Float64[Tensor, "B"]
    row: Int64[Tensor, "B"]


def merge_draws(first: Draw, second: Draw, uniform: Float64[Tensor, "B"]) -> Draw:
    """Return a draw over both of two disjoint subsets: the second with the share of its weight, else the first."""
    # from the difference: it stays right where the sums of the weights overflow
    share = torch.where(second.lse == -torch.inf, 0.0, torch.sigmoid(second.lse - first.lse))
    return Draw(torch.logaddexp(first.lse, second.lse), torch.where(uniform < share, second.row, first.row))


def posterior_draw(
    engine: OracleEngine,
    x: Tensor,
    t: float | Tensor,
    labels: int | Tensor | None = None,
    exclude: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "B"]:
    """Return one index for each query, drawn with the probabilities of its posterior weights gamma_j(x, t).

    x, t, labels, exclude: as in OracleEngine.velocity, whose errors it raises. generator: of the draws, on any device.
    The expectation of data[index] is the denoiser (for `point_std` = 0).
    Costs 2 B N D operations in float64 and 64 MB: blocks of rows are scored, one row of each is drawn, and the draws
    are merged by the weights of the blocks, so that no [B, N] is ever held.
    """
    request = engine.request_builder.request(x, t, Conditions(labels, exclude=exclude))
    return draw_with_density(engine, request, generator)[0]


def draw_with_density(
    engine: OracleEngine, request: Request, generator: torch.Generator | None
) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return what :func:`posterior_draw` does and log p_t(x), which the same pass knows."""
    parts = [_draw(engine, request.take(part), generator) for part in batch_slices(len(request), engine.data.dim)]
    if not parts:
        return request.exclude, request.times
    drawn = Draw(torch.cat([part.lse for part in parts]), torch.cat([part.row for part in parts]))
    if bool((drawn.row < 0).any()):
        first = int((drawn.row < 0).nonzero()[0])
        raise invalid(
            "weights", "must be positive for some sample", f"none for query {first}", "change labels or exclude"
        )
    variance = marginal_variance(request.at, engine.point_std)
    density = drawn.lse - request.log_mass(engine.data) - 0.5 * engine.data.dim * (2 * math.pi * variance).log()
    return engine.data.index_of(drawn.row), density


def uniforms(count: int, generator: torch.Generator | None, device: torch.device) -> Float64[Tensor, "n"]:
    """Return `count` numbers in [0, 1), drawn where `generator` lives and moved to `device`."""
    place = device if generator is None else generator.device
    return torch.rand(count, generator=generator, device=place, dtype=torch.float64).to(device)


def draw_prior(data: OracleDataset, span: Span, count: int, generator: torch.Generator | None) -> Int64[Tensor, "n"]:
    """Return `count` independent rows of `span`, drawn by the weights of the samples."""
    place = uniforms(count, generator, data.device)
    if data.rows.log_weights is None:
        return span.start + (place * len(span)).long().clamp_max(len(span) - 1)
    return span.start + _inverted(data.rows.log_weights[None, span.start : span.stop].exp(), place[None])[0]


def _draw(engine: OracleEngine, request: Request, generator: torch.Generator | None) -> Draw:
    data = engine.data
    query = request.query(data, engine.point_std)
    nothing = torch.full((len(query),), -torch.inf, dtype=torch.float64, device=data.device)
    drawn = Draw(nothing, torch.full_like(request.exclude, -1))
    for task in scan_tasks(request.labels, data.segments, len(data), torch.arange(len(query), device=data.device)):
        part = query.take(task.query)
        size = max(1, SCORED_VALUES // max(data.dim, len(part)))
        for start in range(task.span.start, task.span.stop, size):
            block = _draw_from(data.rows, part, Span(start, min(start + size, task.span.stop)), generator)
            before = Draw(drawn.lse[task.query], drawn.row[task.query])
            merged = merge_draws(before, block, uniforms(len(part), generator, data.device))
            drawn = Draw(
                drawn.lse.index_copy(0, task.query, merged.lse), drawn.row.index_copy(0, task.query, merged.row)
            )
    return drawn


def _draw_from(rows: Rows, query: Query, span: Span, generator: torch.Generator | None) -> Draw:
    index = torch.arange(span.start, span.stop, device=rows.device)
    samples = rows.gather(index) - rows.centre
    bias = query.alpha * query.gain
    logits = query.gain[:, None] * (query.point @ samples.T) - bias[:, None] * rows.half_norms[index]
    logits -= 0.5 * (query.inverse_variance * query.norm.square())[:, None]
    if rows.log_weights is not None:
        logits += rows.log_weights[index]
    inside = (index >= query.excluded[..., :1]) & (index < query.excluded[..., 1:])
    logits.masked_fill_(inside.any(1), -torch.inf)
    largest = logits.amax(1, keepdim=True)
    weights = (logits - largest.clamp_min(-torch.finfo(torch.float64).max)).exp_()
    lse = largest[:, 0] + weights.sum(1).log()
    place = uniforms(len(query), generator, rows.device)
    row = span.start + _inverted(weights, place[:, None])[:, 0]
    return Draw(lse, torch.where(lse == -torch.inf, -1, row))


def _inverted(weights: Float64[Tensor, "B n"], place: Float64[Tensor, "B k"]) -> Int64[Tensor, "B k"]:
    """Return where the cumulative weights pass `place` in [0, 1); rows without weight give their last index."""
    total = weights.cumsum(1)
    # strictly below the end, where rounding would otherwise reach past the last sample with weight
    last = torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:]))
    found = torch.searchsorted(total, (place * total[:, -1:]).minimum(last), right=True)
    return found.clamp_max(weights.shape[1] - 1)
