"""From which noise level on each level of a screen is worth trying: measured on noised rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .prepare import total_variance
from .probe import Source
from .rows import Query, Rows, Span
from .screen import Screen
from .shortlist import settled_share
from .upper import UpperLogits

# signal to noise ratios tried, in powers of ten around the variance of a coordinate, and queries at each
FIRST, LAST, STEPS_PER_DECADE = -2, 6, 3
TRIALS = 48

# a level is worth its product where it settles this share of the queries
WORTH = 0.5

# probability of a bound that fails in the trials with known sources
FAILURE = 1e-6

# mass that may be left out in the trials: what a relative velocity error of 1e-4 usually allows
TRIAL_MASS = 1e-6


def with_measured_reach(rows: Rows, screen: Screen, seed: int = 0) -> Screen:
    """Return `screen` with the reach of each level: the smallest alpha^2 / sigma^2 from which on it settles queries.

    Of the queries without a known source, half leave out the row they were made from, as held-out queries would.
    Costs the upper logits of about a thousand queries at each level.
    """
    return replace(screen, reach=_reach(rows, screen, seed, False), known_reach=_reach(rows, screen, seed, True))


def _reach(rows: Rows, screen: Screen, seed: int, known: bool) -> tuple[float, ...]:
    generator = torch.Generator(rows.device).manual_seed(seed)
    variance = max(total_variance(rows) / rows.dim, 1e-300)
    reach = [math.inf] * len(screen.widths)
    waiting = set(range(len(screen.widths)))
    # from little noise to much: a level is given up at the first ratio where it fails
    for step in range(LAST * STEPS_PER_DECADE, FIRST * STEPS_PER_DECADE - 1, -1):
        if not waiting:
            break
        ratio = 10.0 ** (step / STEPS_PER_DECADE) / variance
        query, source = _trials(rows, ratio, known, generator)
        upper = UpperLogits.of(rows, screen, query, Span(0, len(rows)), source, None)
        for level in sorted(waiting):
            if settled_share(upper, level, TRIAL_MASS) < WORTH:
                waiting.discard(level)
            else:
                reach[level] = ratio
    return tuple(reach)


def _trials(rows: Rows, ratio: float, known: bool, generator: torch.Generator) -> tuple[Query, Source]:
    chosen = torch.randint(len(rows), (TRIALS,), generator=generator, device=rows.device)
    noise = torch.randn(TRIALS, rows.dim, generator=generator, device=rows.device, dtype=torch.float64)
    point = rows.gather(chosen) - rows.centre + noise / math.sqrt(ratio)
    ones = torch.ones(TRIALS, dtype=torch.float64, device=rows.device)
    odd = torch.arange(TRIALS, device=rows.device) % 2 == 1
    left_out = torch.where(odd | known, -1, chosen)
    holes = torch.stack([left_out, left_out + (left_out >= 0)], dim=1)[:, None]
    source = Source(chosen if known else torch.full_like(chosen, -1), torch.zeros_like(ones), FAILURE)
    return Query(point, ones, ratio * ones, holes), source
