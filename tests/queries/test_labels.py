"""Labels of queries have one meaning, or are refused with the way to say it clearly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from closed_form import normal
from hypothesis import assume, given
from hypothesis import strategies as st
from recording import begin_capture
from refusals import refused
from tolerances import assert_close, assert_rows_close
from torch import Tensor
from torch.nn.functional import one_hot

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.kernels import Span
from oracle_engine.paths.paths import resolve_path
from oracle_engine.queries.builder import RequestBuilder
from oracle_engine.queries.classes import rows_between
from oracle_engine.queries.conditions import Conditions
from oracle_engine.queries.labels import resolve_labels

CPU = torch.device("cpu")
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Rows = list[list[float]]


def read(labels: Any, *classes: int) -> list[list[int]]:
    """Return the classes that `labels` name, for data with these classes."""
    batch = len(labels) if hasattr(labels, "__len__") else 2
    found = resolve_labels(labels, batch, {name: Span(name, name + 1) for name in classes}, CPU)
    assert found is not None
    assert found.dtype == torch.int64
    return found.tolist()


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, torch.bool])
def test_one_hot_rows_of_any_dtype_name_the_class_of_their_column(dtype: torch.dtype) -> None:
    assert read(one_hot(torch.tensor([3, 0, 1]), 4).to(dtype), 0, 1, 2, 3) == [[3], [0], [1]]
    # columns count the classes from 0, also where the data lack some
    assert read(one_hot(torch.tensor([3, 0, 3]), 4).to(dtype), 0, 3) == [[3], [0], [3]]
    with refused("`labels` must be classes of the data, .*received 1"):
        read(one_hot(torch.tensor([1, 0]), 4).to(dtype), 0, 3)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.bool])
def test_two_columns_are_one_hot_rows_where_no_union_has_their_dtype(dtype: torch.dtype) -> None:
    assert read(torch.tensor([[0, 1], [1, 0]]).to(dtype), 0, 1) == [[1], [0]]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_two_columns_of_integers_have_two_meanings(dtype: torch.dtype) -> None:
    with refused(r"`labels` must have one meaning; received integers 0 and 1 in two columns. Remedy: .*argmax\(1\)"):
        read(torch.tensor([[0, 1], [1, 0]]).to(dtype), 0, 1)
    # both remedies
    assert read(torch.tensor([[0, 1], [1, 0]]).argmax(1).to(dtype), 0, 1) == [[1], [0]]
    if dtype.is_signed:
        assert read(torch.tensor([[0, 1, -1], [1, 0, -1]]).to(dtype), 0, 1) == [[1, 0, -1], [1, 0, -1]]
        # one of the rows can only be part of a batch of unions
        assert read(torch.tensor([[0, 1], [1, -1]]).to(dtype), 0, 1) == [[1, 0, -1], [1, -1, -1]]


def test_hidden_labels_stay_hidden_among_one_hot_rows() -> None:
    rows = one_hot(torch.tensor([2, 0, 1]), 3)
    rows[1] = -1
    for labels in (rows, rows.float(), rows.numpy(), rows.tolist()):
        assert read(labels, 0, 1, 2) == [[2], [-1], [1]]
    assert read(torch.full((2, 2), -1), 0, 1) == [[-1], [-1]]


def test_unions_name_their_classes_in_any_order_with_any_padding() -> None:
    assert read(torch.tensor([[2, -1, 0, -1], [-1, -1, 1, -1]]), 0, 1, 2) == [[2, 0, -1, -1], [1, -1, -1, -1]]
    assert read([[2, 0], [1, -1]], 0, 1, 2) == [[2, 0], [1, -1]]
    assert read([[-1, -1], [-1, -1]], 0, 1, 2) == [[-1, -1], [-1, -1]]
    # columns that no union needs are left out where there are many
    wide = torch.full((2, 12), -1)
    assert read(wide, 0, 1, 2) == [[-1], [-1]]
    wide[0, [3, 7]], wide[1, 5] = torch.tensor([0, 1]), 3
    assert read(wide, 0, 1, 3) == [[1, 0], [3, -1]]
    # but for one, where unions would be as wide as one-hot rows
    wide[0, 4] = 2
    assert read(wide, 0, 1, 2, 3) == [[2, 1, 0], [3, -1, -1]]
    assert read(wide.where(wide < 3, -1), 0, 1, 2) == [[2, 1, 0, -1], [-1, -1, -1, -1]]
    assert read(torch.zeros(2, 0, dtype=torch.int64), 0, 1, 2) == [[-1], [-1]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1, 1, -1], [0, -1, -1]]), "must name each class of a union once; received class 1 twice"),
        (torch.tensor([[0, 1], [2, 2]]), "must name each class of a union once; received class 2 twice in query 1"),
        # one-hot rows that were made without the number of classes
        (one_hot(torch.tensor([1, 2])), r"must name each class .*class 0 twice in query 0. Remedy: .*have 4 columns"),
        (one_hot(torch.tensor([1, 2]), 5), "must name each class of a union once"),
        (torch.tensor([[0.9, 0.1, 0.0, 0.0]] * 2), r"must be integers, or one-hot rows of 4 columns.*argmax\(1\)"),
        (torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 2), "must be integers, or one-hot rows"),
        (torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 2), "must be integers, or one-hot rows"),
        (torch.tensor([[float("nan")] * 4] * 2), "must be integers, or one-hot rows"),
        (torch.zeros(2, 4), "must be integers, or one-hot rows"),
        (torch.zeros(2, 4, dtype=torch.bool), "must be integers, or one-hot rows"),
        (torch.tensor([[1.0, 0.0, 0.0]] * 2), "must be integers, or one-hot rows of 4 columns"),
        (torch.tensor([[1.0], [2.0]]), "must be integers, or one-hot rows of 4 columns"),
        (torch.tensor([[1, 0, 0, 0]] * 2, dtype=torch.complex64), "must be integers, or one-hot rows"),
        (torch.tensor([1.0, 2.0]), r"must be integers; received torch.float32. Remedy: pass labels.long\(\)"),
        (torch.tensor([1 + 0j, 2]), "must be integers; received torch.complex64"),
        (torch.tensor([255, 0], dtype=torch.uint8), "must be classes of the data, .*received 255"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), r"must be integers below 2\^63"),
        ([-5, 0], "must be classes of the data, .*received -5"),
        ([[-5, 0], [1, 2]], "must be classes of the data, .*received -5"),
        ([[0, -5, *[-1] * 9], [*[-1] * 11]], "must be classes of the data, .*received -5"),
        ([[-5, -5], [1, 2]], "must be classes of the data, .*received -5"),
        ([[0, 1], [2]], "must be a number, a tensor, an array or a list of numbers; received list"),
        (["cat", "dog"], "must be a number, a tensor, an array or a list of numbers; received list"),
        ([None, 1], "must be a number, a tensor, an array or a list of numbers; received list"),
        ({"a": 1, "b": 2}, "must be a number, a tensor, an array or a list of numbers; received dict"),
        ([[0, 1, 2]], r"must be one number, \[2\] or \[2, U\]; received \[1, 3\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_has_no_meaning_is_refused_with_the_remedy(labels: Any, message: str) -> None:
    engine = OracleEngine(OracleDataset(torch.eye(4), torch.arange(4)))
    for method in (engine.velocity, engine.log_density, engine.posterior):
        with refused(f"`labels` {message}"):
            method(torch.zeros(2, 4), 0.5, labels=labels)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_rows_as_wide_as_one_hot_rows_are_refused_while_a_graph_is_captured(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_capture(monkeypatch)
    with refused(r"`labels` must be read without their values .*Remedy: pass \[B\], or unions of another width"):
        read(one_hot(torch.tensor([3, 0, 1]), 4).to(dtype), 0, 1, 2, 3)
    assert read(torch.tensor([[3, 1], [0, -1]]), 0, 1, 2, 3) == [[3, 1], [0, -1]]


def test_a_class_that_is_named_twice_in_a_graph_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    data = OracleDataset(normal(20, 3, generator), torch.arange(20) % 5)
    begin_capture(monkeypatch)
    builder = RequestBuilder(data, resolve_path("rectified_flow"), 0.0, None)
    request = builder.request(normal(2, 3, generator), 0.5, Conditions(torch.tensor([[3, 0, 3], [2, 2, -1]])))
    between = rows_between(request.ranges(data), len(data)).tolist()
    # the rows of classes 0 and 3, and those of class 2
    assert [[span for span in spans if span[0] < span[1]] for spans in between] == [
        [[4, 12], [16, 20]],
        [[0, 8], [12, 20]],
    ]


def meaning(rows: Rows, whole: bool, classes: set[int]) -> list[set[int]] | None:
    """Return the classes of every row, none for no class, or None for what has to be refused: said again, simply."""
    width, wide = 1 + max(classes), len(rows[0]) > 1
    free = [all(value == -1 for value in row) for row in rows]
    hot = [len(row) == width and sorted(row) == [0] * (width - 1) + [1] for row in rows]
    if wide and len(rows[0]) == width and all(a or b for a, b in zip(free, hot, strict=True)):
        if whole and width == 2 and any(hot):
            return None
        named = [{row.index(1)} if one else set[int]() for row, one in zip(rows, hot, strict=True)]
    elif not whole:
        return None
    else:
        listed = [[int(value) for value in row if value != -1] for row in rows]
        if any(len(set(row)) < len(row) for row in listed):
            return None
        named = [set(row) for row in listed]
    return named if all(row <= classes for row in named) else None


@st.composite
def label_rows(draw: st.DrawFn, classes: list[int]) -> tuple[Rows, torch.dtype]:
    """Draw labels of three queries: unions, one-hot rows, soft labels and anything else, in some dtype."""
    width = 1 + max(classes)
    kind = draw(st.sampled_from(["union", "one-hot", "numbers", "soft"]))
    row: st.SearchStrategy[Any]
    if kind == "union":
        size = draw(st.integers(1, 4))
        row = st.lists(st.sampled_from([-1, *classes]), min_size=size, max_size=size)
    elif kind == "one-hot":
        size = draw(st.sampled_from([width, width, width, width + 1, max(1, width - 1)]))
        row = st.sampled_from([[int(place == k) for place in range(size)] for k in range(size)] + [[-1] * size])
    elif kind == "numbers":
        size = draw(st.integers(1, 4))
        row = st.lists(st.integers(-3, 5), min_size=size, max_size=size)
    else:
        row = st.lists(st.sampled_from([0.0, 1.0, 0.5, 0.25]), min_size=width, max_size=width)
    rows = draw(st.lists(row, min_size=3, max_size=3))
    dtypes = FLOATS if kind == "soft" else (*INTEGERS, *FLOATS, torch.bool)
    dtype = draw(st.sampled_from(dtypes))
    # numbers that the dtype cannot hold would be others
    assume(all(value in (0, 1) for line in rows for value in line) or dtype != torch.bool)
    assume(all(value >= 0 for line in rows for value in line) or dtype != torch.uint8)
    return rows, dtype


@st.composite
def label_problems(draw: st.DrawFn) -> tuple[list[int], Rows, torch.dtype, str]:
    """Draw labels of twelve samples, some without a class, and labels of three queries in some container."""
    names = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
    own = names + draw(st.lists(st.sampled_from([-1, *names]), min_size=12 - len(names), max_size=12 - len(names)))
    rows, dtype = draw(label_rows(sorted(names)))
    container = draw(st.sampled_from(["tensor", "array", "big-endian", "list", "strided"]))
    return draw(st.permutations(own)), rows, dtype, container


def contained(rows: Rows, dtype: torch.dtype, container: str) -> Any:
    held = torch.tensor(rows, dtype=torch.float64).to(dtype)
    if container == "strided":
        return torch.stack([held, held], -1)[..., 0]
    if container == "tensor" or dtype == torch.bfloat16:
        return held
    if container == "list":
        return held.tolist()
    array = held.numpy()
    return array if container == "array" else array.astype(array.dtype.newbyteorder(">"))


def direct(points: Tensor, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return velocity, log density and ESS of one query x [D] over `points` [n, D], by direct difference in float64."""
    square = (x - t * points).square().sum(1)
    logits = -0.5 * square / (1 - t) ** 2
    weights = logits.softmax(0)
    mean = weights @ points
    normal_part = 0.5 * points.shape[1] * torch.tensor(2 * torch.pi * (1 - t) ** 2, dtype=torch.float64).log()
    density = logits.logsumexp(0) - torch.tensor(float(len(points)), dtype=torch.float64).log() - normal_part
    return mean - (x - t * mean) / (1 - t), density, 1 / weights.square().sum()


