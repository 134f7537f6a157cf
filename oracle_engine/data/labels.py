"""Labels of samples: checked, copied, and sorted so that a class is one range of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..base.arrays import Int64, Tensor, integers, on_device
from ..base.errors import InputError, invalid
from ..kernels import Span
from .samples import NO_CLASS

# classes with numbers below this have an entry each in a table
TABLE_CLASSES = 1 << 16


def checked_labels(labels: Any, count: int, device: torch.device) -> Int64[Tensor, "N"] | None:
    """Return labels as int64 on `device`, [N], a copy; None for None.

    labels: [N] integers from -1, which stands for no class, as a tensor, an array or a sequence. count: N.
    device: of the samples.
    Raises InputError for other shapes and dtypes, one-hot rows among them, and for labels below -1.
    """
    if labels is None:
        return None
    given = on_device(labels, device, "labels").detach()
    if given.shape != (count,):
        rows = given.ndim == 2 and len(given) == count and given.shape[1] > 1
        remedy = "pass the classes of one-hot rows, labels.argmax(1)" if rows else "check their order and number"
        raise invalid("labels", f"must have shape [{count}], one for each sample", list(given.shape), remedy)
    held = integers("labels", given, device, "pass labels.long()").clone()
    check_classes(held)
    return held


def check_classes(labels: Int64[Tensor, "N"]) -> None:
    """Raise InputError where one of `labels`, [N] int64, is below -1, the label of samples without a class."""
    below = (labels < NO_CLASS).nonzero()[:, 0]
    if len(below):
        first = int(below[0])
        raise misnumbered(f"{int(labels[first])} for sample {first}")


def misnumbered(found: str) -> InputError:
    """Return the error about labels below -1, which the caller raises; `found` says which was received."""
    remedy = (
        "number the classes from 0, as labels.unique(return_inverse=True)[1] does, and set the labels of samples "
        "without a class to -1"
    )
    return invalid("labels", "must be at least 0, or -1 for a sample without a class", found, remedy)


def by_label(labels: Int64[Tensor, "N"] | None) -> tuple[Int64[Tensor, "N"] | None, Int64[Tensor, "N"] | None]:
    """Return the order that sorts `labels`, [N], samples without a class first, and the sorted labels.

    Both are [N] int64; the order is None where they are sorted, and both are None without labels.
    """
    if labels is None or not bool((labels[1:] < labels[:-1]).any()):
        return None, labels
    ordered, order = labels.sort(stable=True)
    return order, ordered


def class_spans(sorted_labels: Int64[Tensor, "N"] | None) -> Mapping[int, Span]:
    """Return the rows of each class by its label, from `sorted_labels`, [N]; samples without a class are in none."""
    if sorted_labels is None:
        return {}
    names, counts = sorted_labels.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    spans = zip(names.tolist(), starts, ends, strict=True)
    return {int(name): Span(start, end) for name, start, end in spans if name != NO_CLASS}


def class_table(segments: Mapping[int, Span], count: int, device: torch.device) -> Int64[Tensor, "K 2"] | None:
    """Return the rows [start, stop) of each class at the place of its number, or None where numbers are large.

    segments: the rows of each class. count: of all rows. device: of the table, [K + 2, 2] with the largest class K - 1.
    Behind the classes come no rows, for any other number, and all rows, for -1.
    """
    classes = 1 + max(segments, default=0)
    if classes > TABLE_CLASSES:
        return None
    spans = {**segments, classes + 1: Span(0, count)}
    nothing = Span(0, 0)
    rows = [(span.start, span.stop) for span in (spans.get(name, nothing) for name in range(classes + 2))]
    return torch.tensor(rows, device=device)
