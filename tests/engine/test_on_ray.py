"""Actors of Ray that end are started again and answer with the same bits; one that is lost is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import run_blocks
from pretended_actors import engine_on
from ray_cases import ROOT, cluster
from shard_questions import make_data, make_queries

import oracle_engine as oe
from oracle_engine import DistributedError, InputError, OracleDataset, OracleEngine
from oracle_engine.data.on_actors import ActorDataset

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with cluster(8) as module:
        yield module


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    return make_data()


def actors_of(engine: OracleEngine) -> list[Any]:
    """Return the handles of the actors that an engine asks."""
    assert isinstance(engine.data, ActorDataset)
    return list(engine.data.actors.handles)


def pid_of(ray: Any, actor: Any) -> int:
    """Return the number of the process of an actor."""
    found: int = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    return found


def test_the_block_of_the_page_runs(ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "concepts" / "scale.md"
    run_blocks(page.read_text("utf-8"), str(page), "py")
    digits = oe.load_dataset("digits")
    guided = engine_on(digits, 1, digits).velocity(torch.zeros(1, 1, 8, 8), 0.3, labels=3, guidance=2.0)
    assert capsys.readouterr().out.endswith(str(guided.norm()) + "\n")


def test_an_actor_that_is_killed_answers_again_with_the_same_bits(ray: Any, data: OracleDataset) -> None:
    x, t = make_queries(data)
    wanted = engine_on(data, 1, data).velocity(x, t)
    engine = oe.sharded_on_ray(data, actors=2)
    assert torch.equal(engine.velocity(x, t), wanted)
    os.kill(pid_of(ray, actors_of(engine)[1]), signal.SIGKILL)
    assert torch.equal(engine.velocity(x, t), wanted)


def test_an_actor_that_is_not_started_again_is_named(ray: Any, data: OracleDataset) -> None:
    x, t = make_queries(data)
    engine = oe.sharded_on_ray(data, actors=2, max_restarts=0)
    engine.velocity(x, t)
    os.kill(pid_of(ray, actors_of(engine)[1]), signal.SIGKILL)
    with pytest.raises(DistributedError, match=r"a scan: actor 1 of 2 .* Remedy: pass max_restarts") as caught:
        engine.velocity(x, t)
    assert caught.value.rank == 1


def test_an_actor_that_is_stopped_is_named_within_the_timeout(ray: Any, data: OracleDataset) -> None:
    x, t = make_queries(data)
    engine = oe.sharded_on_ray(data, actors=2)
    assert isinstance(engine.data, ActorDataset)
    # the default leaves time to start
    engine.data.actors.timeout = 1.0
    wanted = engine.velocity(x, t)
    pid = pid_of(ray, actors_of(engine)[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DistributedError, match=r"actor 0 of 2 gave no sign of life for 1\.0 s"):
            engine.velocity(x, t)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert torch.equal(engine.velocity(x, t), wanted)


def test_engines_of_one_name_share_actors_until_their_end(ray: Any, tmp_path: Path) -> None:
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for number, file in enumerate(files):
        OracleDataset(torch.arange(60.0).reshape(20, 3) + number).save(file)
    first, second = (oe.sharded_on_ray(files[0], actors=2, name="shared") for _ in range(2))
    assert pid_of(ray, actors_of(first)[0]) == pid_of(ray, actors_of(second)[0])
    with pytest.raises(InputError, match="`data` must be the same on actor 0"):
        oe.sharded_on_ray(files[1], actors=2, name="shared")
    with pytest.raises(InputError, match="`backend` must be"):
        # leaves nothing behind that another call would find
        oe.sharded_on_ray(files[0], actors=1, name="shared", backend="none")
    assert len(oe.sharded_on_ray(files[0], actors=1, name="shared").data) == 20
    assert isinstance(first.data, ActorDataset)
    first.data.end()
    with pytest.raises(DistributedError, match=r"actor . of 2 has ended"):
        second.velocity(torch.zeros(1, 3), 0.5)


def test_what_an_actor_cannot_read_is_said_in_its_words(ray: Any, data: OracleDataset, tmp_path: Path) -> None:
    file = tmp_path / "set.safetensors"
    data.save(file)
    engine = oe.sharded_on_ray(file, actors=1)
    file.unlink()
    os.kill(pid_of(ray, actors_of(engine)[0]), signal.SIGKILL)
    with pytest.raises(InputError, match=r"set\.safetensors"):
        engine.velocity(*make_queries(data))