@pytest.mark.usefixtures("unchecked")
@given(label_problems(), st.sampled_from([0.1, 0.5, 0.8]))
def test_labels_choose_the_samples_that_they_name_or_are_refused(
    problem: tuple[list[int], Rows, torch.dtype, str], t: float
) -> None:
    own, rows, dtype, container = problem
    generator = torch.Generator().manual_seed(len(rows[0]))
    points, x = normal(12, 3, generator), normal(3, 3, generator)
    engine = OracleEngine(OracleDataset(points, torch.tensor(own)))
    labels = contained(rows, dtype, container)
    wanted = meaning(rows, not dtype.is_floating_point and dtype != torch.bool, set(own) - {-1})
    if wanted is None:
        for method in (engine.velocity, engine.log_density, engine.posterior, engine.trajectory):
            with refused("`labels` "):
                method(x, t, labels=labels)
        return
    once = resolve_labels(labels, 3, engine.data.segments, CPU)
    again = resolve_labels(once, 3, engine.data.segments, CPU)
    assert once is not None
    assert again is not None
    assert torch.equal(once, again)
    velocity, posterior = engine.velocity(x, t, labels=labels), engine.posterior(x, t, labels=labels)
    for query, names in enumerate(wanted):
        chosen = torch.tensor([not names or name in names for name in own])
        v, density, ess = direct(points[chosen], x[query], t)
        assert_rows_close(velocity[query, None], v[None], "bar")
        assert_close(posterior.log_density[query], density, "moment")
        assert_close(posterior.ess[query], ess, "moment")
        assert int(posterior.survivors[query]) == int(chosen.sum())
        assert set(posterior.top_indices[query].tolist()) <= {-1, *chosen.nonzero()[:, 0].tolist()}


