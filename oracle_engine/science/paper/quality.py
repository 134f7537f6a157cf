"""A small measure of how far generated samples are from the data, for tables that need one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Tensor
from ...base.seeds import seeded

# draws of the bootstrap
DISTANCE_RESAMPLES = 100


@dataclass(frozen=True)
class Quality:
    """A number that is smaller for better samples, and its standard error or None."""

    value: float
    error: float | None = None


# from generated samples [K, *shape] and samples of the data [M, *shape], in value space, to a Quality or a number
Metric = Callable[[Tensor, Tensor], "Quality | float"]


def energy_distance(x: Float[Tensor, "K ..."], data: Float[Tensor, "M ..."]) -> Quality:
    """Return the energy distance of two sets of samples, per root of D: 0 where their distributions agree.

    x: generated samples, K >= 2. data: samples of the data, M >= 2.

    2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013) over distinct pairs, over sqrt(D); it may be slightly
    negative. The error is that of drawing x again. Euclidean distances see layout and contrast, not perception: pass a
    feature distance such as FID in its place for pictures that matter.
    """
    one, two = (part.double().cpu().reshape(len(part), -1) for part in (x, data))
    unit = one.shape[1] ** 0.5
    across, inside = torch.cdist(one, two).mean(1) / unit, torch.cdist(one, one) / unit
    other = float(torch.cdist(two, two).sum() / (len(two) * (len(two) - 1)) / unit)
    count, draws, found = len(one), seeded(0), []
    for _ in range(DISTANCE_RESAMPLES):
        # weights of a resample; a sample drawn twice is no pair with itself
        weights = torch.randint(count, (count,), generator=draws).bincount(minlength=count).double()
        pairs = weights.square().sum()
        drawn = weights @ inside @ weights / (count**2 - pairs)
        found.append(float(2.0 * (weights @ across) / count - drawn))
    value = float(2.0 * across.mean() - inside.sum() / (count * (count - 1))) - other
    return Quality(value, float(torch.tensor(found).std()))


def mean_distance(x: Float[Tensor, "K ..."]) -> float:
    """Return the mean distance of two different samples of `x`, K >= 2, per root of D."""
    flat = x.double().reshape(len(x), -1)
    return float(torch.cdist(flat, flat).sum() / (len(flat) * (len(flat) - 1)) / flat.shape[1] ** 0.5)


def quality_of(metric: Metric, x: Tensor, data: Tensor) -> Quality:
    """Return what `metric` finds, as a Quality."""
    found = metric(x, data)
    return found if isinstance(found, Quality) else Quality(float(found))
