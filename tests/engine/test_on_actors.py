"""An engine over shards that actors hold answers as ranks do, with the same bits however many there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_actors import engine_on
from rank_cases import on_ranks
from shard_cases import leave_in_files, write_shards
from shard_questions import CLASSES, DIM, Answers, answers, make_data, make_queries
from torch import Tensor

import oracle_engine as oe
from oracle_engine import InputError, MissingDependencyError, OracleDataset, OracleEngine, TopK


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    return make_data()


@pytest.fixture(scope="module")
def of_one_rank(data: OracleDataset, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What one rank answers."""
    (found,) = on_ranks(tmp_path_factory.mktemp("ranks"), 1, lambda rank: answers(oe.sharded(data), data))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_actors_have_the_bits_of_a_rank(data: OracleDataset, of_one_rank: Answers, count: int) -> None:
    found = answers(engine_on(data, count, data), data)
    assert [name for name, value in of_one_rank.items() if not torch.equal(value, found[name])] == []


def test_draws_and_facts_are_those_of_ranks(data: OracleDataset, tmp_path: Path) -> None:
    x, t = make_queries(data)

    def found(engine: OracleEngine) -> list[Tensor]:
        drawn = oe.posterior_draw(engine, x, t, generator=torch.Generator().manual_seed(1))
        return [drawn, engine.data[:7], torch.tensor([engine.data.variance_per_dim, *engine.data.value_range])]

    (wanted,) = on_ranks(tmp_path, 1, lambda rank: found(oe.sharded(data)))
    assert all(map(torch.equal, found(engine_on(data, 3, data)), wanted))
    assert engine_on(data, 2, data).data.fingerprint == engine_on(data, 5, data).data.fingerprint


def test_actors_open_files_for_themselves(data: OracleDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_in_files(monkeypatch, 20 * 8 * DIM)
    files = write_shards(tmp_path / "files", data[:], data.labels)
    oe.pack(files)
    x, t = make_queries(data)
    asked = {"labels": torch.arange(len(x)) % CLASSES}
    (wanted,) = on_ranks(tmp_path, 1, lambda rank: oe.sharded(files).velocity(x, t, **asked))
    assert torch.equal(engine_on(files, 2, oe.load_dataset(files)).velocity(x, t, **asked), wanted)


def test_actors_with_other_data_are_refused(data: OracleDataset) -> None:
    other = OracleDataset(data[:] + 1.0, data.labels)
    with pytest.raises(InputError, match="`data` must be the same on actor 0"):
        engine_on(other, 2, OracleDataset(data[:], data.labels))


def test_what_needs_the_samples_here_is_refused(data: OracleDataset, tmp_path: Path) -> None:
    engine = engine_on(data, 2, data)
    assert "16 shards on 2 actors" in repr(engine)
    assert str(engine.residency) == "all, 2 actors hold the samples"
    for ask in (engine.prepare, engine.plan, lambda: engine.data.save(tmp_path / "saved")):
        with pytest.raises(InputError, match="`data` must be in one process"):
            ask()
    with pytest.raises(InputError, match="`x` must be finite"):
        engine.velocity(torch.full((1, DIM), torch.nan), 0.5)


def test_arguments_are_checked_before_any_actor_starts(data: OracleDataset) -> None:
    refused: dict[str, dict[str, Any]] = {
        "`actors` must be": {"actors": 0},
        "`threads` must be": {"threads": 0},
        "`max_restarts` must be": {"max_restarts": -2},
        "`timeout` must be": {"timeout": 0.0},
        "`mode` must be auto or exact": {"mode": TopK(3)},
        "`data` must be a file, a folder or a built-in set": {"name": "samples"},
    }
    for words, asked in refused.items():
        with pytest.raises(InputError, match=words):
            oe.sharded_on_ray(data, **asked)


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"sharded_on_ray needs .* pip install ray"):
        oe.sharded_on_ray("digits")
