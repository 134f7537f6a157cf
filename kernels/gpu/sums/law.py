"""Triton: the law of rounding: how wrong coarse logits are, and how far below the log-partition samples are rescored.

It is that of :mod:`...common.rounding`, whose functions are the second opinion on these steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl

from ...common.rounding import (
    CALM_DIM,
    DROPPED_MASS,
    FAR_APART,
    FEW_SHARES,
    LONGEST_NOISE,
    PRODUCT_ERROR,
    UNIT_ROUNDOFF,
    WORST_CASE,
    Rounding,
)
from ...common.work import Work
from ..operands.splits import Split

_FAR_APART, _WORST_CASE = tl.constexpr(FAR_APART), tl.constexpr(WORST_CASE)
_LOG_FEW, _PRODUCT_ERROR = tl.constexpr(math.log(FEW_SHARES)), tl.constexpr(PRODUCT_ERROR)


class Law(NamedTuple):
    """What the law of rounding knows of a scan beside its queries, in the order of the arguments of the kernel.

    radius, operand_radius: of the rows. unit: what a sum of float32 products is off by, relative to their size.
    cut: what a matrix unit takes off, relative to it. query, weight: see Rounding. noise: the longest on the path, in
    sigma. log_count: log of the samples over the mass that may be dropped. spread: numerator of `competitor_spread`.
    budget, limit: see `rescore_window`. log_copies: log of how many samples nearly equal each other.
    """

    radius: float
    operand_radius: float
    unit: float
    cut: float
    query: float
    weight: float
    noise: float
    log_count: float
    spread: float
    budget: float
    limit: float
    log_copies: float

    @classmethod
    def of(cls, work: Work, rounding: Rounding, split: Split) -> Law:
        """Return the law of a scan of `work` by a unit that rounds as `rounding` says.

        split: how its operands are split, with what that may cost.
        """
        rows, count, single = work.rows, len(work.span), torch.float32
        growth = max(1.0, math.sqrt(rows.dim / CALM_DIM)) if rounding.steps else 1.0
        return cls(
            radius=rows.radius,
            operand_radius=rows.operand_radius,
            unit=0.5 * UNIT_ROUNDOFF[single] * growth,
            cut=rounding.steps * UNIT_ROUNDOFF[single],
            query=rounding.query,
            weight=rounding.weight,
            noise=LONGEST_NOISE * math.sqrt(rows.dim),
            log_count=math.log(count / DROPPED_MASS[single]),
            spread=2.0 * math.sqrt(2.0 * math.log(max(count, 2)) / rows.dim),
            budget=split.budget,
            limit=split.limit,
            log_copies=math.log(rows.copies),
        )

    @property
    def of_loss(self) -> tuple[float, ...]:
        """What tells whether a loss of sums shows, in the order of `doubtful_square`."""
        return (*self[: self._fields.index("spread")], self.budget)


@triton.jit
@no_type_check
def logit_error(squared, gain, length, size, partition, radius, operand_radius, unit, cut, query, weight, noise):
    """Return the root mean square error of coarse logits of some queries, [BLOCK_B] nats, as `unit_error` does.

    squared: alpha^2 / sigma^2. gain: |alpha| / sigma^2. length, size: of the queries, |q| and the largest |q_d|.
    """
    product = tl.minimum(gain * length * operand_radius, tl.abs(partition) + 0.5 * squared * radius * radius)
    own = squared * radius * operand_radius
    further = (gain * length - tl.sqrt(squared) * noise) * operand_radius - own
    rounded = tl.maximum(product + 4.0 * own, _PRODUCT_ERROR * further)
    return unit * rounded + cut * product + query * size * gain * operand_radius + weight


@triton.jit
@no_type_check
def rescore_window(alpha, error, weight, spread, budget, limit, log_copies):
    """Return how far below the log-partition samples are rescored, [BLOCK_B] nats, as `rescore_window` does."""
    apart = tl.minimum(spread / tl.maximum(tl.abs(alpha), 1e-300), 1.0)
    excess = tl.maximum(error * apart / budget, 1e-300)
    window = 2.0 * tl.log(excess)
    window = tl.where(excess * _FAR_APART > 1.0, tl.maximum(window, _LOG_FEW), window)
    window = tl.where(window > 0.0, window + log_copies, window)
    window = tl.where(error > limit, weight, tl.minimum(window, weight))
    return tl.where(window > 0.0, window + error * _WORST_CASE * 2.0, float("-inf"))
