"""Distances in twice the digits of float64, for logits whose gaps decide more than float64 holds.

A number is a pair of float64, high + low with |low| at most half a last place of high: Dekker (1971), Knuth's two-sum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...base.arrays import Float64, Int64, Tensor
from .rows import Query, Rows

# Veltkamp's factor: splits a float64 into two halves of 26 bits
SPLITTER = 134217729.0


class DoubleDouble(NamedTuple):
    """A number in twice the digits of float64."""

    high: Float64[Tensor, "..."]
    low: Float64[Tensor, "..."]


def two_sum(a: Float64[Tensor, "..."], b: Float64[Tensor, "..."]) -> DoubleDouble:
    """Return a + b exactly."""
    total = a + b
    part = total - a
    return DoubleDouble(total, (a - (total - part)) + (b - part))


def two_product(a: Float64[Tensor, "..."], b: Float64[Tensor, "..."]) -> DoubleDouble:
    """Return a b exactly, for factors and products below 1e300 in size."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    low = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return DoubleDouble(product, low)


def total(terms: DoubleDouble) -> DoubleDouble:
    """Return the sums of `terms` over their last dimension, in pairs of pairs."""
    high, low = terms
    while high.shape[-1] > 1:
        if high.shape[-1] % 2:
            high, low = (torch.nn.functional.pad(part, (0, 1)) for part in (high, low))
        found = two_sum(high[..., ::2], high[..., 1::2])
        high, low = two_sum(found.high, found.low + (low[..., ::2] + low[..., 1::2]))
    return DoubleDouble(high[..., 0], low[..., 0])


def largest(numbers: DoubleDouble, count: int) -> tuple[DoubleDouble, Int64[Tensor, "B k"]]:
    """Return the `count` largest of each row of `numbers`, [B, n], in falling order, [B, k], and their columns.

    count: k, at least 0 and at most n. -inf stands for nothing and comes last.
    """
    high, low = numbers
    if count == 0:
        return DoubleDouble(high[:, :0], low[:, :0]), high[:, :0].long()
    # differences to the largest keep the digits that tell high parts of one value apart
    top = high.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).min)
    column = ((high - top) + low).topk(count, dim=1).indices
    return DoubleDouble(high.gather(1, column), low.gather(1, column)), column


def compensated_logits(
    rows: Rows,
    query: Query,
    *,
    which: Int64[Tensor, "P"],
    row: Int64[Tensor, "P"],
    samples: Float64[Tensor, "P D"],
) -> DoubleDouble:
    """Return log w_j - |x - alpha X_j|^2 / 2 sigma^2 of pairs of a query and a row, [P].

    rows, query: the samples and B queries, which are used as they were given. which: the query of each pair. row: its
    row, whose values as stored are `samples`. The coefficients alpha and 1 / sigma^2 are taken as exact. Costs some
    fifty float64 operations a value.
    """
    alpha = query.alpha[which, None]
    given = query.given
    if given is None:
        point, unit = query.point[which], 1.0
        value = two_sum(samples, -rows.centre)
    else:
        point, unit = given.x[which], given.scale
        scaled = two_product(samples, samples.new_tensor(given.scale))
        value = two_sum(scaled.high, samples.new_tensor(given.offset))
        value = DoubleDouble(value.high, value.low + scaled.low)
    drift = two_product(alpha, value.high)
    difference = two_sum(point, -drift.high)
    rest = difference.low - (drift.low + alpha * value.low)
    difference = two_sum(difference.high, rest)
    square = two_product(difference.high, difference.high)
    distance = total(DoubleDouble(square.high, square.low + 2.0 * difference.high * difference.low))
    factor = -0.5 * query.inverse_variance[which] / unit**2
    logit = two_product(factor, distance.high)
    logit = two_sum(logit.high, logit.low + factor * distance.low)
    if rows.log_weights is None:
        return logit
    weighted = two_sum(logit.high, rows.log_weights[row])
    # the log of no weight is infinite, and so is the sum
    return DoubleDouble(weighted.high, torch.where(weighted.high.isfinite(), weighted.low + logit.low, 0.0))


def _halves(a: Float64[Tensor, "..."]) -> DoubleDouble:
    spread = SPLITTER * a
    high = spread - (spread - a)
    return DoubleDouble(high, a - high)
