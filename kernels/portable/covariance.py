"""Products with the posterior covariance: what the derivative of a posterior mean in its query consists of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ..common.accumulate import dropped_constant
from ..common.matmul import ieee_products, mean_product, score_product
from ..common.rescore import Pairs, grouped, logits_of
from ..common.rounding import WORST_CASE, logit_error
from ..common.rows import Query, Rows, Span
from ..common.state import Wanted
from ..common.work import Work
from ..reference import reference_logits
from .blocks import BLOCK_LIMITS, BlockLimits, BlockLogits
from .double import DOUBLE_LIMIT
from .rescore_collector import RescoreCollector
from .scan import score_dtype

# rounding of a logit up to which single precision is used; errors measured on random data of any rank are a tenth
SINGLE_LIMIT = 5e-5
# the same for directions with curvature, whose changes of logits are larger: several times the logits that matter
CURVED_LIMIT = 2e-6

# posterior mass that a product may leave out: what is left out counts by its squared distance, unlike in the mean
DROPPED_SHARE = 1e-9


@dataclass(frozen=True)
class Directions:
    """What the logits of each query change by along a direction: s_j = <g, r_j - m> - c |r_j - m|^2 / 2 for row r_j.

    query: B queries. lse: log-partition of the whole posterior, of which a span of rows may be a part, [B] nats.
    mean: m, of the whole posterior, [B, D] in row units. vector: g, [B, D]. curvature: c, [B], or None for zeros.
    lse_rest: what float64 cut off `lse`, [B], or None for zeros. All float64.
    """

    query: Query
    lse: Float64[Tensor, "B"]
    mean: Float64[Tensor, "B D"]
    vector: Float64[Tensor, "B D"]
    curvature: Float64[Tensor, "B"] | None = None
    lse_rest: Float64[Tensor, "B"] | None = None

    def __len__(self) -> int:
        return len(self.query)

    def take(self, index: Int64[Tensor, "b"]) -> Directions:
        """Return the directions of the queries in `index`, [b]."""
        rest = (None if part is None else part[index] for part in (self.curvature, self.lse_rest))
        return Directions(self.query.take(index), self.lse[index], self.mean[index], self.vector[index], *rest)


def pairs_product(rows: Rows, directions: Directions, pairs: Pairs) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) s_j over the samples that `pairs` names, [B, D], in float64 from differences.

    rows, directions: the samples, and the changes s_j of logits of B queries. Costs one gather of P rows.
    """
    total = torch.zeros_like(directions.mean)
    for part, candidates, width in grouped(pairs, len(directions), rows.dim):
        some = directions.take(part)
        middle = (rows.centre + some.mean)[:, None]
        rest = torch.zeros_like(some.lse) if some.lse_rest is None else some.lse_rest
        for chosen in candidates.split(width, dim=1):
            samples = rows.gather(chosen.clamp_min(0))
            logits = logits_of(rows, some.query, chosen, samples, mergeable=True)
            weights = ((logits.high - some.lse[:, None]) + (logits.low - rest[:, None])).exp()
            spread = samples.sub_(middle)
            changes = torch.bmm(spread, some.vector[:, :, None])[:, :, 0]
            if some.curvature is not None:
                changes -= 0.5 * some.curvature[:, None] * torch.linalg.vecdot(spread, spread)
            shares = weights * changes
            total.index_add_(0, part, torch.bmm(shares[:, None], spread)[:, 0])
    return total


def covariance_product(
    rows: Rows,
    directions: Directions,
    span: Span,
    *,
    limits: BlockLimits = BLOCK_LIMITS,
) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) s_j over the rows of `span`, gamma_j = exp(l_j - lse), [B, D].

    directions: the changes s_j of logits, m and lse of each query, in row units. limits: sizes of blocks, and up to how
    many samples of a query are summed one by one; with more of them it is scanned in float64.
    The products of disjoint spans add up: over all rows they are the derivative of the posterior mean as the logits
    change by s_j, the covariance of r_j and s_j. Without curvature that is the covariance times g. The derivative of
    the posterior mean in the query is J = alpha / sigma^2 times the covariance, and |error of J g| <= 1e-5 (|g| +
    |J g|). Costs one read of the span and 2 to 6 B n D operations, the fewest where few rows carry weight, in float64
    for some queries; memory as for a state.
    """
    total, dtype = torch.zeros_like(directions.mean), score_dtype(rows)
    with ieee_products(rows.device.type):
        single = SINGLE_LIMIT if directions.curvature is None else CURVED_LIMIT
        limit = single if dtype == torch.float32 else DOUBLE_LIMIT
        coarse = logit_error(rows, directions.query, dtype) <= limit
        fine = (~coarse).nonzero()[:, 0]
        if len(fine):
            sums, overflowed = few_product(rows, directions.take(fine), span, limits)
            total.index_add_(0, fine, sums)
            fine = fine[overflowed]
        for part, precision in ((coarse.nonzero()[:, 0], dtype), (fine, torch.float64)):
            if len(part):
                total.index_add_(0, part, dense_product(rows, directions.take(part), span, precision, limits=limits))
    return total


def dense_product(
    rows: Rows, directions: Directions, span: Span, dtype: torch.dtype, *, limits: BlockLimits = BLOCK_LIMITS
) -> Float64[Tensor, "B D"]:
    """Return what :func:`covariance_product` does by products in `dtype`, whatever their rounding."""
    with ieee_products(rows.device.type):
        return _dense_product(directions, _scores(rows, directions, span, dtype, limits=limits))


def reference_covariance_product(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return what :func:`covariance_product` does in float64 by direct difference, from the formula and without blocks.

    rows, directions, span: as there. Costs 2 B n D operations and n D values of memory in float64.
    """
    total = torch.zeros_like(directions.mean)
    if len(directions) == 0:
        return total
    weights = (reference_logits(rows, directions.query, span) - directions.lse[:, None]).exp()
    samples = rows.gather(torch.arange(span.start, span.stop, device=rows.device)) - rows.centre
    for i, (weight, mean, vector) in enumerate(zip(weights, directions.mean, directions.vector, strict=True)):
        spread = samples - mean
        change = spread @ vector
        if directions.curvature is not None:
            change = change - 0.5 * directions.curvature[i] * torch.linalg.vecdot(spread, spread)
        total[i] = (weight * change) @ spread
    return total


