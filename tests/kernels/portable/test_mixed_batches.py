"""A batch whose times are spread over [0, 1), as in training: every query costs what it needs, not what others need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closed_form import normal
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, load_dataset
from oracle_engine.kernels.common.accumulate import Accumulator
from oracle_engine.kernels.portable import scan as chunked

TIMES = torch.tensor([0.002, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.987, 0.99, 0.999]).double()
LATE = TIMES > 0.75

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    stored = load_dataset("patches", count=1500).rows.stored
    return OracleDataset(stored.float() * 2 / 255 - 1)


def batch(data: OracleDataset, generator: torch.Generator) -> Tensor:
    """Return queries of every time, float64; the late ones were made from samples 8, 9, ..."""
    own = data[torch.arange(len(TIMES))].double()
    return TIMES[:, None] * own + (1 - TIMES[:, None]) * normal(len(TIMES), data.dim, generator)


def test_every_query_is_within_the_bar(data: OracleDataset, generator: torch.Generator) -> None:
    x = batch(data, generator)
    truth = OracleEngine(data, backend="reference").velocity(x, TIMES)
    assert_rows_close(OracleEngine(data).velocity(x, TIMES), truth, "bar")


def test_late_queries_are_summed_row_by_row(
    data: OracleDataset, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed: dict[str, set[int]] = {"add_dense": set(), "add_sparse": set()}

    def spy(name: str) -> None:
        real = getattr(Accumulator, name)

        def spied(self: Accumulator, query: Tensor, *rest: Any) -> None:
            summed[name] |= set(query.tolist())
            real(self, query, *rest)

        monkeypatch.setattr(Accumulator, name, spied)

    for name in summed:
        spy(name)
    OracleEngine(data).velocity(batch(data, generator), TIMES)
    late = set(LATE.nonzero()[:, 0].tolist())
    assert summed["add_dense"] >= {0, 1, 2}
    assert not summed["add_dense"] & late


def test_nobody_is_scanned_in_double_precision_for_another(
    data: OracleDataset, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = []
    init = chunked.Scan.__init__

    def spied(self: chunked.Scan, rows: Any, query: Any, wanted: Any, dtype: torch.dtype) -> None:
        dtypes.append(dtype)
        init(self, rows, query, wanted, dtype)

    monkeypatch.setattr(chunked.Scan, "__init__", spied)
    OracleEngine(data).velocity(batch(data, generator), TIMES)
    assert dtypes == [torch.float32]


def test_a_steep_query_sets_aside_only_what_may_matter(
    data: OracleDataset, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # weights e^-100 and less underflow in float32: a query that goes the dense way must not take zeros for candidates
    monkeypatch.setattr(chunked, "SPARSE_SHARE", -1.0)
    seen: list[int] = []
    result = chunked.Scan._result

    def spied(self: chunked.Scan) -> Any:
        seen.extend(self.rescore_count[LATE].tolist())
        return result(self)

    monkeypatch.setattr(chunked.Scan, "_result", spied)
    x = batch(data, generator)
    velocity = OracleEngine(data).velocity(x, TIMES)
    assert max(seen) < 50
    assert_rows_close(velocity, OracleEngine(data, backend="reference").velocity(x, TIMES), "bar")
