"""Samples that stay in files answer as the same samples in memory do, whatever is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import clusters, normal, stored_as
from engine_cases import PREDICTIONS, assert_same_posterior
from shard_cases import leave_in_files, write_shards
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import Guidance, OracleDataset, OracleEngine, TopK, load_dataset, path_sample, posterior_draw
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data.prefixes import prefix_fingerprint
from oracle_engine.kernels import Pairs, Wanted, pairs_state

COUNT, DIM, BATCH, CLASSES = 400, 64, 8, 5
TIMES = torch.tensor([0.02, 0.3, 0.6, 0.9], dtype=torch.float64).repeat(BATCH // 4)

CONDITIONS: dict[str, dict[str, Any]] = {
    "everyone": {},
    "classes": {"labels": torch.arange(BATCH) % CLASSES},
    "unions": {"labels": torch.tensor([[0, 3], [2, -1], [1, 4], [-1, -1]]).repeat(BATCH // 4, 1)},
    "guided": {"labels": torch.arange(BATCH) % CLASSES, "guidance": Guidance(2.0, t_min=0.2, t_max=0.8)},
    "without their samples": {"exclude": torch.arange(BATCH)},
    "from their samples": {"source": torch.arange(BATCH)},
    "a class without their samples": {"labels": torch.zeros(BATCH, dtype=torch.int64), "exclude": torch.arange(BATCH)},
}


@pytest.fixture(params=[torch.float32, torch.uint8], ids=str)
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[OracleDataset, OracleDataset]:
    """Weighted samples with labels in any order in three files, and the same in memory."""
    points = stored_as(clusters(COUNT, DIM, generator), request.param)
    leave_in_files(monkeypatch, 150 * DIM * points.itemsize)
    labels = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    filed = load_dataset(write_shards(tmp_path, points, labels), weights=weights)
    assert isinstance(filed.rows.stored, OutsideRows)
    return filed, OracleDataset(points, labels, weights)


def queries(data: OracleDataset, generator: torch.Generator) -> Tensor:
    return path_sample("rectified_flow", data[:BATCH].double(), normal(BATCH, DIM, generator), TIMES)


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "auto") for name in CONDITIONS), ("everyone", "torch"), ("guided", "torch"), ("guided", "reference")],
)
def test_answers_are_those_of_the_samples_in_memory(
    pair: tuple[OracleDataset, OracleDataset], generator: torch.Generator, name: str, backend: str
) -> None:
    asked = CONDITIONS[name]
    x = queries(pair[1], generator)
    filed, held = (OracleEngine(data, backend=backend, mode="exact") for data in pair)
    for answer in PREDICTIONS:
        ours, theirs = (getattr(engine, answer)(x, TIMES, **asked) for engine in (filed, held))
        assert_rows_close(ours, theirs, "bar")
    asked = {name: value for name, value in asked.items() if name != "guidance"}
    assert_close(filed.log_density(x, TIMES, **asked), held.log_density(x, TIMES, **asked), "moment")
    first, second = (engine.posterior(x, TIMES, top_k=4, **asked) for engine in (filed, held))
    assert_same_posterior(first, second, "moment")
    clear = second.top_weights > 1e-6
    assert torch.equal(first.top_indices[clear], second.top_indices[clear])


def test_facts_of_the_data_are_those_of_the_samples_in_memory(pair: tuple[OracleDataset, OracleDataset]) -> None:
    filed, held = pair
    assert len(filed) == COUNT
    assert torch.equal(filed[:], held[:])
    assert filed.fingerprint == held.fingerprint
    assert prefix_fingerprint(filed, 30) == prefix_fingerprint(held, 30)
    assert filed.segments == held.segments
    assert filed.value_range == held.value_range
    assert filed.variance_per_dim == pytest.approx(held.variance_per_dim)
    assert torch.equal(filed.rows.half_norms, held.rows.half_norms)
    assert filed.rows.copies == held.rows.copies
    # what follows on the name is the kind of files that they came from, and what both have in common
    assert repr(filed).endswith(repr(held).split("'")[2])


def test_derivatives_draws_and_other_routes_answer_too(
    pair: tuple[OracleDataset, OracleDataset], generator: torch.Generator
) -> None:
    x, asked = queries(pair[1], generator), {"labels": torch.arange(BATCH) % CLASSES}
    slopes: list[Tensor] = []
    for data in pair:
        leaf = x.clone().requires_grad_()
        total = OracleEngine(data).velocity(leaf, TIMES, **asked).square().sum()
        slopes += torch.autograd.grad(total, leaf)
    assert_rows_close(slopes[0], slopes[1], "derivative")
    exact = OracleEngine(pair[1], mode="exact").velocity(x, TIMES)
    assert_rows_close(OracleEngine(pair[0]).prepare("screen").velocity(x, TIMES), exact, "tolerance of a search")
    few = OracleEngine(pair[0], mode=TopK(64)).prepare().posterior(x, TIMES)
    assert bool((few.omitted_mass < 1).all())
    draws = [posterior_draw(OracleEngine(data), x, TIMES, generator=torch.Generator().manual_seed(1)) for data in pair]
    assert torch.equal(draws[0], draws[1])


def test_named_samples_are_scored_as_in_memory(
    pair: tuple[OracleDataset, OracleDataset], generator: torch.Generator
) -> None:
    x, wanted = queries(pair[1], generator), Wanted(moments=True, top_k=5)
    request = OracleEngine(pair[1]).request_builder.request(x, TIMES)
    row = torch.randint(COUNT, (90,), generator=generator).unique()
    pairs = Pairs((torch.arange(len(row)) % BATCH).sort().values, row, torch.zeros(len(row), dtype=torch.float64))
    found = [pairs_state(data.rows, request.query(data), pairs, wanted) for data in pair]
    assert all(torch.equal(getattr(found[0], name), getattr(found[1], name)) for name in ("lse", "mean", "top_rows"))


def test_a_data_set_in_files_is_saved_and_moved_as_any_other(
    pair: tuple[OracleDataset, OracleDataset], tmp_path: Path
) -> None:
    pair[0].save(tmp_path / "saved.safetensors")
    assert OracleDataset.load(tmp_path / "saved.safetensors").fingerprint == pair[1].fingerprint
    assert pair[0].to("cpu") is pair[0]


def test_one_file_with_labels_in_any_order_is_not_copied(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch)
    points, labels = normal(90, 6, generator).float(), torch.arange(90) % 4
    write_shards(tmp_path, points, labels, 1)
    data = load_dataset(tmp_path / "shard0.safetensors")
    assert isinstance(data.rows.stored, OutsideRows)
    assert torch.equal(data[:], points)
    # in the order of the labels it is mapped as one tensor
    other = load_dataset(tmp_path / "shard0.safetensors", labels=labels.sort().values)
    assert not isinstance(other.rows.stored, OutsideRows)


def test_small_shards_are_read_into_memory(tmp_path: Path, generator: torch.Generator) -> None:
    data = load_dataset(write_shards(tmp_path, normal(90, 6, generator).float()))
    assert not isinstance(data.rows.stored, OutsideRows)
