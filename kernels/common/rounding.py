"""How wrong a logit from a matrix product can be, and which samples must therefore be looked at again.

Notation: u the unit roundoff of the product, delta its error in a logit, gamma_j the posterior weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...base.arrays import Bool, Float64, Tensor
from .rows import Query, Rows

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}

# posterior mass that an answer may leave out of the mean: a tenth of the accuracy bar on the velocity; a scan in double
# precision, which is as good as it can be, nothing that would show, and one of differences less than float64 holds
DROPPED_MASS = {torch.float32: 1e-6, torch.float64: 1e-12}
FINEST_MASS = 1e-18

# velocity error that rounding of logits may cause by the estimate below, which takes the worst of everything: errors
# measured on photographs and drawings are a fifth of it at most
LOGIT_BUDGET = 1e-5

# measured with MKL: the error of a product is about 0.3 u |q||r| (root mean square) up to so many coordinates; blocked
# sums make it grow as sqrt(D) beyond. As a share of u/2 |q||r|, which it has in a sum one by one, too
CALM_DIM, PRODUCT_ERROR = 4096, 0.6

# noise of queries on the path is no longer than so many sigma sqrt(D), but for those of few coordinates
LONGEST_NOISE = 1.25

# coordinates that a CPU product for few queries may add one after the other, by how large the centre of the operand is
# beside its rows: products that share a sign drift. Measured with MKL on photographs, root mean square error over
# logit_error: 0.95 for centred values; for raw bytes 0.8 with 768 and 1.6 to 1.9 with 1536. One or two queries are
# summed in lanes: as much with twice the length
DRIFT_CENTRE = 0.3
CALM_SUM, DRIFTING_SUM = 3072, 1024

# the largest of many thousand rounding errors over their root mean square
WORST_CASE = 6.0

# rounding errors of a sum add up like a random walk: this many times the square root of their number bounds them
WALK = 8.0

# nats up to which what all logits of a query share may have lost to rounding before its coarse logits are not used: a
# bound, of which errors are a tenth
POINT_LIMIT = 1e-4

# samples that hold more than a FEW_SHARES-th of a posterior are few, and cost little to score again; off the path they
# may be FAR_APART times further apart than on it
FEW_SHARES, FAR_APART = 16.0, 4.0

# what sums of a mean lose, in roundings of the largest row; how far an error of a logit moves the mean of two samples,
# relative to it; and |E[eps | x]| of a query with little noise, relative to sqrt(D)
SUM_ROUNDINGS, MOVED, LITTLE_NOISE = 4.0, 0.25, 0.25

# beyond this error coarse weights are no longer first-order correct, and whatever is live is scored again
COARSE_LIMIT = 0.01


def product_size(rows: Rows, query: Query, partition: Float64[Tensor, "B"] | None = None) -> Float64[Tensor, "B"]:
    """Return p, [B], how large (alpha / sigma^2) <q, r> may be for samples that matter, in nats.

    rows, query: the samples and B queries. partition: the log-partition of the coarse logits, [B] nats, or None for the
    bound of Cauchy-Schwarz. With it, products of samples that matter are no larger than it and what norms take off,
    (alpha^2 / sigma^2) R^2 / 2 with R the largest row without the centre, together: their coarse logits are close to
    it.
    """
    bound = query.gain.abs() * query.norm * rows.operand_radius
    return bound if partition is None else _near(rows, query, bound, partition)


def _near(
    rows: Rows, query: Query, bound: Float64[Tensor, "B"], partition: Float64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """Return the size of products of samples that matter beside `partition`, [B], where they have a `bound`, [B]."""
    # infinite where there is no sample
    return torch.minimum(bound, partition.abs() + 0.5 * _squared_size(query) * rows.radius**2)


def _squared_size(query: Query) -> Float64[Tensor, "B"]:
    """Return alpha^2 / sigma^2 of each query."""
    return query.gain.abs() * query.alpha.abs()


def logit_error(
    rows: Rows, query: Query, dtype: torch.dtype, partition: Float64[Tensor, "B"] | None = None
) -> Float64[Tensor, "B"]:
    """Return delta, [B], the root mean square rounding error of a coarse logit, in nats.

    rows, query: the samples and B queries. dtype: of the products, float32 or float64. partition: as in
    :func:`product_size`.
    delta = u/2 (p + 4 (alpha^2 / sigma^2) R R') max(1, sqrt(D / 4096)), p the size of products, see
    :func:`product_size`, R and R' the largest row without the centre, and as an operand. The second term is for the
    samples that matter most: their products <q, r> ~ alpha <r - c, r> add up with one sign. Far from all samples, in a
    direction in which they hardly differ, terms of either sign are larger than that: the brackets are no less than
    0.6 (alpha / sigma^2) l R', where l is by how much q is longer than on the path, |q| - alpha R - 1.25 sigma sqrt(D).
    Rounding errors of different samples are independent; this is a measured law, not a proof: with MKL, on photographs,
    drawings and noise, errors are 0.15 to 1 delta where the partition is given, 0.1 to 0.9 without it.
    """
    bound = product_size(rows, query)
    size = bound if partition is None else _near(rows, query, bound, partition)
    return _growth(rows) * _rounded(rows, query, dtype, size, bound)


def _growth(rows: Rows) -> float:
    """Return how many times the error of few values that of a long sum is."""
    return max(1.0, math.sqrt(rows.dim / CALM_DIM))


def _rounded(
    rows: Rows, query: Query, dtype: torch.dtype, size: Float64[Tensor, "B"], bound: Float64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """Return the rounding error of a coarse logit of few values, [B], whose products have a size and a bound, [B]."""
    squared = _squared_size(query)
    own = squared * rows.radius * rows.operand_radius
    noise = LONGEST_NOISE * rows.dim**0.5 * rows.operand_radius
    further = torch.sub(bound - own, squared.sqrt(), alpha=noise)
    return 0.5 * UNIT_ROUNDOFF[dtype] * torch.maximum(size + 4.0 * own, PRODUCT_ERROR * further)


def longest_sum(rows: Rows, batch: int) -> int:
    """Return how many coordinates a product for `batch` queries may add in one go and stay within the law above."""
    drifts = float(rows.operand_centre.norm()) > DRIFT_CENTRE * rows.operand_radius
    length = DRIFTING_SUM if drifts else CALM_SUM
    return 2 * length if batch <= 2 else length


def difference_size(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return how large the terms of a difference between one of B queries and a row are, at most, [B].

    rows, query: the samples and B queries.
    """
    longest = rows.radius + max(rows.centre_norm, query.moved)
    return torch.add(2.0 * query.norm, query.alpha.abs(), alpha=longest)


def point_error(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return how far coarse logits, with |q|^2 / 2 sigma^2 taken off, may be from those of differences, [B] nats.

    rows, query: the samples and B queries. Coordinates of q have lost u times the size of what they are made of, and
    its square as much again. Far from all samples that is more than the rounding of products, which are short there.
    """
    reach = torch.add(query.norm, query.alpha.abs(), alpha=rows.radius)
    error: Tensor = query.inverse_variance * reach * difference_size(rows, query)
    return WALK * UNIT_ROUNDOFF[torch.float64] * error


@dataclass(frozen=True)
class Rounding:
    """How a matrix unit rounds, in addition to the rounding of its results to float32.

    steps: how often a running sum is cut to float32 before it is restarted; 0 for exact integer sums, which are
    rounded once, however long they are.
    query: root mean square rounding of a coordinate of the query, relative to its largest one.
    weight: root mean square rounding of a weight, relative to itself.
    """

    steps: int
    query: float
    weight: float


def unit_error(
    rows: Rows, query: Query, rounding: Rounding, partition: Float64[Tensor, "B"] | None = None
) -> Float64[Tensor, "B"]:
    """Return delta, [B], the root mean square error of a coarse logit from a matrix unit and of its weight, in nats.

    rows, query: the samples and B queries. rounding: how the unit rounds. partition: as in :func:`product_size`.
    With p the size of products, see :func:`product_size`: every step of the unit cuts off half a last place on
    average, always towards zero, so products shrink together by up to u p a step, in addition to the law of float32.
    Exact sums keep of that law what a product, a norm and a logit are rounded by, u/2 (p + 4 (alpha^2 / sigma^2) R^2).
    Both err by (alpha / sigma^2) R times the rounding of a coordinate of q, and by the rounding of the weight, which
    acts as an error of the logit would. The tests compare it with units that round as hardware does.
    """
    bound = product_size(rows, query)
    size = bound if partition is None else _near(rows, query, bound, partition)
    law = _rounded(rows, query, torch.float32, size, bound)
    if rounding.steps:
        law = _growth(rows) * law + rounding.steps * UNIT_ROUNDOFF[torch.float32] * size
    coordinate = rounding.query * query.point.abs().amax(1)
    return law + query.gain.abs() * rows.operand_radius * coordinate + rounding.weight


def weight_window(count: int, error: Float64[Tensor, "B"], dropped: float) -> Float64[Tensor, "B"]:
    """Return how far below the log-partition a coarse logit may lie and still belong in the mean, [B] nats.

    count: samples of the scan. error: of coarse logits, root mean square, [B] nats. dropped: more of the posterior than
    everything further below holds.
    """
    return math.log(count / dropped) + 2.0 * WORST_CASE * error


def competitor_spread(rows: Rows, query: Query, count: int) -> Float64[Tensor, "B"]:
    """Return how far apart the samples that share the mass of a query are, relative to its velocity, at most 1, [B].

    rows, query: the samples and B queries. count: samples of the scan, N.
    Two samples at distance d differ by rho d^2 / 2 - sqrt(rho) d g in their logits, rho = alpha^2 / sigma^2, with g
    Gaussian over the noise of the query: both matter only while sqrt(rho) d <= 2 c, c^2 = 2 ln N. Velocities times
    sigma are of the size sigma sqrt(D), so d relative to them is 2 c / (alpha sqrt(D)). Queries off the path may
    have competitors further apart, but few: those hold large shares, which are rescored anyway.
    """
    spread = 2.0 * math.sqrt(2.0 * math.log(max(count, 2)) / rows.dim)
    return (spread / query.alpha.abs().clamp_min(1e-300)).clamp_max(1.0)


def rescore_window(
    weight: Float64[Tensor, "B"],
    error: Float64[Tensor, "B"],
    spread: Float64[Tensor, "B"],
    *,
    copies: int = 1,
    budget: float,
    limit: float,
    far_apart: float = FAR_APART,
) -> Float64[Tensor, "B"]:
    """Return how far below the log-partition samples must be rescored, [B] nats; -inf for nowhere.

    weight: how far below it samples belong in the mean, [B] nats. error: delta of coarse logits, [B] nats. spread: see
    :func:`competitor_spread`. copies: how many samples nearly equal each other at most. budget: velocity error that
    rounding may cause. limit: error from which on whatever has weight is rescored. far_apart: how many times further
    apart than on the path competing samples may be; 0 where no sample holds more than a FEW_SHARES-th of the posterior.

    Independent errors delta of weights gamma_j move the mean by delta sqrt(sum gamma_j^2) times the distance of the
    competing samples. Rescoring all with gamma_j >= g leaves sqrt(g) delta times this spread, so g = (budget / (delta
    spread))^2. Errors of copies agree: a group of them is one sample with their shares together, so each of them is
    rescored from g / copies on. Off the path few groups may be far apart: shares above 1 / FEW_SHARES are rescored as
    soon as an error delta, `far_apart` this spread, would show.
    """
    excess = (error * spread / budget).clamp_min(1e-300)
    window = 2.0 * excess.log()
    window = torch.where(far_apart * excess > 1.0, window.clamp_min(math.log(FEW_SHARES)), window)
    window = torch.where(window > 0.0, window + math.log(copies), window)
    window = torch.where(error > limit, weight, torch.minimum(window, weight))
    return torch.where(window > 0.0, window + 2.0 * WORST_CASE * error, -torch.inf)


@dataclass(frozen=True)
class Windows:
    """How far below the log-partition samples still belong in the mean, and how far they are rescored; [B] nats."""

    weight: Float64[Tensor, "B"]
    rescore: Float64[Tensor, "B"]


def windows(
    rows: Rows,
    query: Query,
    count: int,
    error: Float64[Tensor, "B"],
    *,
    budget: float = LOGIT_BUDGET,
    limit: float = COARSE_LIMIT,
    far_apart: float = FAR_APART,
) -> Windows:
    """Return the windows of a float32 scan of `rows` over `count` samples for the B queries of `query`.

    error: of coarse logits, root mean square, [B] nats, see :func:`logit_error`. budget, limit, far_apart: as in
    :func:`rescore_window`, whose defaults are those of an exact answer.
    """
    weight = weight_window(count, error, DROPPED_MASS[torch.float32])
    spread = competitor_spread(rows, query, count)
    return Windows(
        weight,
        rescore_window(weight, error, spread, copies=rows.copies, budget=budget, limit=limit, far_apart=far_apart),
    )


def loss_shows(
    rows: Rows,
    query: Query,
    mean: Float64[Tensor, "B D"],
    coarse: Float64[Tensor, "B"],
    error: Float64[Tensor, "B"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Bool[Tensor, "B"]:
    """Return for which queries the loss of a scan shows in E[eps | x] = (x - alpha m) / sigma, [B].

    rows, query: the samples and B queries. mean: m of each, [B, D]. coarse: the share of the posterior whose sums lost
    digits, in [0, 1], [B]. error: delta of its logits, [B] nats. dtype: of the scan.
    A query on top of a sample or midway between two has next to nothing of E[eps | x], and where a path ends slowly its
    velocity is no larger. The mean may be off by (SUM_ROUNDINGS u + MOVED delta) R, and by DROPPED_MASS R. Noise below
    the rounding of float64 coordinates is none that a query could show.
    """
    distance = torch.addcmul(query.point, query.alpha[:, None], mean, value=-1.0).norm(dim=1)
    little = LITTLE_NOISE * (rows.dim / query.inverse_variance).sqrt()
    share = coarse * (SUM_ROUNDINGS * UNIT_ROUNDOFF[dtype] + MOVED * error) + DROPPED_MASS[dtype]
    reach = query.alpha.abs() * rows.radius
    told = little > UNIT_ROUNDOFF[torch.float64] * reach
    shows: Tensor = told & (distance < little) & (share * reach > LOGIT_BUDGET * distance)
    return shows
