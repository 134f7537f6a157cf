"""Which rows are scanned for which queries of a batch: slices of the batch, and the rows of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor
from ..kernels import Span, outside

# queries scanned together: their logits and sums stay small beside a block of rows
MAX_BATCH = 1024
MAX_BATCH_VALUES = 1 << 26

# classes of a union up to which none is looked for that names fewer: pairs of no row cost little
FEW_CLASSES = 8


@dataclass(frozen=True)
class Task:
    """A scan of the rows of `span` for the queries with the numbers `query`, [b], of a batch."""

    span: Span
    query: Int64[Tensor, "b"]


def batch_slices(batch: int, dim: int, most: int | None = None) -> Sequence[slice]:
    """Return the slices of a batch that are scanned one after the other; none of an empty one.

    batch: number of queries. dim: values of a sample. most: queries of a slice at most; None for MAX_BATCH, fewer where
    their values would take more than half a gigabyte.
    """
    size = scanned_together(dim, most)
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def scanned_together(dim: int, most: int | None = None) -> int:
    """Return how many queries are scanned together at most; dim, most: as in :func:`batch_slices`."""
    return max(1, min(most or MAX_BATCH, MAX_BATCH_VALUES // dim))


def scan_tasks(
    labels: Int64[Tensor, "B U"] | None, segments: Mapping[int, Span], count: int, query: Int64[Tensor, "B"]
) -> list[Task]:
    """Return what to scan for the queries with the numbers `query`, [B]: each class once for all queries that use it.

    labels: classes of each query, [B, U], -1 for none; a query with nothing but -1 is unconditional and scans all
    `count` rows, as all do where labels is None. segments: the rows of each class; one that has none is left out.
    """
    everything = Span(0, count)
    if labels is None:
        return [Task(everything, query)]
    unconditional = (labels < 0).all(1)
    tasks = [Task(everything, query[unconditional])] if bool(unconditional.any()) else []
    classes = labels[labels >= 0].unique().tolist()
    return tasks + [Task(segments[name], query[(labels == name).any(1)]) for name in classes if name in segments]


def class_ranges(labels: Int64[Tensor, "B U"], sorted_labels: Int64[Tensor, "N"]) -> Int64[Tensor, "B U 2"]:
    """Return the row ranges of the classes of every query, [B, U, 2], in rising order.

    labels: classes of each query, -1 for none. sorted_labels: those of the rows, -1 for none, which are in no class.
    Empty for -1 and for repeated classes.
    """
    names = labels.contiguous() if labels.shape[1] == 1 else labels.sort(dim=1).values
    start = torch.searchsorted(sorted_labels, names)
    stop = torch.searchsorted(sorted_labels, names, right=True)
    empty = names < 0
    empty[:, 1:] |= names[:, 1:] == names[:, :-1]
    return torch.stack([torch.where(empty, stop, start), stop], dim=2)


def range_sums(
    values: Float64[Tensor, "N"], ranges: Int64[Tensor, "B U 2"], sorted_labels: Int64[Tensor, "N"]
) -> Float64[Tensor, "B U"]:
    """Return the sums of `values` over the classes in `ranges`, [B, U]; zero for empty ones.

    values: of the rows. ranges: as :func:`class_ranges` has them. sorted_labels: those of the rows.
    """
    _, name, counts = torch.unique_consecutive(sorted_labels, return_inverse=True, return_counts=True)
    # each class by itself: differences of running sums would lose the small ones
    sums = torch.segment_reduce(values, "sum", lengths=counts)
    start, stop = ranges.unbind(2)
    return torch.where(stop > start, sums[name[start.clamp_max(len(name) - 1)]], 0.0)


def used_ranges(labels: Int64[Tensor, "B U"], sorted_labels: Int64[Tensor, "N"]) -> Int64[Tensor, "B U 2"]:
    """Return the row ranges that every query uses, [B, U, 2]: those of its classes, or all rows.

    labels: classes of each query, -1 for none; a query with nothing but -1 is unconditional. sorted_labels: those of
    the rows. Empty ranges as in :func:`class_ranges`.
    """
    ranges = class_ranges(labels, sorted_labels)
    free = ~with_class(labels)
    # in rising order too
    ranges.masked_fill_(free[:, None, None], 0)
    ranges[:, -1, 1].masked_fill_(free, len(sorted_labels))
    return ranges


def with_class(labels: Int64[Tensor, "B U"]) -> Bool[Tensor, "B"]:
    """Return which queries name a class, [B]; labels: classes of each query, -1 for none."""
    return labels[:, 0] >= 0 if labels.shape[1] == 1 else (labels >= 0).any(1)


def table_ranges(labels: Int64[Tensor, "B U"], table: Int64[Tensor, "K 2"]) -> Int64[Tensor, "B U 2"]:
    """Return what :func:`used_ranges` does from the rows of each class, [K, 2].

    labels: as :func:`~oracle_engine.queries.labels.resolve_labels` returns them, no class twice. table: as
    :func:`~oracle_engine.data.labels.class_table` returns it.
    """
    # in rising order, so that the last is -1 where no class is named
    nothing = len(table) - 2
    names = (labels.flip(1) if labels.shape[1] > 1 else labels).clamp(-1, nothing)
    # only the last stands for all rows where it is -1
    names[:, :-1].remainder_(nothing + 1)
    ranges: Int64[Tensor, "B U 2"] = table[names]
    return ranges


def class_pairs(ranges: Int64[Tensor, "B U 2"]) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P 2"]]:
    """Return the pairs of a query, [P], and some rows that it uses, [P, 2].

    ranges: the rows of each query, as :func:`used_ranges` has them. The host waits to learn how many pairs there are.
    """
    query, column = (ranges[:, :, 1] > ranges[:, :, 0]).nonzero().unbind(1)
    return query, ranges[query, column]


def rows_between(ranges: Int64[Tensor, "B U 2"], count: int) -> Int64[Tensor, "B V 2"]:
    """Return the ranges of rows before, between and behind `ranges`, [B, U + 1, 2]; none where all are empty.

    count: of all rows.
    """
    named = (ranges[:, :, 1] > ranges[:, :, 0]).any(1)
    return outside(ranges, count) * named[:, None, None]
