"""From which noise level on each level of a screen is worth trying: measured on noised rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ...base.progress import Progress
from ..common.prepare import total_variance
from ..common.rows import Query, Rows, Span
from .query_bounds import BOUND_FAILURE, Knowledge, Source
from .screen import Screen
from .shared_products import SharedProducts
from .shortlist import TOUCH_COST, certified_share
from .upper_bounds import UpperLogits

# signal to noise ratios tried, in powers of ten around the variance of a coordinate, and queries at each
FIRST, LAST, STEPS_PER_DECADE = -2, 6, 3
TRIALS = 48

# a level is worth its cost where it settles this share of the queries: the cost relative to a scan; at least half,
# since the others pay for it, and no more than a few dozen trials can tell from all of them
LEAST_WORTH, MOST_WORTH = 0.5, 0.9


# mass that may be left out in the trials: what a relative velocity error of 1e-4 usually allows
TRIAL_MASS = 1e-6


@dataclass(frozen=True)
class Measured:
    """A screen with its reach, and the share of the products of a scan that it saves.

    saved: averaged over s = sigma / (alpha d + sigma) in [0, 1], d the deviation of a coordinate, and over what is
        known of queries: where a level is tried, the share of the queries that it settles less its cost, relative to a
        scan. On the straight path of standardised data 1 - s is t.
    """

    screen: Screen
    saved: float


def measured(rows: Rows, screen: Screen, seed: int = 0, progress: Progress | None = None) -> Measured:
    """Return `screen` with the reach of each level: the smallest alpha^2 / sigma^2 from which on it settles queries.

    Costs the upper logits of some thousand queries at each level.
    """
    found = []
    for knowledge in Knowledge:
        found.append(_thresholds(rows, screen, knowledge, seed))
        if progress is not None:
            progress(len(found), len(Knowledge))
    thresholds = tuple(least for least, _ in found)
    return Measured(replace(screen, thresholds=thresholds), sum(saved for _, saved in found) / len(found))


def _thresholds(rows: Rows, screen: Screen, knowledge: Knowledge, seed: int) -> tuple[tuple[float, ...], float]:
    trials = _Trials(rows, knowledge, torch.Generator(rows.device).manual_seed(seed))
    variance = max(total_variance(rows) / rows.dim, 1e-300)
    thresholds, saved, noise = [math.inf] * len(screen.widths), 0.0, 0.0
    pending = set(range(len(screen.widths)))
    # from little noise to much: a level is given up at the first ratio where it fails
    for step in range(LAST * STEPS_PER_DECADE, FIRST * STEPS_PER_DECADE - 1, -1):
        if not pending:
            break
        scaled = 10.0 ** (step / STEPS_PER_DECADE)
        upper, gains = trials.upper(screen, scaled / variance), [0.0]
        for level in sorted(pending):
            share = certified_share(upper, level, TRIAL_MASS)
            if share < _worth(screen.costs[level], rows.dim):
                pending.discard(level)
            else:
                thresholds[level] = scaled / variance
                gains.append(share - screen.costs[level] / rows.dim)
        below, noise = noise, 1.0 / (1.0 + math.sqrt(scaled))
        saved += max(gains) * (noise - below)
    return tuple(thresholds), saved


def _worth(cost: int, dim: int) -> float:
    return min(max(LEAST_WORTH, (cost + TOUCH_COST) / dim), MOST_WORTH)


class _Trials:
    """Noised rows; those of which nothing is known leave out their own row, as held-out queries do."""

    def __init__(self, rows: Rows, knowledge: Knowledge, generator: torch.Generator) -> None:
        self.rows = rows
        device = rows.device
        self.chosen = torch.randint(len(rows), (TRIALS,), generator=generator, device=device)
        self.noise = torch.randn(TRIALS, rows.dim, generator=generator, device=device, dtype=torch.float64)
        known = knowledge == Knowledge.SOURCE
        left_out = self.chosen if knowledge == Knowledge.NOTHING else torch.full_like(self.chosen, -1)
        self.excluded = torch.stack([left_out, left_out + (left_out >= 0)], dim=1)[:, None]
        blur = torch.zeros(TRIALS, dtype=torch.float64, device=device)
        self.source = Source(self.chosen if known else torch.full_like(self.chosen, -1), blur, BOUND_FAILURE)
        self.shared_products = SharedProducts.of(rows, self.noise) if knowledge == Knowledge.TRAJECTORY else None

    def upper(self, screen: Screen, ratio: float) -> UpperLogits:
        """Return the upper logits of the trials at this alpha^2 / sigma^2."""
        rows, ones = self.rows, torch.ones(TRIALS, dtype=torch.float64, device=self.rows.device)
        point = rows.gather(self.chosen) - rows.centre + self.noise / math.sqrt(ratio)
        query = Query(point, ones, ratio * ones, self.excluded)
        return UpperLogits.of(rows, screen, query, Span(0, len(rows)), self.source, self.shared_products)
