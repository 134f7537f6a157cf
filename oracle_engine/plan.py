"""Which rows are scanned for which query, at what cost: decided before any work, and printable."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .arrays import Int64, Tensor
from .kernels import Span

# queries scanned together: their logits and sums stay small beside a block of rows
MAX_BATCH = 1024
MAX_BATCH_VALUES = 1 << 26


@dataclass(frozen=True)
class Task:
    """Scan the rows of `span` for the queries in `query`, [b]."""

    span: Span
    query: Int64[Tensor, "b"]


def batch_slices(batch: int, dim: int) -> Sequence[slice]:
    """Return the slices of a batch that are scanned one after the other."""
    size = max(1, min(MAX_BATCH, MAX_BATCH_VALUES // dim))
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def scan_tasks(
    labels: Int64[Tensor, "B U"] | None, segments: Mapping[int, Span], count: int, query: Int64[Tensor, "B"]
) -> list[Task]:
    """Return what to scan for the queries in `query`: all `count` rows without labels, else the rows of their classes.

    Queries with labels of -1 only count as being without; a class is scanned once for all queries that use it.
    """
    everything = Span(0, count)
    if labels is None:
        return [Task(everything, query)]
    free = (labels < 0).all(1)
    tasks = [Task(everything, query[free])] if bool(free.any()) else []
    classes = labels[labels >= 0].unique().tolist()
    return tasks + [Task(segments[name], query[(labels == name).any(1)]) for name in classes]


def class_ranges(labels: Int64[Tensor, "B U"], sorted_labels: Int64[Tensor, "N"]) -> Int64[Tensor, "B U 2"]:
    """Return the row ranges of the classes of every query, in rising order; empty for -1 and for repeated classes."""
    names = labels.sort(dim=1).values
    start = torch.searchsorted(sorted_labels, names)
    stop = torch.searchsorted(sorted_labels, names, right=True)
    again = torch.zeros_like(names, dtype=torch.bool)
    again[:, 1:] = names[:, 1:] == names[:, :-1]
    return torch.stack([torch.where(again, stop, start), stop], dim=2)


def rows_between(ranges: Int64[Tensor, "B U 2"], count: int) -> Int64[Tensor, "B V 2"]:
    """Return the ranges of the `count` rows that lie before, between and behind `ranges`; none where all are empty."""
    ends = torch.nn.functional.pad(ranges.reshape(len(ranges), -1), (1, 1))
    ends[:, -1].fill_(count)
    named = (ranges[:, :, 1] > ranges[:, :, 0]).any(1)
    return ends.reshape(len(ranges), -1, 2) * named[:, None, None]


@dataclass(frozen=True)
class Level:
    """From which t a search tries its level of `width` coordinates; None for never.

    unknown: for any query; source: where the sample it was made from is known; trajectory: along a deterministic run.
    """

    width: int
    unknown: float | None
    source: float | None
    trajectory: float | None

    def __str__(self) -> str:
        times = [("", self.unknown), (" with source", self.source), (" on a trajectory", self.trajectory)]
        words = [f"{'never' if t is None else f't >= {t:.3g}'}{what}" for what, t in times]
        return f"{self.width:,} coordinates: {', '.join(words)}"


@dataclass(frozen=True)
class Outlook:
    """Which routes an engine can take.

    routes: by the names of `oracle_engine.answer.Route`, in the order they are tried. words: what follows from that.
    levels: of the screen, where there is one. untouched: the t from which on half of the training queries that know
        their source need no data at all, or None.
    """

    routes: tuple[str, ...]
    words: str
    levels: tuple[Level, ...] = ()
    untouched: float | None = None

    def __str__(self) -> str:
        known = [] if self.untouched is None else [f"half of the known sources need no data: t >= {self.untouched:.3g}"]
        return "\n".join([self.words, *(f"{'':<10}{line}" for line in [*map(str, self.levels), *known])])


@dataclass(frozen=True)
class Plan:
    """What a query of `batch` points without labels will do; costs are those of the exact route.

    backend: the implementation; reason: why, in words. route: the ways it can take, as they are tried; late: when.
    memory: bytes beyond the data. operations: of the matrix products, at most. read: bytes of data.
    seconds: expected at most, when every block carries weight, at a matrix product rate measured just now.
    """

    data: str
    batch: int
    backend: str
    route: str
    reason: str
    late: Outlook
    memory: int
    operations: int
    read: int
    seconds: float

    def __str__(self) -> str:
        lines = {
            "data": self.data,
            "batch": f"{self.batch}",
            "backend": self.backend,
            "route": self.route,
            "reason": self.reason,
            "late": f"{self.late}",
            "memory": f"{self.memory / 2**20:,.1f} MiB beyond the data",
            "cost": f"at most {self.operations / 1e9:,.2f} GFLOP, {self.read / 2**20:,.1f} MiB read",
            "expected": f"at most {self.seconds * 1e3:,.1f} ms, from a matrix product timed now",
        }
        return "\n".join(f"{name:<9} {text}" for name, text in lines.items())


def product_rate(device: torch.device, batch: int, dim: int) -> float:
    """Return operations per second of a float32 product of this shape, the best of a few runs of milliseconds."""
    rows = torch.ones(512, dim, device=device)
    queries = torch.ones(dim, max(1, min(batch, MAX_BATCH)), device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (rows @ queries)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows.numel() * queries.shape[1] / best
