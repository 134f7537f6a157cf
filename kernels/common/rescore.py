"""Named candidates of each query, scored again in float64: the exact end of every coarse route."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch

from ...base.arrays import Bool, Float64, Int64, Tensor
from .compensated import DoubleDouble, compensated_logits, largest, two_sum
from .rounding import UNIT_ROUNDOFF, WALK, difference_size
from .rows import Query, Rows
from .state import PosteriorState, Wanted, concatenate, merge

# error of a float64 logit from which on it is taken in twice the digits, in nats where samples compete, relative to the
# logit where one has all of the weight; samples this many nats further below have no weight
GAP_LIMIT, LOGIT_SHARE, COMPENSATED_WINDOW = 1e-9, 1e-8, 60.0

# logits below which twice the digits of float64 do not hold the gaps between them either: 2^-104 of them shows
FARTHEST = -1e24

# values gathered at once, in float64: 4 MB, small enough to stay in a last-level cache between its passes
GATHER_VALUES = 500_000


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a row, in any order: `query` [P], `row` [P] and the coarse `logit` [P]."""

    query: Int64[Tensor, "P"]
    row: Int64[Tensor, "P"]
    logit: Float64[Tensor, "P"]

    def __len__(self) -> int:
        return len(self.query)

    def where(self, keep: Bool[Tensor, "P"]) -> Pairs:
        """Return the pairs that `keep`, [P], selects."""
        return Pairs(self.query[keep], self.row[keep], self.logit[keep])

    @classmethod
    def none(cls, device: torch.device) -> Pairs:
        """Return no pairs at all, on `device`."""
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return cls(empty, empty, empty.double())

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of all `parts`, of which there is at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("query", "row", "logit")))


def candidate_logits(rows: Rows, query: Query, candidates: Int64[Tensor, "B K"]) -> DoubleDouble:
    """Return log w_j - |q - alpha r_j|^2 / 2 sigma^2 of the rows in `candidates`, [B, K]; -inf where an entry is -1.

    rows, query: the samples and B queries. The difference is taken before it is squared, which errs no more than the
    inputs do at any sigma. Others may have weight beside them. Costs one gather of B K rows, in slices of bounded
    memory.
    """
    high = candidates.new_full(candidates.shape, -torch.inf, dtype=torch.float64)
    low = torch.zeros_like(high)
    for part, width in _slices(torch.full((len(query),), candidates.shape[1], device=rows.device), rows.dim):
        for start in range(0, candidates.shape[1], width):
            chosen = candidates[part, start : start + width]
            samples = rows.gather(chosen.clamp_min(0))
            found = logits_of(rows, query.take(part), chosen, samples, mergeable=True)
            high[part, start : start + width], low[part, start : start + width] = found
    return DoubleDouble(high, low)


def product_logits(rows: Rows, query: Query, pairs: Pairs) -> Float64[Tensor, "P"]:
    """Return the logits of `pairs`, [P], up to -|q|^2 / 2 sigma^2, from float32 products; see `product_error`.

    rows, query: the samples and B queries that the pairs name. Costs one gather of the rows, a few MB at a time.
    """
    order = pairs.query.argsort(stable=True)
    counts = torch.bincount(pairs.query, minlength=len(query))
    first = counts.cumsum(0) - counts
    point = query.point.float()
    products = torch.empty(len(order), dtype=torch.float32, device=rows.device)
    for part, width in _slices(counts, rows.dim, 2 * GATHER_VALUES):
        columns = torch.arange(int(counts[part].max()), device=rows.device)
        real = columns < counts[part, None]
        place = order[(first[part, None] + columns).clamp_max(len(order) - 1)]
        for start in range(0, len(columns), width):
            some = place[:, start : start + width]
            stored = rows.stored.index_select(0, pairs.row[some.reshape(-1)])
            samples = stored.float() if rows.raw_operand else rows.centred(stored)
            found = torch.bmm(samples.reshape(*some.shape, rows.dim), point[part, :, None])[:, :, 0]
            inside = real[:, start : start + width]
            products[some[inside]] = found[inside]
    shift = query.point @ rows.operand_centre
    gain = query.gain[pairs.query]
    logits = gain * (products - shift[pairs.query] - query.alpha[pairs.query] * rows.half_norms[pairs.row])
    return logits if rows.log_weights is None else logits + rows.log_weights[pairs.row]


