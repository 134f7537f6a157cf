"""Each way through the streaming kernel is taken by the queries it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import normal, stored_as
from row_cases import EVERYTHING, assert_parity, make_query

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import Query, Rows, Wanted, prepare_rows
from oracle_engine.kernels.common.rescore import Pairs
from oracle_engine.kernels.portable import scan, single

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way through the kernel was really taken, filled in as it is."""
    ways: Counter[str] = Counter()

    def count(owner: Any, name: str, way: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            taken = way(*args, **kwargs)
            ways.update([taken] if taken else [])
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def rescored(_rows: Rows, _query: Query, pairs: Pairs, _wanted: Wanted) -> str | None:
        return "rescored" if len(pairs.query) else None

    count(single, "pairs_state", rescored)
    count(scan, "single_state", lambda *_, **__: "float32")
    for module in (scan, single):
        count(module, "double_state", lambda *_, **__: "float64")
    count(single, "dense_sums", lambda *_, **__: "dense")
    count(single, "sparse_sums", lambda *_, **__: "sparse")
    return ways


def ways_of(taken: Counter[str], rows: Rows, query: Query, wanted: Wanted = EVERYTHING) -> set[str]:
    assert_parity(rows, query, wanted=wanted)
    return set(taken)


def test_an_early_query_sums_every_row(generator: torch.Generator, taken: Counter[str]) -> None:
    rows = prepare_rows(normal(400, 100, generator).float(), None)
    assert ways_of(taken, rows, make_query(rows, generator, times=(0.05,))) == {"float32", "dense"}


def test_a_late_query_rescores_what_it_lists(generator: torch.Generator, taken: Counter[str]) -> None:
    rows = prepare_rows(normal(400, 784, generator).float(), None)
    ways = ways_of(taken, rows, make_query(rows, generator, times=(0.9,)))
    assert "rescored" in ways
    assert not ways & {"dense", "float64"}


def test_few_rows_with_weight_are_summed_one_by_one(generator: torch.Generator, taken: Counter[str]) -> None:
    # one sample in a hundred is near enough to count, none of them so sharply that its rounding would show
    points = torch.nn.functional.normalize(normal(2000, 80, generator)) * 25
    points[::100] *= 0.2
    rows = prepare_rows(points.float(), None)
    zero = torch.zeros(4, 80, dtype=torch.float64)
    alpha = torch.full((4,), 0.3, dtype=torch.float64)
    query = Query(zero - alpha[:, None] * rows.centre, alpha, (1 - alpha).pow(-2), torch.empty(4, 0, 2).long())
    ways = ways_of(taken, rows, query)
    assert "sparse" in ways
    assert "dense" not in ways


def test_many_near_duplicates_are_scanned_again_in_float64(generator: torch.Generator, taken: Counter[str]) -> None:
    crowd = normal(1, 784, generator) + 1e-4 * normal(600, 784, generator)
    rows = prepare_rows(torch.cat([crowd, normal(600, 784, generator)]).float(), None)
    assert {"float32", "float64"} <= ways_of(taken, rows, make_query(rows, generator, times=(0.95,)))


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_narrow_and_float64_rows_are_scanned_in_float64(
    generator: torch.Generator, taken: Counter[str], dtype: torch.dtype
) -> None:
    dim = 100 if dtype == torch.float64 else 8
    rows = prepare_rows(stored_as(normal(400, dim, generator), dtype), None)
    ways = ways_of(taken, rows, make_query(rows, generator))
    assert "float64" in ways
    assert not ways & {"float32", "rescored"}
