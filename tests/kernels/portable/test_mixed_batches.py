"""A batch whose times are spread over [0, 1), as in training: every query costs what it needs, not what others need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closed_form import normal
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, load_dataset
from oracle_engine.kernels import Span, Work, posterior_state, reference_state
from oracle_engine.kernels.common.matmul import ieee_products
from oracle_engine.kernels.portable import scan, single
from oracle_engine.kernels.portable.blocks import BlockLimits
from oracle_engine.kernels.portable.single import SingleScan, scan_once

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
    summed: dict[str, set[int]] = {"_add_dense": set(), "_add_pairs": set()}

    def spy(name: str) -> None:
        real = getattr(SingleScan, name)

        def spied(self: SingleScan, query: Tensor, *rest: Any) -> None:
            summed[name] |= set(query.tolist())
            real(self, query, *rest)

        monkeypatch.setattr(SingleScan, name, spied)

    for name in summed:
        spy(name)
    OracleEngine(data, backend="torch").velocity(batch(data, generator), TIMES)
    late = set(LATE.nonzero()[:, 0].tolist())
    assert summed["_add_dense"] >= {0, 1, 2}
    assert not summed["_add_dense"] & late


def test_nobody_is_scanned_in_double_precision_for_another(
    data: OracleDataset, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(module: Any, name: str) -> None:
        real = getattr(module, name)

        def spied(*args: Any) -> Any:
            asked.append(name)
            return real(*args)

        monkeypatch.setattr(module, name, spied)

    for module, name in ((scan, "single_state"), (scan, "double_state"), (single, "double_state")):
        spy(module, name)
    OracleEngine(data, backend="torch").velocity(batch(data, generator), TIMES)
    assert asked == ["single_state"]


def test_a_query_with_a_wide_window_lists_only_what_may_matter(data: OracleDataset, generator: torch.Generator) -> None:
    # weights e^-100 and less underflow in float32: a query that goes the dense way must not take zeros for candidates
    x, builder = batch(data, generator), OracleEngine(data).request_builder
    query = builder.request(x, TIMES).query(data)
    work = Work(data.rows, query, Span(0, len(data)))
    always_dense = BlockLimits(sparse_share=-1.0)
    with ieee_products("cpu"):
        listed = scan_once(work, always_dense).listed
    assert int(torch.bincount(listed.query, minlength=len(x))[LATE].max()) < 50
    truth = reference_state(work).mean
    assert_rows_close(posterior_state(work, limits=always_dense).mean, truth, "mean", data.rows.radius)