def product_error(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return how far :func:`product_logits` of `rows` may be off for B queries, [B] nats.

    query: the queries. Rounding errors of a sum add up like a random walk.
    """
    size = query.norm * rows.operand_radius + query.alpha * rows.radius**2
    return WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(rows.dim) + 2.0) * query.gain * size


def pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of the samples that `pairs` names, [B], each rescored in float64.

    rows, query: the samples and B queries. wanted: of the states. Queries with many candidates are padded only against
    queries with about as many. Costs one gather of P rows.
    """
    state = PosteriorState.empty(len(query), rows.dim, wanted.top_k, rows.device)
    groups = list(grouped(pairs, len(query), rows.dim))
    if not groups:
        return state
    found = [
        _state(rows, query.take(part), candidates, width=width, wanted=wanted) for part, candidates, width in groups
    ]
    return state.put(torch.cat([part for part, _, _ in groups]), concatenate(found))


def grouped(pairs: Pairs, batch: int, dim: int) -> Iterator[tuple[Int64[Tensor, "b"], Int64[Tensor, "b K"], int]]:
    """Yield groups of queries with similar counts, the rows of each padded with -1, and how many to gather at once.

    pairs: of queries and rows. batch: number of queries. dim: values of a row, which bounds what is gathered at once.
    """
    order = pairs.query.argsort(stable=True)
    counts = torch.bincount(pairs.query, minlength=batch)
    first = counts.cumsum(0) - counts
    for part, width in _slices(counts, dim):
        columns = torch.arange(int(counts[part].max()), device=counts.device)
        position = (first[part, None] + columns).clamp_max(len(order) - 1)
        yield part, pairs.row[order[position]].masked_fill(columns >= counts[part, None], -1), width


def _slices(
    counts: Int64[Tensor, "B"], dim: int, values: int = GATHER_VALUES
) -> Iterator[tuple[Int64[Tensor, "b"], int]]:
    """Yield groups of queries with similar counts, and how many candidates of each fit in memory at once."""
    budget = max(1, values // dim)
    order = counts.argsort(descending=True)
    sizes = counts[order].tolist()
    start = 0
    while start < len(sizes) and sizes[start] > 0:
        stop = min(len(sizes), start + max(1, budget // sizes[start]))
        yield order[start:stop], min(sizes[start], budget)
        start = stop


def _state(rows: Rows, query: Query, candidates: Int64[Tensor, "B K"], *, width: int, wanted: Wanted) -> PosteriorState:
    """Return the state of the named rows, a slice of `width` of them at a time."""
    parts, mergeable = [], wanted.compared or width < candidates.shape[1]
    for chosen in candidates.split(width, dim=1):
        samples = rows.gather(chosen.clamp_min(0))
        logits = logits_of(rows, query, chosen, samples, mergeable=mergeable)
        parts.append(_weigh(logits, samples - rows.centre, chosen, wanted))
    return reduce(merge, parts)


def logits_of(
    rows: Rows,
    query: Query,
    chosen: Int64[Tensor, "B K"],
    samples: Float64[Tensor, "B K D"],
    *,
    mergeable: bool = False,
) -> DoubleDouble:
    """Return the logits of the rows `chosen`, [B, K], with the values `samples` as stored; -inf where an entry is -1.

    rows, query: the samples and B queries. mergeable: samples that are not among these may compete with them. The low
    parts are zero but for queries so far from all samples that float64 does not hold the gaps between their logits.
    """
    point = query.in_stored_coordinates(rows)[:, None]
    difference = torch.addcmul(point, samples, query.alpha[:, None, None], value=-1.0)
    logits: Tensor = -0.5 * query.inverse_variance[:, None] * torch.linalg.vecdot(difference, difference)
    if rows.log_weights is not None:
        logits = logits + rows.log_weights[chosen.clamp_min(0)]
    logits = logits.masked_fill(chosen < 0, -torch.inf)
    which, column = _compensated_pairs(rows, query, logits, mergeable)
    high, low = logits, torch.zeros_like(logits)
    if len(which) == 0:
        return DoubleDouble(high, low)
    for some in torch.arange(len(which), device=which.device).split(max(1, GATHER_VALUES // (4 * rows.dim))):
        b, k = which[some], column[some]
        high[b, k], low[b, k] = compensated_logits(rows, query, which=b, row=chosen[b, k], samples=samples[b, k])
    return DoubleDouble(high, low)


def _compensated_pairs(
    rows: Rows, query: Query, logits: Float64[Tensor, "B K"], mergeable: bool
) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"]]:
    """Return the queries and places of logits that are needed in twice the digits."""
    best = logits.amax(1)
    error = difference_error(rows, query, best)
    near = logits >= (best - (COMPENSATED_WINDOW + 2.0 * error))[:, None]
    # gaps matter between samples that compete, and the logit itself to the log density
    competing = torch.ones_like(best, dtype=torch.bool) if mergeable else near.sum(1) > 1
    needed = torch.where(competing, error > GAP_LIMIT, error > LOGIT_SHARE * best.abs())
    which, column = (near & (needed & (best > -torch.inf))[:, None]).nonzero().unbind(1)
    return which, column


def difference_error(rows: Rows, query: Query, logit: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return how far float64 logits from differences may be off, [B] nats, for samples with the logit `logit`, [B].

    rows, query: the samples and B queries. With V = -logit, coordinates err by u times their size before they are
    squared, 2 u |x| sqrt(2 V) / sigma, and the square and its sum by u V.
    """
    below = (-logit).clamp_min(0.5)
    moved = difference_size(rows, query) * (2.0 * below * query.inverse_variance).sqrt()
    error: Tensor = WALK * UNIT_ROUNDOFF[torch.float64] * (moved + below)
    return error


def _weigh(
    logits: DoubleDouble, samples: Float64[Tensor, "B K D"], chosen: Int64[Tensor, "B K"], wanted: Wanted
) -> PosteriorState:
    """Return the state of rows whose logits are known exactly."""
    high, low = logits
    state = PosteriorState.empty(len(high), samples.shape[2], wanted.top_k, high.device)
    top, column = largest(logits, min(wanted.top_k, high.shape[1]))
    named = column.shape[1]
    state.top_logits[:, :named], state.top_rest[:, :named] = top
    state.top_rows[:, :named] = chosen.gather(1, column)
    # a slice that is all padding has no weights
    origin = high.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).min)
    relative = (high - origin) + low
    sums = relative.logsumexp(1, keepdim=True)
    weights = (relative - sums).exp().nan_to_num(0.0)
    lse, rest = two_sum(origin, sums)
    some = sums[:, 0] > -torch.inf
    changes: dict[str, Tensor] = {
        "lse": torch.where(some, lse[:, 0], -torch.inf),
        "lse_rest": torch.where(some, rest[:, 0], 0.0),
    }
    if wanted.mean:
        changes["mean"] = torch.bmm(weights[:, None], samples)[:, 0]
    if wanted.moments:
        changes["concentration"] = weights.square().sum(1)
        changes["entropy"] = -torch.xlogy(weights, weights).sum(1)
    if wanted.moments and wanted.mean:
        spread = samples - changes["mean"][:, None]
        changes["variance"] = (weights * torch.linalg.vecdot(spread, spread)).sum(1)
    return replace(state, **changes)