def _dense_product(directions: Directions, scores: BlockLogits) -> Float64[Tensor, "B D"]:
    """Sum block by block, leaving out the queries for which a block carries no weight."""
    rows, dtype = scores.work.rows, scores.dtype
    unit, scaled, curvature = _scaled(directions, rows, dtype)
    origin, floor = _origin_and_floor(directions, scores)
    # operands may carry their centre
    middle = directions.mean + rows.operand_centre
    offset = (scaled.double() * middle).sum(1)
    if curvature is not None:
        offset -= 0.5 * curvature.double() * directions.mean.square().sum(1)
    total, shares = torch.zeros_like(middle), torch.zeros_like(origin)
    for block in scores.blocks():
        logits = scores.of(block)
        part = (logits.amax(1) >= floor).nonzero()[:, 0]
        if len(part):
            weights = (logits[part] - origin[part, None].to(dtype)).exp_()
            products = score_product(block.operand, scaled[part], scores.longest)
            changes = products.T - offset[part, None].to(dtype)
            if curvature is not None:
                changes.addr_(curvature[part], block.half_norms, alpha=-1.0)
            weights *= changes
            shares.index_add_(0, part, weights.sum(1, dtype=torch.float64))
            total.index_add_(0, part, mean_product(weights, block.operand).double())
    result: Tensor = unit[:, None] * (total - shares[:, None] * middle)
    return result


def _scaled(
    directions: Directions, rows: Rows, dtype: torch.dtype
) -> tuple[Float64[Tensor, "B"], Float[Tensor, "B D"], Float[Tensor, "B"] | None]:
    """Return sizes u, and g + c m and c over u in `dtype`: <g, r - m> - c |r - m|^2 / 2 in products and norms."""
    vector, curvature = directions.vector, directions.curvature
    if curvature is not None:
        vector = vector + curvature[:, None] * directions.mean
    # a vector far from one in size must not leave the range of float32
    unit = vector.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
    if curvature is None:
        return unit, (vector / unit[:, None]).to(dtype), None
    unit = torch.maximum(unit, curvature.abs() * rows.radius)
    return unit, (vector / unit[:, None]).to(dtype), (curvature / unit).to(dtype)


def few_product(
    rows: Rows, directions: Directions, span: Span, limits: BlockLimits
) -> tuple[Float64[Tensor, "B D"], Int64[Tensor, "b"]]:
    """Return the products of queries of which few samples of `span` carry weight, [B, D], and the other queries, [b].

    rows, directions, limits: as in :func:`covariance_product`. The products of the other queries are zero.
    """
    overflowed, pairs = _pairs_with_weight(rows, directions, span, limits)
    return pairs_product(rows, directions, pairs), overflowed


def _pairs_with_weight(
    rows: Rows, directions: Directions, span: Span, limits: BlockLimits
) -> tuple[Int64[Tensor, "b"], Pairs]:
    """Return the queries of which too many samples carry weight, and the samples with weight of the others."""
    scores = _scores(rows, directions, span, score_dtype(rows), limits=limits)
    _, floor = _origin_and_floor(directions, scores)
    listed = RescoreCollector(len(directions), limits.rescore_limit(len(span)), rows.device)
    for block in scores.blocks():
        logits = scores.of(block)
        some = ((logits.amax(1) >= floor) & ~listed.overflowed).nonzero()[:, 0]
        which, column = (logits[some] >= floor[some, None]).nonzero().unbind(1)
        listed.add(Pairs(some[which], column + block.span.start, logits[some[which], column].double()))
    pairs, overflowed = listed.pairs(), listed.overflowed
    return overflowed.nonzero()[:, 0], pairs.where(~overflowed[pairs.query])


def _scores(rows: Rows, directions: Directions, span: Span, dtype: torch.dtype, *, limits: BlockLimits) -> BlockLogits:
    return BlockLogits(Work(rows, directions.query, span, Wanted(mean=False)), dtype, limits)


def _origin_and_floor(directions: Directions, scores: BlockLogits) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the log-partition as a coarse logit, and below which ones samples do not count."""
    rows, span = scores.work.rows, scores.work.span
    origin = directions.lse + dropped_constant(rows, directions.query)
    window = math.log(len(span) / DROPPED_SHARE) + 2.0 * WORST_CASE * logit_error(rows, directions.query, scores.dtype)
    return origin, origin - window
