"""Samples that come one by one, from an iterable or an object that is indexed."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index, length_hint
from typing import Any

from ..base.arrays import Tensor
from ..base.errors import invalid
from .samples import Samples, problem, samples_of, tensor_of


def read_iterable(source: Any) -> Samples:
    """Return the samples of a finite iterable of `x` or `(x, label)`, each item one sample, copied into one tensor.

    source: an iterable, or an object with a length that is indexed from 0, as data sets of torch are. x is a tensor or
        a NumPy array [*shape] of a storage dtype, label an integer.

    Raises InputError for an empty source and for the first item whose shape, dtype or label differs from item 0.
    """
    points: Tensor | None = None
    labels: list[int | None] = []
    items = source if isinstance(source, Iterable) else (source[number] for number in range(len(source)))
    hint = length_hint(source)
    for number, item in enumerate(items):
        value, label = _sample_and_label(item, f"source[{number}]")
        points = _room_for(value, points, number, hint)
        points[number] = value
        labels.append(label)
        if (label is None) != (labels[0] is None):
            found = f"{'no label' if label is None else 'a label'} in item {number}, unlike item 0"
            raise invalid("source", "must give a label with every item or with none", found, "give all of them")
    if points is None:
        raise invalid("source", "must give at least one sample", "none", "check that it is not used up already")
    return samples_of(points[: len(labels)], None if labels[0] is None else labels, "source")


def _sample_and_label(item: Any, where: str) -> tuple[Tensor, int | None]:
    sample, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
    value = tensor_of(sample, where)
    if label is None:
        return value, None
    try:
        return value, index(label)
    except TypeError as error:
        found = f"a label of type {type(label).__name__}"
        raise problem(where, "x or (x, integer label), one sample an item", found, "do not batch the items") from error


def _room_for(value: Tensor, points: Tensor | None, number: int, hint: int) -> Tensor:
    """Return a tensor with room for sample `number`, the samples before it in place."""
    if points is None:
        return value.new_empty(max(hint, 64), *value.shape)
    if (value.shape, value.dtype) != (points.shape[1:], points.dtype):
        wanted = f"samples of shape {list(points.shape[1:])} and {points.dtype}, as in item 0"
        found = f"{list(value.shape)} and {value.dtype}"
        raise problem(f"source[{number}]", wanted, found, "give every sample one shape and dtype, unbatched")
    if number < len(points):
        return points
    # doubling; pages that stay empty cost no memory
    grown = points.new_empty(2 * number, *value.shape)
    grown[:number] = points
    return grown
