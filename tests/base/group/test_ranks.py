"""A rank that is lost is a worded error on all others, in time; a rank that works is waited for."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_cases import Ranks, on_ranks
from torch import Tensor

import oracle_engine as oe
from oracle_engine import DistributedError, OracleDataset, OracleEngine
from oracle_engine.scans.exact import ExactScan

# seconds after which a rank is lost in these tests, and those that an error may come later
TIMEOUT, GRACE = 2.0, 2.0

DATA = OracleDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
QUERIES = torch.zeros(2, 4)

# seconds that a rank waited, the rank that is lost, and the words of the error
Loss = tuple[float, int | None, str]


def answered_until_lost(engine: OracleEngine) -> Loss:
    """Ask an engine again and again, and return the error that ends it."""

    def ask_for_ever() -> None:
        while True:
            engine.velocity(QUERIES, 0.5)

    with pytest.raises(DistributedError) as caught:
        ask_for_ever()
    # the others are not asked again in vain
    with pytest.raises(DistributedError, match=re.escape(str(caught.value))):
        engine.velocity(QUERIES, 0.5)
    return caught.value.seconds, caught.value.rank, str(caught.value)


def losses(folder: Path, count: int, harm: Callable[[list[int]], None], gone: tuple[int, ...]) -> list[Loss]:
    """Return the errors of all ranks but those that are `gone`, after `harm` was done to the processes."""

    def work(rank: int) -> Loss:
        engine = oe.sharded(DATA, timeout=TIMEOUT)
        engine.velocity(QUERIES, 0.5)
        (folder / f"ready-{rank}").touch()
        return answered_until_lost(engine)

    ranks = Ranks(folder, count, work)
    try:
        ranks.wait_for(*(folder / f"ready-{rank}" for rank in range(count)))
        harm(ranks.pids)
        found = ranks.results(gone=gone)
    finally:
        ranks.end()
    return [loss for loss in found if loss is not None]


def check(found: list[Loss], lost: int, words: str) -> None:
    for seconds, rank, text in found:
        assert seconds <= TIMEOUT + GRACE
        assert rank == lost, text
        assert f"rank {lost} {words}" in text
        assert "Remedy: start the ranks again" in text


def harmed(folder: Path, seed: int, count: int) -> tuple[list[Loss], int, str]:
    """Kill or stop one rank at some moment; return the errors of the others, which rank, and the words about it."""
    draw = random.Random(seed)
    victim, kill = draw.randrange(count), seed % 2 == 0
    delay = draw.uniform(0.0, 0.3)

    def harm(pids: list[int]) -> None:
        time.sleep(delay)
        os.kill(pids[victim], signal.SIGKILL if kill else signal.SIGSTOP)

    return losses(folder, count, harm, (victim,)), victim, "has ended" if kill else "gave no sign of life"


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_stopped_ranks_are_named_in_time(tmp_path: Path, seed: int) -> None:
    check(*harmed(tmp_path, seed, 3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 24))
def test_ranks_killed_and_stopped_at_any_moment_are_named_in_time(tmp_path: Path, seed: int) -> None:
    check(*harmed(tmp_path, seed, 2 + seed % 3))


def test_a_rank_that_goes_on_without_the_others_is_named(tmp_path: Path) -> None:
    def work(rank: int) -> Loss | None:
        engine = oe.sharded(DATA, timeout=TIMEOUT)
        engine.velocity(QUERIES, 0.5)
        if rank == 1:
            time.sleep(TIMEOUT + 1.0)
            return None
        return answered_until_lost(engine)

    (seconds, rank, text), _ = on_ranks(tmp_path, 2, work)
    assert TIMEOUT <= seconds <= TIMEOUT + GRACE
    assert rank == 1
    assert "rank 1 is alive and did not come for 2.0 s" in text
    assert "make the same calls on every rank" in text


def test_a_rank_that_ends_is_named(tmp_path: Path) -> None:
    def work(rank: int) -> Loss | None:
        engine = oe.sharded(DATA, timeout=TIMEOUT)
        return None if rank == 1 else answered_until_lost(engine)

    (seconds, rank, text), _ = on_ranks(tmp_path, 2, work)
    assert seconds <= TIMEOUT + GRACE
    assert rank == 1
    assert "rank 1 has ended" in text


def test_a_rank_that_still_scans_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ExactScan.part

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return part(*arguments)

    def work(rank: int) -> Tensor:
        engine = oe.sharded(DATA, timeout=0.4)
        if rank == 1:
            # eight shards take twice the timeout
            monkeypatch.setattr(ExactScan, "part", slow)
        return engine.velocity(QUERIES, 0.5)

    first, second = on_ranks(tmp_path, 2, work)
    assert torch.equal(first, second)


def test_a_rank_whose_scan_fails_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise MemoryError("no room for logits")

    def work(rank: int) -> Loss | None:
        engine = oe.sharded(DATA, timeout=TIMEOUT)
        if rank == 0:
            return answered_until_lost(engine)
        monkeypatch.setattr(ExactScan, "part", fail)
        with pytest.raises(MemoryError):
            engine.velocity(QUERIES, 0.5)
        with pytest.raises(DistributedError, match=r"rank 1 failed \(MemoryError"):
            engine.velocity(QUERIES, 0.5)
        time.sleep(1.0)
        return None

    (seconds, rank, text), _ = on_ranks(tmp_path, 2, work)
    assert seconds <= TIMEOUT + GRACE
    assert rank == 1
    assert "rank 1 failed (MemoryError: no room for logits)" in text


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_the_loss_of_the_store_is_said(tmp_path: Path, stop: signal.Signals) -> None:
    def work(rank: int) -> Loss:
        engine = oe.sharded(DATA, timeout=TIMEOUT)
        engine.velocity(QUERIES, 0.5)
        if rank == 0:
            os.kill(os.getpid(), stop)
        return answered_until_lost(engine)

    ranks = Ranks(tmp_path, 2, work, store="tcp")
    try:
        _, (seconds, _, text) = ranks.results(gone=(0,))
    finally:
        ranks.end()
    assert seconds <= TIMEOUT + GRACE
    assert "the store of the process group is gone or does not answer" in text
    assert "rank 0 or torchrun keeps the store" in text


SCRIPT = """
import os, signal, sys
import torch, torch.distributed as dist
import oracle_engine as oe
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
engine = oe.sharded(oe.OracleDataset(torch.eye(4)), timeout=2.0)
if rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
engine.velocity(torch.zeros(1, 4), 0.5)
"""


@pytest.mark.slow
def test_a_process_that_lost_another_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    started = [subprocess.Popen([*command, str(rank), f"file://{tmp_path}/store"], stderr=-1) for rank in range(2)]
    try:
        _, said = started[0].communicate(timeout=60)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[0].returncode == 1
    assert "DistributedError: a scan: rank 1 gave no sign of life for 2" in said.decode()
