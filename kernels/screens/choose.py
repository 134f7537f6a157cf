"""Which kind of screen a data set gets: the one that saves most of the products of a scan, measured on some rows."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...base.progress import PartProgress, Progress
from ..common.rows import Rows
from .calibration import Measured, measured
from .exact8 import STORED_DTYPES, stored_screen
from .int8 import code_cost, code_screen
from .pca import default_widths, principal_screen
from .screen import Screen

SCREEN_KINDS = ("pca", "int8", "exact8")

# rows that the kinds compete on, in values, and at least: 256 MB in float32
SAMPLE_VALUES, LEAST_SAMPLE = 1 << 26, 2048

# a product that costs more than this share of a scan does not pay for what comes with it
WORTHWHILE_COST = 0.9


def refusal(kind: str, rows: Rows) -> str | None:
    """Return why rows like these cannot have a screen of this kind, in words, or None."""
    if kind == "pca" and not default_widths(rows):
        return "needs at least 48 values a sample and a few dozen samples"
    if kind == "exact8" and rows.stored.dtype not in STORED_DTYPES:
        return f"needs 8-bit storage, not {_name(rows)}"
    return None


def build_kind(kind: str, rows: Rows, steps: PartProgress | None = None) -> Measured:
    """Return the screen of this kind with its measured reach; `steps` hears of "projecting" and "measuring"."""
    return measured(rows, _built(kind, rows, _part(steps, "projecting")), progress=_part(steps, "measuring"))


def best_screen(rows: Rows, steps: PartProgress | None = None) -> tuple[Screen | None, str]:
    """Return the screen that saves most of the products of a scan, None where none saves any, and why, in words.

    Kinds that could pay are built for a random sample of the rows and tried on noised ones, then the best for all.
    """
    idle = {kind: _idle(kind, rows) for kind in SCREEN_KINDS}
    sample = _sample(rows)
    heard = steps if sample is rows else None
    trials = {kind: build_kind(kind, sample, heard) for kind in SCREEN_KINDS if idle[kind] is None}
    words = {kind: f"saves {trial.saved:.0%} of the products" for kind, trial in trials.items()}
    reason = "; ".join(f"{kind} {words.get(kind, idle[kind])}" for kind in SCREEN_KINDS)
    best = max(trials, key=lambda kind: trials[kind].saved, default=None)
    if best is None or trials[best].saved <= 0.0:
        return None, reason
    return (trials[best] if sample is rows else build_kind(best, rows, steps)).screen, reason


def _built(kind: str, rows: Rows, progress: Progress | None) -> Screen:
    if kind == "pca":
        return principal_screen(rows, default_widths(rows), progress=progress)
    return code_screen(rows, progress) if kind == "int8" else stored_screen(rows)


def _idle(kind: str, rows: Rows) -> str | None:
    """Return why a kind need not be tried, or None."""
    if kind == "pca":
        return refusal(kind, rows)
    eight = rows.stored.dtype in STORED_DTYPES
    if eight != (kind == "exact8"):
        return "is for 8-bit storage" if kind == "exact8" else "would copy what is 8-bit already"
    cost = code_cost(rows.device, rows.dim)
    return None if cost < WORTHWHILE_COST else "costs what a scan does: no quicker 8-bit products here"


def _sample(rows: Rows) -> Rows:
    count = max(LEAST_SAMPLE, SAMPLE_VALUES // rows.dim)
    if len(rows) <= count:
        return rows
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(rows), generator=generator)[:count].sort().values.to(rows.device)
    weights = None if rows.log_weights is None else rows.log_weights[chosen].log_softmax(0)
    return replace(
        rows, stored=rows.stored.index_select(0, chosen), half_norms=rows.half_norms[chosen], log_weights=weights
    )


def _part(steps: PartProgress | None, what: str) -> Progress | None:
    return None if steps is None else lambda done, total: steps(what, done, total)


def _name(rows: Rows) -> str:
    return str(rows.stored.dtype).removeprefix("torch.")