@pytest.mark.usefixtures("unchecked")
@given(st.lists(st.integers(-130, 300), min_size=6, max_size=6), st.sampled_from(["list", "array", "tensor", "uint8"]))
def test_labels_of_samples_count_from_zero_or_are_refused(labels: list[int], container: str) -> None:
    held: Any = labels if container == "list" else np.array(labels) if container == "array" else torch.tensor(labels)
    if container == "uint8":
        held = held.to(torch.uint8)
        labels = held.tolist()
    points = torch.arange(12.0).reshape(6, 2)
    if min(labels) < -1:
        first = next(place for place, label in enumerate(labels) if label < -1)
        with refused(f"`labels` must be at least 0, or -1 .*received {labels[first]} for sample {first}. Remedy: num"):
            OracleDataset(points, held)
        return
    data = OracleDataset(points, held)
    assert data.labels is not None
    assert data.labels.tolist() == labels
    assert set(data.segments) == set(labels) - {-1}
    for name, span in data.segments.items():
        index = data.index_of(torch.arange(span.start, span.stop)).tolist()
        assert index == [place for place, label in enumerate(labels) if label == name]


def test_samples_without_a_class_only_have_no_classes_to_ask_for() -> None:
    data = OracleDataset(torch.eye(3), torch.full((3,), -1))
    assert data.segments == {}
    assert ", 0 classes, " in repr(data)
    with pytest.raises(InputError, match="`labels` need labelled data"):
        OracleEngine(data).velocity(torch.zeros(2, 3), 0.5, labels=[-1, 0])


@pytest.mark.parametrize("labels", [None, torch.full((3,), -1)])
@pytest.mark.parametrize("asked", [-1, [-1, -1], [[-1, -1], [-1, -1]]])
def test_no_class_may_be_asked_for_where_there_are_none(labels: Tensor | None, asked: Any) -> None:
    engine, x = OracleEngine(OracleDataset(torch.eye(3), labels)), torch.ones(2, 3)
    assert torch.equal(engine.velocity(x, 0.5, labels=asked), engine.velocity(x, 0.5))
    with pytest.raises(InputError, match="must be one number"):
        engine.velocity(x, 0.5, labels=[-1, -1, -1])
