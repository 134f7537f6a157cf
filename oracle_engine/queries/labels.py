"""How the labels of queries are read: as classes, as unions of classes, or as one-hot rows; or refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ..base.arrays import Bool, Int64, Shaped, Tensor, integers, on_device
from ..base.calls.checked import check
from ..base.calls.cuda_graphs import capturing
from ..base.calls.early import EarlyNumber
from ..base.errors import InputError, invalid
from .classes import FEW_CLASSES


def resolve_labels(
    labels: Any, batch: int, segments: Collection[int], device: torch.device
) -> Int64[Tensor, "B U"] | None:
    """Return the classes that each query may use, [B, U] int64, different classes in falling order and -1 behind them.

    labels: None; one integer, or one for each query, [B]; unions, [B, U] integers that name U different classes, or
        fewer and -1; or one-hot rows, [B, K] of any dtype, in which column k stands for class k, K > 1, and K - 1 is
        the largest class of the data. -1, and a row of nothing but -1, stands for no class. A tensor, an array or a
        sequence.
    batch: B. segments: the classes of the data. device: of the queries.

    U is that of the labels, or the size of the largest union where they have more than FEW_CLASSES columns, and one
    more where that is K; of data without classes, which only -1 may be asked of, all queries use everything, which is
    None. Two columns of integers 0 and 1 may be one-hot rows or unions of both classes, and are refused. Raises
    InputError for these, for rows that are neither (soft labels, unions that name a class twice), for other shapes and
    dtypes, for classes that the data lack, and for data without classes.
    The host reads values of rows as wide as one-hot rows, early the size of the largest union where they have more than
    FEW_CLASSES columns, and checks as :func:`.checked.check` does; while a CUDA graph is captured it
    reads none, and rows as wide as one-hot rows are refused.
    """
    if labels is None:
        return None
    given = on_device(labels, device, "labels").detach()
    if given.ndim == 0:
        given = given.expand(batch)
    if not segments and (capturing() or not bool((given == -1).all())):
        remedy = "pass labels= to OracleDataset, or -1 for no class"
        raise invalid("labels", "need labelled data", "a data set without labels", remedy)
    if given.ndim > 2 or len(given) != batch:
        wanted = f"must be one number, [{batch}] or [{batch}, U]"
        raise invalid("labels", wanted, list(given.shape), "pass one row a query")
    if not segments:
        return None
    width = 1 + max(segments)
    classes = _from_rows(given, width) if given.ndim == 2 and given.shape[1] > 1 else _from_numbers(given, width)
    largest = _largest(classes)
    _check_known(classes, segments)
    return _narrow(classes, classes.shape[1] if largest is None else max(1, largest.read()), width)


def one_hot_classes(rows: Shaped[Tensor, "B K"], *, zeros: bool = False) -> Int64[Tensor, "B"] | None:
    """Return the class of each one-hot row, [B] int64, or None where some row is not one-hot.

    rows: [B, K] of any real dtype; a row of nothing but -1 stands for no class and gives -1. zeros: whether a row of
    zeros does so too. The host reads one value.
    """
    # unsigned numbers would take -1 for the largest of them
    values = rows.double() if rows.is_floating_point() else rows.long()
    ones = values == 1
    hot = (ones | (values == 0)).all(1) & (ones.sum(1) == 1)
    free = (values == -1).all(1)
    if zeros:
        free = free | (values == 0).all(1)
    if not bool((hot | free).all()):
        return None
    return torch.where(hot, ones.long().argmax(1), -1) if rows.shape[1] else rows.new_full((len(rows),), -1).long()


def check_null_label(null_label: int | None, segments: Collection[int]) -> None:
    """Check that `null_label`, the number a network takes for no class, is no class of the data.

    segments: the classes. Raises InputError for a class: asked for it, an answer would be unconditional.
    """
    if null_label in segments:
        remedy = "pass the number of classes, or -1 where none is used"
        raise invalid("null_label", "must be no class of the data", null_label, remedy)


def whole_labels(labels: Any, device: torch.device) -> Int64[Tensor, "..."]:
    """Return labels as int64 on `device`, in their shape: integers, or one-hot rows of any dtype.

    labels: classes of any data set, [], [B] or [B, U], a tensor, an array or a sequence. device: of the result.
    Raises InputError for other dtypes, soft labels among them; the host reads whether rows are one-hot.
    """
    given = on_device(labels, device, "labels").detach()
    counted = given.dtype != torch.bool and not given.is_floating_point()
    if given.ndim == 2 and not counted and one_hot_classes(given) is not None:
        return given.long()
    return integers("labels", given, device, "pass labels.argmax(1), or labels.long() of class numbers")


def _from_numbers(given: Tensor, width: int) -> Int64[Tensor, "B 1"]:
    """Return labels of one number a query, as unions of one class."""
    if given.ndim == 2 and (given.is_floating_point() or given.dtype == torch.bool):
        raise _neither(given, width)
    numbers = integers("labels", given, given.device, "pass labels.long()")
    # a union of no classes is no class
    return numbers.reshape(len(given), 1) if numbers.numel() == len(given) else numbers.new_full((len(given), 1), -1)


def _from_rows(given: Tensor, width: int) -> Int64[Tensor, "B U"]:
    """Return what rows of two or more columns stand for: one-hot rows or unions."""
    counted = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.shape[1] == width and not given.is_complex():
        if capturing():
            found, remedy = f"{list(given.shape)}, which may be one-hot rows", "pass [B], or unions of another width"
            raise invalid("labels", "must be read without their values while a CUDA graph is captured", found, remedy)
        classes = one_hot_classes(given)
        if classes is not None:
            if counted and width == 2 and bool((classes >= 0).any()):
                remedy = "pass labels.argmax(1) for one-hot rows, or unions with a third column of -1"
                raise invalid("labels", "must have one meaning", "integers 0 and 1 in two columns", remedy)
            return classes[:, None]
    if not counted:
        raise _neither(given, width)
    return _union(integers("labels", given, given.device, "pass labels.long()"), width)


def _union(classes: Int64[Tensor, "B U"], width: int) -> Int64[Tensor, "B U"]:
    """Return unions in falling order; classes that are named twice are refused."""
    named: Int64[Tensor, "B U"] = classes.sort(dim=1, descending=True).values
    first, second = named[:, :-1], named[:, 1:]
    # below -1 no number is a class, which is checked as well
    check(lambda: second < first.clamp_min(0), lambda: _repeated(named, width))
    return named


def _repeated(named: Int64[Tensor, "B U"], width: int) -> InputError:
    again = (named[:, 1:] == named[:, :-1]) & (named[:, 1:] != -1)
    query, place = again.nonzero()[0].tolist()
    found = f"class {int(named[query, place])} twice in query {query}"
    remedy = f"pad unions with -1; one-hot rows have {width} columns here, or pass labels.argmax(1)"
    return invalid("labels", "must name each class of a union once", found, remedy)


def _largest(classes: Int64[Tensor, "B U"]) -> EarlyNumber | None:
    """Return how many classes the largest of many-columned unions names, or None where columns are few or fixed."""
    if classes.shape[1] <= FEW_CLASSES or len(classes) == 0 or capturing():
        return None
    return EarlyNumber((classes >= 0).sum(1).max()[None])


def _narrow(classes: Int64[Tensor, "B U"], most: int, width: int) -> Int64[Tensor, "B V"]:
    """Return unions of at most so many classes, without further columns, and not as wide as `width`."""
    # read once more, unions as wide as one-hot rows would be taken for these
    spare = classes.new_full((len(classes), int(most == width > 1)), -1)
    return torch.cat([classes[:, :most], spare], dim=1) if spare.shape[1] else classes[:, :most]


def _check_known(classes: Int64[Tensor, "B U"], segments: Collection[int]) -> None:
    """Raise InputError for a class without samples."""

    def known() -> Bool[Tensor, "B U"]:
        first, last = min(segments), max(segments)
        if first > 0 or len(segments) <= last - first:
            # some numbers between are no class
            return torch.isin(classes, torch.tensor([-1, *segments], device=classes.device))
        return classes == classes.clamp(-1, last)

    check(known, lambda: _unknown(classes[~known()], segments))


def _unknown(classes: Int64[Tensor, "n"], segments: Collection[int]) -> InputError:
    known = f"{min(segments)} .. {max(segments)} ({len(segments)} classes)"
    remedy = "list them with data.segments; a number that stands for no class is null_label= of losses and adapters"
    return invalid("labels", f"must be classes of the data, {known}, or -1", int(classes.min()), remedy)


def _neither(given: Tensor, width: int) -> InputError:
    """Return the error about floats that are neither class numbers nor one-hot rows."""
    wanted = f"must be integers, or one-hot rows of {width} columns, one for each class from 0"
    if width == 1:
        wanted = "must be integers: two or more classes have one-hot rows"
    found = f"{given.dtype} {list(given.shape)} with other rows"
    return invalid("labels", wanted, found, "pass labels.argmax(1), or labels.long() of class numbers")
