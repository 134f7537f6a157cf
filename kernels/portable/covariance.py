"""Products with the posterior covariance: what the derivative of a posterior mean in its query consists of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ..common.accumulate import dropped_constant
from ..common.matmul import ieee_products, mean_product, score_product
from ..common.rescore import Pairs, grouped, logits_of
from ..common.rounding import WORST_CASE, logit_error, longest_sum
from ..common.rows import Query, Rows, Span
from ..common.state import Wanted
from ..reference import reference_logits
from .scan import Scan, score_dtype

# rounding of a logit up to which single precision is used; errors measured on random data of any rank are a tenth
SINGLE_LIMIT = 5e-5

# posterior mass that a product may leave out: what is left out counts by its squared distance, unlike in the mean
DROPPED_SHARE = 1e-9

# samples of a query that are summed one by one in float64; with more of them it is scanned in float64
LEAST_PAIRS, MOST_PAIRS = 256, 8192


@dataclass(frozen=True)
class Directions:
    """A vector g for each query, [B, D], to be multiplied with the covariance of its posterior.

    lse, mean: of the whole posterior, of which a span of rows may be a part.
    """

    query: Query
    lse: Float64[Tensor, "B"]
    mean: Float64[Tensor, "B D"]
    vector: Float64[Tensor, "B D"]

    def __len__(self) -> int:
        return len(self.query)

    def take(self, index: Int64[Tensor, "b"]) -> Directions:
        """Return those of the queries in `index`."""
        return Directions(self.query.take(index), self.lse[index], self.mean[index], self.vector[index])


def covariance_product(rows: Rows, vectors: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) <r_j - m, g> over the rows of `span`, gamma_j = exp(l_j - lse), in row units.

    The products of disjoint spans add up. The derivative of the posterior mean in the query point is J = alpha /
    sigma^2 times the covariance, and |error of J g| <= 1e-5 (|g| + |J g|). Costs one read of the span and 2 to 6 B n D
    operations, the fewest where few rows carry weight, in float64 for some queries; memory as for a state.
    """
    total = torch.zeros_like(vectors.mean)
    with ieee_products(rows.device.type):
        single = score_dtype(rows) == torch.float32
        coarse = (logit_error(rows, vectors.query, torch.float32) <= SINGLE_LIMIT) & single
        fine = (~coarse).nonzero()[:, 0]
        if single and len(fine):
            some = vectors.take(fine)
            overflowed, pairs = _live_pairs(rows, some, span)
            total.index_add_(0, fine, _pairs_product(rows, some, pairs))
            fine = fine[overflowed]
        for part, dtype in ((coarse.nonzero()[:, 0], torch.float32), (fine, torch.float64)):
            if len(part):
                total.index_add_(0, part, _dense_product(rows, vectors.take(part), span, dtype))
    return total


def reference_covariance_product(rows: Rows, vectors: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return the same in float64 by direct difference, straight from the formula and without blocks."""
    total = torch.zeros_like(vectors.mean)
    if len(vectors) == 0:
        return total
    weights = (reference_logits(rows, vectors.query, span) - vectors.lse[:, None]).exp()
    samples = rows.gather(torch.arange(span.start, span.stop, device=rows.device)) - rows.centre
    for i, (weight, mean, vector) in enumerate(zip(weights, vectors.mean, vectors.vector, strict=True)):
        spread = samples - mean
        total[i] = (weight * (spread @ vector)) @ spread
    return total


def _dense_product(rows: Rows, vectors: Directions, span: Span, dtype: torch.dtype) -> Float64[Tensor, "B D"]:
    """Sum block by block, leaving out the queries for which a block carries no weight."""
    # a vector far from one in size must not leave the range of float32
    unit = vectors.vector.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
    directions = (vectors.vector / unit[:, None]).to(dtype)
    origin, floor = _origin_and_floor(rows, vectors, span, dtype)
    # operands may carry their centre
    middle = vectors.mean + rows.operand_centre
    offset = (directions.double() * middle).sum(1)
    total, shares = torch.zeros_like(middle), torch.zeros_like(origin)
    longest = longest_sum(rows, len(vectors))
    for _, operand, logits in _scored(rows, vectors.query, span, dtype):
        part = (logits.amax(1) >= floor).nonzero()[:, 0]
        if len(part):
            weights = (logits[part] - origin[part, None].to(dtype)).exp_()
            weights *= score_product(operand, directions[part], longest).T - offset[part, None].to(dtype)
            shares.index_add_(0, part, weights.sum(1, dtype=torch.float64))
            total.index_add_(0, part, mean_product(weights, operand).double())
    return unit[:, None] * (total - shares[:, None] * middle)


def _live_pairs(rows: Rows, vectors: Directions, span: Span) -> tuple[Int64[Tensor, "b"], Pairs]:
    """Return the queries for which too many samples carry weight, and the samples of the others."""
    _, floor = _origin_and_floor(rows, vectors, span, torch.float32)
    limit = min(max(LEAST_PAIRS, len(span) // 32), MOST_PAIRS)
    count = torch.zeros(len(vectors), dtype=torch.int64, device=rows.device)
    found = []
    for block, _, logits in _scored(rows, vectors.query, span, torch.float32):
        some = ((logits.amax(1) >= floor) & (count <= limit)).nonzero()[:, 0]
        which, column = (logits[some] >= floor[some, None]).nonzero().unbind(1)
        found.append(Pairs(some[which], column + block.start, logits[some[which], column].double()))
        count += torch.bincount(some[which], minlength=len(count))
    pairs = Pairs(*(torch.cat([getattr(part, name) for part in found]) for name in ("query", "row", "logit")))
    overflowed = count > limit
    return overflowed.nonzero()[:, 0], pairs.where(~overflowed[pairs.query])


def _pairs_product(rows: Rows, vectors: Directions, pairs: Pairs) -> Float64[Tensor, "B D"]:
    """Sum over the named samples in float64, from differences."""
    total = torch.zeros_like(vectors.mean)
    for part, candidates, width in grouped(pairs, len(vectors), rows.dim):
        some = vectors.take(part)
        middle = (rows.centre + some.mean)[:, None]
        for chosen in candidates.split(width, dim=1):
            samples = rows.gather(chosen.clamp_min(0))
            weights = (logits_of(rows, some.query, chosen, samples) - some.lse[:, None]).exp()
            spread = samples.sub_(middle)
            shares = weights * torch.bmm(spread, some.vector[:, :, None])[:, :, 0]
            total.index_add_(0, part, torch.bmm(shares[:, None], spread)[:, 0])
    return total


def _scored(
    rows: Rows, query: Query, span: Span, dtype: torch.dtype
) -> Iterator[tuple[Span, Float[Tensor, "n D"], Float[Tensor, "B n"]]]:
    """Yield the blocks of the span, as operands and with their coarse logits."""
    scan = Scan(rows, query, Wanted(mean=False), dtype)
    for block, operand in scan.operands(span):
        yield block, operand, scan.logits(block, operand)


def _origin_and_floor(
    rows: Rows, vectors: Directions, span: Span, dtype: torch.dtype
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the log-partition as a coarse logit, and below which ones samples do not count."""
    origin = vectors.lse + dropped_constant(rows, vectors.query)
    window = math.log(len(span) / DROPPED_SHARE) + 2.0 * WORST_CASE * logit_error(rows, vectors.query, dtype)
    return origin, origin - window
