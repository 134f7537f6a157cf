"""The scan in float64 by the native library: narrow rows, float64 rows, and queries that too many samples share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from ctypes import c_double, c_int64, c_void_p
from dataclasses import replace
from functools import reduce

import torch

from ..common.rounding import FINEST_MASS
from ..common.rows import Span
from ..common.state import PosteriorState, merge
from ..common.work import Work
from ..portable import double
from .views import AskedQueries, Digits, RowsView, StatesView, View, called, readable, writable

# queries that share a pass over the rows at least, where there are so many: with fewer, reading costs more than sums
GROUP = 16

# differences that one call takes at most: a second or so, after which Ctrl-C is heard
CALL_VALUES = 4_000_000_000


class ScanView(View):
    """The part of the rows that one call scans, and how it is shared out."""

    _fields_ = (
        ("start", c_int64),
        ("stop", c_int64),
        ("excluded", c_void_p),
        ("ranges", c_int64),
        ("window", c_double),
        ("shares", c_int64),
        ("threads", c_int64),
    )

    def __init__(self, work: Work, shares: int, dropped: float) -> None:
        """Look at the span of `work`, in `shares` parts; dropped: the posterior mass that may be left out."""
        self.held = []
        window = math.log(len(work.rows) / dropped)
        super().__init__(
            work.span.start,
            work.span.stop,
            self.hold(work.query.excluded.contiguous()),
            work.query.excluded.shape[1],
            window,
            shares,
            torch.get_num_threads(),
        )


def double_state(work: Work) -> PosteriorState:
    """Return the states over the span of `work`, in float64 throughout and in twice the digits where gaps ask for it.

    Logits are taken from differences. Costs one read of the span, 2 B n D operations, and as many again for blocks that
    carry weight; memory is B D values for every GROUP queries that a thread has, and a block of rows.
    """
    if not readable(work.rows):
        return double.double_state(work)
    if len(work.query) == 0 or len(work.span) == 0:
        return work.nothing()
    return reduce(merge, (_scanned(part) for part in work_parts(work)))


def work_parts(work: Work) -> Iterator[Work]:
    """Yield `work` over parts of its span, each small enough for one call."""
    step = max(1024, CALL_VALUES // (len(work.query) * work.rows.dim))
    for start in range(work.span.start, work.span.stop, step):
        yield replace(work, span=Span(start, min(start + step, work.span.stop)))


def shares_for(batch: int) -> int:
    """Return into how many parts the rows are cut for `batch` queries; the other threads get queries of their own."""
    return max(1, torch.get_num_threads() // max(1, batch // GROUP))


def _scanned(work: Work) -> PosteriorState:
    batch, rows, wanted = len(work.query), work.rows, work.wanted
    shares = shares_for(batch)
    states = writable(PosteriorState.empty(shares * batch, rows.dim, wanted.top_k, rows.device))
    # states of a span are merged: what each of them lost to rounding may compete with another
    scan = ScanView(work, shares, FINEST_MASS)
    views = RowsView.of(rows), AskedQueries(work.query), Digits(True), scan
    called("oracle_scan_double", *views, StatesView(states, wanted))
    return reduce(merge, (states.take(torch.arange(batch) + share * batch) for share in range(shares)))
