"""How far the nearest other sample is at least: what certifies late queries that know their own sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...common.matmul import ieee_products
from ...common.rounding import UNIT_ROUNDOFF, WALK
from ...common.rows import Rows
from .query_bounds import Source

# products held at once, of so many rows with so many others: 16 MB
SIDE_ROWS, OTHER_ROWS = 512, 8192


@dataclass(frozen=True)
class DistanceVectors:
    """A vector for every row; distances between vectors are never larger than those between the rows.

    values: [N, w]. centre: what is still in them, [w] float64, or None. size: four times the largest squared norm of a
    row.
    """

    values: Shaped[Tensor, "N w"]
    centre: Float64[Tensor, "w"] | None
    size: float

    @classmethod
    def of(cls, rows: Rows) -> DistanceVectors:
        """Return `rows` themselves."""
        return cls(rows.stored, rows.centre, 4.0 * rows.radius**2)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def error(self) -> float:
        """How far a squared distance may be off: both norms and their product are rounded to float32."""
        return WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(self.values.shape[1]) + 2.0) * self.size

    def centred(self, some: Shaped[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        """Return `some` of the values, [n, w], as float32 without the centre."""
        if self.centre is None:
            return some.float()
        wide = torch.promote_types(some.dtype, torch.float32)
        return some.to(wide, copy=True).sub_(self.centre.to(wide)).float()


def nearest_distances(
    vectors: DistanceVectors, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, "N"]:
    """Return a lower bound on the distance of every row to its nearest other row, [N] float32 in row units.

    vectors: of the rows, w values each. progress: called with the rows done and their number.
    Costs 2 N^2 w operations, in 16 MB beside the blocks they come from.
    """
    everything = torch.arange(len(vectors), device=vectors.values.device)
    return _lowered(vectors, torch.full_like(everything, torch.inf, dtype=torch.float32), everything, progress)


def extended_distances(
    vectors: DistanceVectors,
    distances: Float[Tensor, "n"],
    kept: Int64[Tensor, "n"],
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "N"]:
    """Return what :func:`nearest_distances` does, [N] float32, where it is known of some rows among themselves.

    vectors: of all rows. distances: what it is for the rows `kept`, [n] float32. kept: their numbers, [n] int64.
    progress: called with the other rows done and their number.
    Other rows can only be nearer to those than they are to each other. Costs 2 (N - n) N w operations.
    """
    out = torch.full((len(vectors),), torch.inf, device=vectors.values.device)
    out[kept] = distances
    fresh = torch.ones_like(out, dtype=torch.bool).index_fill_(0, kept, value=False)
    return _lowered(vectors, out, fresh.nonzero()[:, 0], progress)


def _lowered(
    vectors: DistanceVectors,
    out: Float[Tensor, "N"],
    fresh: Int64[Tensor, "m"],
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "N"]:
    """Return `out` where it is below the distances to and from the rows `fresh`, else those."""
    everyone = len(fresh) == len(vectors)
    with ieee_products(vectors.values.device.type):
        for done in range(0, len(fresh), SIDE_ROWS):
            side = fresh[done : done + SIDE_ROWS]
            for span, squares in _squares(vectors, side):
                out[side] = torch.minimum(out[side], _root(squares.amin(1), vectors.error))
                if not everyone:
                    out[span] = torch.minimum(out[span], _root(squares.amin(0), vectors.error))
            if progress is not None:
                progress(min(done + SIDE_ROWS, len(fresh)), len(fresh))
    return out


def _squares(vectors: DistanceVectors, side: Int64[Tensor, "m"]) -> Iterator[tuple[slice, Float[Tensor, "m n"]]]:
    """Yield squared distances of the rows `side` to ranges of all rows, infinite to themselves."""
    part = vectors.centred(vectors.values.index_select(0, side))
    own = part.square().sum(1)
    for start in range(0, len(vectors), OTHER_ROWS):
        span = slice(start, min(start + OTHER_ROWS, len(vectors)))
        others = vectors.centred(vectors.values[span])
        squares = torch.addmm(others.square().sum(1), part, others.T, alpha=-2.0).add_(own[:, None])
        inside = ((side >= span.start) & (side < span.stop)).nonzero()[:, 0]
        squares[inside, side[inside] - start] = torch.inf
        yield span, squares


def _root(squares: Float[Tensor, "n"], error: float) -> Float[Tensor, "n"]:
    return (squares - error).clamp_min(0.0).sqrt()


def source_log_omitted(
    rows: Rows,
    alpha: Float64[Tensor, "B"],
    inverse_variance: Float64[Tensor, "B"],
    source: Source,
    distances: Float[Tensor, "N"],
) -> Float64[Tensor, "B"]:
    """Return the log of the weight of all rows but the source, relative to that of the source, at most, [B] float64.

    rows: the data. alpha, inverse_variance: of the queries, see Query, [B]. source: their sources, all of them known.
    distances: from each row to the nearest other one, at least, [N] float32 in row units.
    x = alpha X_s + sigma eps with eps independent of the data, so with probability 1 - failure every other row at
    distance d has log w_i - log w_s - rho d^2 / 2 + d sqrt(rho) c, rho = alpha^2 / sigma^2, c^2 = 2 ln(N / failure): a
    Gaussian tail for each, and the union bound. The term falls in d beyond c / sqrt(rho); nothing is proved below.
    """
    deviation = inverse_variance.rsqrt()
    deviations = math.sqrt(2.0 * math.log(len(rows) / source.failure)) + source.blur / deviation
    scaled = distances[source.row].double() * alpha / deviation
    if rows.log_weights is None:
        others = torch.full_like(scaled, math.log(len(rows) - 1) if len(rows) > 1 else -math.inf)
    else:
        own = rows.log_weights[source.row]
        others = torch.log1p(-own.exp()) - own
    # d times the term must fall as well: it bounds the error of the mean
    falling = scaled * (scaled - deviations) >= 1.0
    return torch.where(falling, others - 0.5 * scaled.square() + deviations * scaled, torch.inf)
