"""Floors count what an answer cannot do without."""

from __future__ import annotations

import pytest
import torch

from oracle_engine import OracleDataset
from oracle_engine.compare import floors
from oracle_engine.compare.floors import Floor, Need, Rates, heavy_rows
from oracle_engine.compare.truth import posterior_weights
from oracle_engine.compare.workloads import LABELLED, Batch, Workload


def test_the_fewest_rows_that_hold_a_posterior() -> None:
    spread, sharp = torch.full((8,), 0.125, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    sharp[3], sharp[5] = 1 - 1e-9, 1e-9
    two = torch.tensor([0.5, 1e-8, 0.5 - 1e-8, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert heavy_rows(torch.stack([spread, sharp, two])).tolist() == [8, 1, 2]


def test_an_unconditional_answer_reads_and_multiplies_every_row() -> None:
    data = OracleDataset(torch.zeros(50, 4, dtype=torch.uint8))
    weights = torch.full((2, 50), 0.02, dtype=torch.float64)
    # the posteriors of two of the ten queries stand for all
    need = Need.of(data, Batch(torch.zeros(10, 4), 0.5), weights)
    assert need == Need(read=200.0, operations=2.0 * 4 * (10 * 50 + 10 * 50))


def test_a_class_is_read_once_and_multiplied_for_each_query() -> None:
    data = OracleDataset(torch.randn(9, 4), labels=[0, 0, 0, 0, 1, 1, 1, 2, 2])
    batch = Batch(torch.randn(3, 4), 0.01, labels=torch.tensor([0, 0, 2]))
    weights = posterior_weights(data, batch)
    assert (weights > 0).sum(1).tolist() == [4, 4, 2]
    assert Need.of(data, batch, weights) == Need(read=6 * 4 * 4.0, operations=2.0 * 4 * (10 + 10))


def test_late_answers_need_half_of_the_products() -> None:
    data = OracleDataset(torch.randn(400, 64))
    early, late = (
        Need.of(data, batch, posterior_weights(data, batch))
        for batch in (Workload(data, 8, t).draw() for t in (0.01, 0.99))
    )
    assert early.operations == 2.0 * 64 * 2 * 8 * 400
    assert late.operations == 2.0 * 64 * (8 * 400 + 8)


def test_the_longer_floor_counts() -> None:
    floor = Rates(1e9, 1e12, "copy", "product").floor(Need(read=2e6, operations=1e9))
    assert floor == Floor(read_ms=2.0, products_ms=1.0)
    assert floor.reached(4.0) == 0.5


def test_rates_name_what_reached_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "READ", 1 << 16)
    monkeypatch.setattr(floors, "SQUARES", (64,))
    rates = Rates.measured()
    assert rates.read > 0
    assert rates.product > 0
    assert rates.read_by in ("torch copy", "torch sum", "torch dot")
    assert rates.product_by in ("torch 64 x 64", "NumPy 64 x 64")


def test_a_class_of_the_batch_is_asked_about() -> None:
    data = OracleDataset(torch.randn(30, 4), labels=torch.arange(30) % 3)
    batch = Workload(data, 12, 0.5, LABELLED).draw()
    assert batch.labels is not None
    assert batch.source is not None
    assert batch.labels.tolist() == (batch.source % 3).tolist()
    assert batch[:5].conditions["labels"].tolist() == batch.labels[:5].tolist()
