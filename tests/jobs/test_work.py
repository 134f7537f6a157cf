"""A job has the answers of an engine, with the same bits however it was worked on and however often it was killed."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import normal
from forks import forked, killed
from job_cases import BLOCK, Job, make_data, make_queries, make_spec
from rank_cases import on_ranks
from tolerances import assert_close, assert_rows_close
from torch import Tensor

import oracle_engine as oe
from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.jobs.spec import Unit
from oracle_engine.jobs.units import Units
from oracle_engine.queries.stored import Queries

pytestmark = pytest.mark.usefixtures("unchecked")

CASES: dict[str, dict[str, Any]] = {
    "everything": {"labelled": False},
    "classes": {},
    "guided": {"guidance": 2.0},
    "denoisers": {"what": "denoiser"},
    "log densities": {"what": "log_density"},
    "one shard": {"shards": 1},
    "shards of which some are empty": {"shards": 256, "batch": 64, "labelled": False},
}


def asked(engine: OracleEngine, case: dict[str, Any], size: int) -> list[Tensor]:
    """Return what an engine answers to the queries of a case, `size` of them at once."""
    queries = make_queries(make_data(), labelled=case.get("labelled", True))
    name, guidance = case.get("what", "velocity"), {k: case[k] for k in ("guidance",) if k in case}
    answer = getattr(engine, name)
    return [answer(part.x, part.t, labels=part.labels, **guidance) for part in queries.blocks(size)]


@pytest.mark.parametrize("name", CASES)
def test_a_job_has_the_answers_of_the_engine(name: str, tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job", **CASES[name])
    job.work()
    found, exact = torch.cat(job.answers()), torch.cat(asked(OracleEngine(make_data()), CASES[name], BLOCK))
    if found.ndim == 1:
        assert_close(found, exact, "moment")
    else:
        assert_rows_close(found, exact, "bar")
    # nothing is kept twice, and every unit was done once
    assert job.folder.units_done() == job.begun() == job.folder.spec.blocks * job.folder.spec.shards
    assert not list((tmp_path / "job" / "units").iterdir())


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_shards_may_lack_a_class(generator: torch.Generator, backend: str, guidance: float | None) -> None:
    data = OracleDataset(normal(9, 70, generator).float(), torch.arange(9) % 3)
    x, t, labels = normal(4, 70, generator), torch.full((4,), 0.4).double(), torch.tensor([0, 2, 1, -1])
    engine, queries = OracleEngine(data, backend=backend), Queries(x, t, labels[:, None])
    spec = make_spec(queries, guidance=guidance, backend=engine.backend)
    units = Units(engine, queries, spec)
    found = units.answer(0, [units.state(unit) for unit in spec.units(0)])
    assert_rows_close(found, engine.velocity(x, t, labels=labels, guidance=guidance), "bar")


@pytest.mark.parametrize("name", ["classes", "guided"])
def test_the_bits_are_those_of_the_sharded_engine(name: str, tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job", shards=16, **CASES[name])
    job.work()
    (found,) = on_ranks(tmp_path, 1, lambda rank: asked(oe.sharded(make_data()), CASES[name], BLOCK))
    assert all(torch.equal(own, other) for own, other in zip(job.answers(), found, strict=True))


def check_kills(tmp_path: Path, kills: int, workers: int, batch: int) -> None:
    """Kill workers at random times, and expect the same bits and few units done twice."""
    undisturbed = Job.begin(tmp_path / "undisturbed", guidance=2.0, batch=batch)
    undisturbed.work()
    job, chance = Job.begin(tmp_path / "job", guidance=2.0, batch=batch), random.Random(kills)
    working = [forked(job.work) for _ in range(workers)]
    lost = 0
    while lost < kills and job.folder.pending():
        time.sleep(chance.uniform(0.0, 0.02))
        place = chance.randrange(workers)
        lost += killed(working[place])
        working[place] = forked(lambda: job.work(first=chance.randrange(8)))
    job.work()
    for pid in working:
        killed(pid)
    assert lost > 0
    assert all(torch.equal(own, other) for own, other in zip(job.answers(), undisturbed.answers(), strict=True))
    assert job.begun() <= undisturbed.begun() + lost


def test_killed_workers_lose_the_unit_they_were_at(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=3, workers=2, batch=8)


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=20, workers=3, batch=1)


def test_a_unit_is_not_taken_from_a_worker_that_lives(tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job")
    claim = job.folder.unit_claim(Unit(0, 0))
    ready = tmp_path / "ready"

    def hold() -> None:
        with job.folder.claims.hold(claim):
            ready.touch()
            time.sleep(60)

    pid = forked(hold)
    while not ready.exists():
        time.sleep(0.001)
    with job.folder.claims.hold(claim) as ours:
        assert not ours
    killed(pid)
    with job.folder.claims.hold(claim) as ours:
        assert ours


def test_a_damaged_state_is_found_and_done_again(tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job")
    for unit in job.folder.spec.units(0):
        job.folder.write_state(unit, job.units.state(unit))
    states = sorted((tmp_path / "job" / "units").iterdir())
    content = bytearray(states[2].read_bytes())
    content[-3] ^= 1
    states[2].write_bytes(content)
    # one of another place, which is whole
    states[4].write_bytes(states[3].read_bytes())
    states[6].write_bytes(b"")
    job.work()
    assert job.begun() == job.folder.spec.blocks * job.folder.spec.shards + 3
    exact = asked(OracleEngine(make_data()), {}, BLOCK)
    assert_rows_close(torch.cat(job.answers()), torch.cat(exact), "bar")


def test_a_damaged_answer_is_found_and_deleted(tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job")
    job.work()
    first = job.answers()
    path = tmp_path / "job" / "answers" / f"{1:08d}.answer"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert job.folder.answer(1) is None
    assert job.folder.pending() == [1]
    job.work()
    assert all(torch.equal(own, other) for own, other in zip(job.answers(), first, strict=True))
