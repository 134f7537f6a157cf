"""Passes over rows that stay outside: every row once, shared by all who wait, a block ahead, and ended in any case."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretended_lane import PretendedStream, pretend_lane
from shard_cases import leave_in_files, write_shards
from torch import Tensor

from oracle_engine import DataFileError
from oracle_engine.base.outside.block_reader import AskedRows, BlockReader
from oracle_engine.base.outside.blocks import blocks, shared_blocks
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data.formats import read_path

COUNT, DIM = 60, 4
ROW_BYTES = 4 * DIM
EVERYTHING = torch.tensor([[0, COUNT]])


@pytest.fixture
def points() -> Tensor:
    return torch.arange(COUNT * DIM, dtype=torch.float32).reshape(COUNT, DIM)


@pytest.fixture
def rows(tmp_path: Path, points: Tensor, monkeypatch: pytest.MonkeyPatch) -> OutsideRows:
    """Rows in three files, read in blocks of ten."""
    leave_in_files(monkeypatch, 10 * ROW_BYTES)
    found = read_path(write_shards(tmp_path, points)).points
    assert isinstance(found, OutsideRows)
    return found


@pytest.fixture(params=["where they are read", "on a card"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where blocks are scanned."""
    if request.param == "on a card":
        pretend_lane(monkeypatch)
    return str(request.param)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give a list that grows by the first place of every block that is read."""
    read, exact = list[int](), BlockReader.read

    def noted(self: BlockReader, asked: AskedRows, memory: Tensor) -> Tensor:
        read.append(asked.start)
        return exact(self, asked, memory)

    monkeypatch.setattr(BlockReader, "read", noted)
    yield read


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "oracle-engine-reader"]


def together(rows: OutsideRows) -> Tensor:
    found = torch.full((COUNT, DIM), torch.nan)
    with shared_blocks(rows, EVERYTHING) as parts:
        for part in parts:
            found[part.index] = part.values
    return found


def interrupted(rows: OutsideRows, error: BaseException, meanwhile: Callable[[], None] = lambda: None) -> None:
    with shared_blocks(rows, EVERYTHING) as parts:
        next(parts)
        meanwhile()
        raise error


def joined_by_two(rows: OutsideRows, pool: ThreadPoolExecutor, later: list[Future[Tensor]]) -> None:
    with shared_blocks(rows, EVERYTHING) as parts:
        later += [pool.submit(together, rows) for _ in range(2)]
        list(parts)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 70),
    seed=st.integers(0, 99),
    ordered=st.booleans(),
    held=st.booleans(),
    spans=st.lists(st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)).map(sorted), max_size=3),
)
def test_blocks_of_any_size_hold_what_is_asked_for_once(
    rows: OutsideRows,
    points: Tensor,
    place: str,
    size: int,
    seed: int,
    ordered: bool,
    held: bool,
    spans: list[list[int]],
) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))
    source = OutsideRows.held(points) if held else rows
    asked = source.streamed(torch.device("cpu"), size * ROW_BYTES)
    asked, true = (asked.ordered(order), points[order]) if ordered else (asked, points)
    met = torch.zeros(COUNT, dtype=torch.int64)
    with shared_blocks(asked, torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)) as parts:
        for part in parts:
            assert torch.equal(part.values, true[part.index])
            assert torch.equal(part.index, part.numbers)
            assert len(part.index) <= size
            met[part.index] += 1
    wanted = torch.zeros(COUNT, dtype=torch.int64)
    for start, stop in spans:
        wanted[start:stop] = 1
    assert torch.equal(met, wanted)


def test_who_waits_shares_the_next_pass(
    rows: OutsideRows, points: Tensor, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as read, ThreadPoolExecutor(3) as pool:
        with shared_blocks(rows, EVERYTHING) as first:
            next(first)
            # they cannot begin before the pass that runs is over
            later: list[Future[Tensor]] = [pool.submit(together, rows) for _ in range(3)]
            passes = rows.kept[os.getpid()]
            while passes._waiting is None or len(passes._waiting.seats) < 3:
                pass
            for _ in first:
                pass
            assert read == list(range(0, COUNT, 10))
        assert all(torch.equal(found.result(timeout=30), points) for found in later)
    assert read == 2 * list(range(0, COUNT, 10))
    assert readers() == []


def test_the_next_block_is_on_its_way_while_one_is_scanned(rows: OutsideRows, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, last = pretend_lane(monkeypatch), COUNT // 10 - 1
    with shared_blocks(rows, EVERYTHING) as parts:
        for number, _ in enumerate(parts):
            # this thread still scans block `number`
            assert number == last or steps.wait("send", number + 1, 30)
            # and there is no room for the one after
            assert not steps.wait("send", number + 2, 0.01)


def test_kernels_that_run_late_find_their_blocks(
    rows: OutsideRows, points: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, found = pretend_lane(monkeypatch), torch.full((COUNT, DIM), torch.nan)
    steps.computing, steps.delay = PretendedStream(), 0.001

    def kernel(index: Tensor, values: Tensor) -> None:
        sleep(0.005)
        found[index] = values

    with shared_blocks(rows.streamed(rows.device, 3 * ROW_BYTES), EVERYTHING) as parts:
        for part in parts:
            # the host is done with a block long before the kernels are
            steps.computing.queue.put(partial(kernel, part.index, part.values))
        steps.computing.synchronize()
    assert torch.equal(found, points)


def test_one_who_gives_up_does_not_stop_the_others(rows: OutsideRows, points: Tensor, place: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        others = list[Future[Tensor]]()
        with pytest.raises(KeyError):
            interrupted(rows, KeyError(), lambda: others.append(pool.submit(together, rows)))
        assert torch.equal(others[0].result(timeout=30), points)
    assert readers() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [(0, "the file that was opened; found a shorter one"), (OSError(errno.EIO, "Input/output error"), "at byte")],
    ids=["shorter", "unreadable"],
)
def test_a_fault_of_the_disk_ends_all_who_wait_in_words(
    rows: OutsideRows, points: Tensor, place: str, monkeypatch: pytest.MonkeyPatch, fault: Any, words: str
) -> None:
    exact, calls = os.preadv, list[int]()

    def faulty(file: int, memory: list[memoryview], start: int) -> int:
        calls.append(start)
        if len(calls) < 4:
            return exact(file, memory, start)
        if isinstance(fault, OSError):
            raise fault
        return 0

    monkeypatch.setattr("os.preadv", faulty)
    with ThreadPoolExecutor(2) as pool:
        later = list[Future[Tensor]]()
        with pytest.raises(DataFileError, match=rf"shard\d.safetensors: expected .*{words}.* Remedy: "):
            joined_by_two(rows, pool, later)
        for found in later:
            assert isinstance(found.exception(timeout=30), DataFileError)
    assert readers() == []
    monkeypatch.setattr("os.preadv", exact)
    assert torch.equal(together(rows), points)


def test_an_interrupt_ends_the_reader_too(rows: OutsideRows, points: Tensor, place: str) -> None:
    with pytest.raises(KeyboardInterrupt) as kept:
        interrupted(rows, KeyboardInterrupt())
    # although the traceback still holds the frames
    assert kept.traceback
    assert readers() == []
    assert torch.equal(together(rows), points)


def test_a_signal_ends_the_wait_for_a_block(rows: OutsideRows, points: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, slow = BlockReader.read, threading.Event()

    def slowly(self: BlockReader, asked: AskedRows, memory: Tensor) -> Tensor:
        if asked.start == 20:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            slow.wait(0.2)
        return exact(self, asked, memory)

    monkeypatch.setattr(BlockReader, "read", slowly)
    # a process that was started in the background ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            together(rows)
    finally:
        signal.signal(signal.SIGINT, before)
    assert readers() == []
    monkeypatch.setattr(BlockReader, "read", exact)
    assert torch.equal(together(rows), points)


def test_a_forked_process_reads_by_itself(rows: OutsideRows, points: Tensor) -> None:
    with shared_blocks(rows, EVERYTHING) as parts:
        next(parts)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if torch.equal(together(rows), points) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sum(len(part.index) for part in parts) == COUNT - 10


def test_blocks_alone_wait_for_nobody(rows: OutsideRows, points: Tensor) -> None:
    with shared_blocks(rows, EVERYTHING) as parts:
        next(parts)
        assert torch.equal(torch.cat([part.values.clone() for part in blocks(rows)]), points)


def test_a_pass_within_a_pass_is_no_deadlock(rows: OutsideRows) -> None:
    with shared_blocks(rows, EVERYTHING) as parts:
        next(parts)
        with pytest.raises(AssertionError, match="wait for itself"), shared_blocks(rows, EVERYTHING):
            pass
