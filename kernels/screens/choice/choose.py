"""Which kind of screen a data set gets, and from which noise level on each level of it is tried.

Both are measured on noised rows: the kind that saves most of the products of a scan is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ....base.progress import PartProgress, Progress
from ...common.rows import Rows
from ..bounds.query_bounds import Knowledge
from ..bounds.screen import Screen
from ..kinds.exact8 import STORED_DTYPES, stored_screen
from ..kinds.int8 import code_screen
from ..kinds.int8_products import SCREENING_DIGITS, given_or_timed, relative_cost
from ..kinds.pca import default_widths, principal_screen
from ..kinds.pca8 import FEWEST_CODES, LEADING, SHARES, code_widths, leading_code_screen
from ..searches.cascade import tried
from .timed_costs import timed_costs
from .trials import TRIALS, Trials

SCREEN_KINDS = ("pca", "pca8", "int8", "exact8")

# rows that the kinds compete on, in values, and at least: 256 MB in float32
SAMPLE_VALUES, LEAST_SAMPLE = 1 << 26, 2048

# a product that costs more than this share of a scan does not pay for what comes with it
WORTHWHILE_COST = 0.9

# signal to noise ratios tried, in powers of ten around the variance of a coordinate
FIRST, LAST, STEPS_PER_DECADE = -2, 6, 3

# a level that costs more than this share of a scan in its trials does not pay for sure: queries that no sample is
# behind leave more open
MOST_COST = 0.8

# a level has to certify no more than this share of the queries: a few dozen trials cannot tell it from all of them
MOST_WORTH = 0.9

# a level that costs more than this times what a deeper one does is given up, though the clock may be off
DEARER = 1.1

# mass that may be left out in the trials: what a relative velocity error of 1e-4 usually allows
TRIAL_MASS = 1e-6


@dataclass(frozen=True)
class MeasuredScreen:
    """A screen with its SNR thresholds, and the share of the products of a scan that it saves.

    saved: averaged over s = sigma / (alpha d + sigma) in [0, 1], d the deviation of a coordinate, and over what may be
        known of queries: where a level is tried, the share of the queries that it certifies less its cost, relative to
        a scan. On the straight path of standardised data 1 - s is t.
    """

    screen: Screen
    saved: float


def refusal(kind: str, rows: Rows) -> str | None:
    """Return why `rows` cannot have a screen of this `kind`, one of SCREEN_KINDS, in words, or None."""
    if kind == "pca" and not default_widths(rows):
        return "needs at least 48 values a sample and a few dozen samples"
    if kind == "pca8" and not code_widths(rows):
        return f"needs at least {SHARES[-1] * (LEADING + FEWEST_CODES)} values a sample and a few dozen samples"
    if kind == "exact8" and rows.stored.dtype not in STORED_DTYPES:
        return f"needs 8-bit storage, not {str(rows.stored.dtype).removeprefix('torch.')}"
    return None


def build_kind(
    kind: str, rows: Rows, steps: PartProgress | None = None, *, product_cost: float | None = None
) -> MeasuredScreen:
    """Return the screen of a kind with its measured SNR thresholds.

    kind: one of SCREEN_KINDS that :func:`refusal` says nothing against. rows: the data. steps: hears of "projecting"
    and "measuring". product_cost: time of a product with 8-bit rows over that with float32 rows, in (0, 1], or None to
    time it.
    """
    progress = _part(steps, "projecting")
    if kind == "pca":
        screen: Screen = principal_screen(rows, default_widths(rows), progress=progress)
    elif kind == "pca8":
        screen = leading_code_screen(rows, code_widths(rows), progress=progress, product_cost=product_cost)
    elif kind == "int8":
        screen = code_screen(rows, progress, product_cost=product_cost)
    else:
        screen = stored_screen(rows, product_cost)
    return with_thresholds(rows, screen, progress=_part(steps, "measuring"))


def best_screen(
    rows: Rows,
    steps: PartProgress | None = None,
    *,
    sample: int | None = None,
    product_cost: float | None = None,
) -> tuple[Screen | None, str]:
    """Return the screen that saves most of the products of a scan, None where none saves any, and why, in words.

    rows: the data. steps: hears of "projecting" and "measuring". sample: how many rows the kinds compete on, drawn at
    random; None for 256 MB of them in float32. product_cost: as in :func:`build_kind`.
    Kinds that could pay are built for the sample and tried on noised rows of it, then the best is built for all.
    """
    idle = {kind: _idle(kind, rows, product_cost) for kind in SCREEN_KINDS}
    some = _sample(rows, max(LEAST_SAMPLE, SAMPLE_VALUES // rows.dim) if sample is None else sample)
    heard = steps if some is rows else None
    trials = {
        kind: build_kind(kind, some, heard, product_cost=product_cost) for kind in SCREEN_KINDS if idle[kind] is None
    }
    words = {kind: f"saves {trial.saved:.0%} of the products" for kind, trial in trials.items()}
    reason = "; ".join(f"{kind} {words.get(kind, idle[kind])}" for kind in SCREEN_KINDS)
    best = max(trials, key=lambda kind: trials[kind].saved, default=None)
    if best is None or trials[best].saved <= 0.0:
        return None, reason
    made = trials[best] if some is rows else build_kind(best, rows, steps, product_cost=product_cost)
    return made.screen, reason


def with_thresholds(rows: Rows, screen: Screen, seed: int = 0, progress: Progress | None = None) -> MeasuredScreen:
    """Return `screen` with the SNR threshold of each level: the alpha^2 / sigma^2 from which on it is worth its cost.

    rows: the data. screen: of them, whatever its thresholds and costs are. seed: of the trials. progress: called with
    the parts done and their number. Costs the upper logits of some thousand queries at each level.
    """
    screen = replace(screen, measured_costs=timed_costs(rows, screen))
    found = []
    for knowledge in Knowledge:
        found.append(_thresholds(rows, screen, knowledge, seed))
        if progress is not None:
            progress(len(found), len(Knowledge))
    thresholds = tuple(least for least, _ in found)
    return MeasuredScreen(replace(screen, thresholds=thresholds), sum(saved for _, saved in found) / len(found))


def _idle(kind: str, rows: Rows, product_cost: float | None) -> str | None:
    """Return why a kind need not be tried, or None."""
    if kind == "pca" or (kind == "pca8" and refusal(kind, rows) is not None):
        return refusal(kind, rows)
    eight = rows.stored.dtype in STORED_DTYPES
    if kind != "pca8" and eight != (kind == "exact8"):
        return "is for 8-bit storage" if kind == "exact8" else "would copy what is 8-bit already"
    width = code_widths(rows)[0] - LEADING if kind == "pca8" else rows.dim
    cost = relative_cost(given_or_timed(product_cost, rows.device, 2 if kind == "int8" else SCREENING_DIGITS), width)
    return None if cost < WORTHWHILE_COST else "costs what a scan does: no quicker 8-bit products here"


def _sample(rows: Rows, count: int) -> Rows:
    if len(rows) <= count:
        return rows
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    if rows.log_weights is not None:
        # those with weight first: a sample of nothing else would have no posterior
        weightless = rows.log_weights[order] == -torch.inf
        order = order[weightless.to(torch.uint8).argsort(stable=True)]
    chosen = order[:count].sort().values
    weights = None if rows.log_weights is None else rows.log_weights[chosen].log_softmax(0)
    return replace(
        rows, stored=rows.stored.index_select(0, chosen), half_norms=rows.half_norms[chosen], log_weights=weights
    )


def _part(steps: PartProgress | None, what: str) -> Progress | None:
    return None if steps is None else lambda done, total: steps(what, done, total)


def _thresholds(rows: Rows, screen: Screen, knowledge: Knowledge, seed: int) -> tuple[tuple[float, ...], float]:
    """Return the SNR threshold of each level for queries with this side information, and what is saved."""
    trials = Trials.drawn(rows, knowledge, seed)
    thresholds, saved, noise = [math.inf] * len(screen.widths), 0.0, 0.0
    pending = set(range(len(screen.widths)))
    # from little noise to much: a level is given up at the first ratio where it fails
    for step in range(LAST * STEPS_PER_DECADE, FIRST * STEPS_PER_DECADE - 1, -1):
        if not pending:
            break
        scaled = 10.0 ** (step / STEPS_PER_DECADE)
        upper, gains, deeper = trials.upper(screen, scaled), [0.0], math.inf
        for level in sorted(pending, reverse=True):
            found = tried(upper, level, TRIAL_MASS)
            cost = screen.costs.share(level, len(rows), found.cost, TRIALS)
            # one call does at any level what all deeper ones do: it begins where that costs least
            if cost >= MOST_COST or found.share < min(cost, MOST_WORTH) or (found.complete and cost > DEARER * deeper):
                pending.discard(level)
            else:
                thresholds[level], deeper = trials.snr(scaled), cost
                gains.append(found.share - cost)
        below, noise = noise, 1.0 / (1.0 + math.sqrt(scaled))
        saved += max(gains) * (noise - below)
    return tuple(thresholds), saved
