"""Threads that help with small scans: they come by themselves, change no bit, and disturb nobody."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from closed_form import normal
from row_cases import EVERYTHING, assert_identical, make_query, whole

from oracle_engine.kernels import Work, native_library, native_state, prepare_rows
from oracle_engine.kernels.native.scan import NativeLimits

pytestmark = [
    pytest.mark.skipif(native_library().library is None, reason=native_library().reason),
    pytest.mark.usefixtures("two_threads"),
]

# scans that are asked for until a helper has taken a share of one: it has to be awake before a scan ends
MOST_SCANS = 2000

CALLERS = 8


def small_work(generator: torch.Generator) -> Work:
    """Return a scan that is cut into two shares, and not worth waiting for a thread."""
    rows = prepare_rows(normal(1800, 64, generator).float(), None)
    return Work(rows, make_query(rows, generator, 96), whole(rows), EVERYTHING)


def shares_helped() -> int:
    library = native_library().library
    assert library is not None
    return int(library.oracle_shares_helped())


def helpers() -> list[Path]:
    """Return what the system knows of each thread that helps."""
    threads = Path("/proc/self/task").iterdir()
    return [thread for thread in threads if (thread / "comm").read_text().strip() == "oracle-helper"]


def asked_until_helped(work: Work) -> None:
    before, first = shares_helped(), native_state(work)
    for _ in range(MOST_SCANS):
        assert_identical(native_state(work), first)
        if shares_helped() > before:
            return
    pytest.fail(f"no helper took a share of {MOST_SCANS} scans")


def test_helpers_take_shares_and_change_no_bit(generator: torch.Generator) -> None:
    asked_until_helped(small_work(generator))


def test_a_scan_of_one_share_is_not_helped(generator: torch.Generator) -> None:
    work, before = small_work(generator), shares_helped()
    for _ in range(20):
        native_state(work, limits=NativeLimits(threads=1))
    assert shares_helped() == before


def test_many_that_ask_at_once_get_the_same_bits(generator: torch.Generator) -> None:
    works = [small_work(generator) for _ in range(CALLERS)]
    first = [native_state(work) for work in works]

    def asked(caller: int) -> None:
        torch.set_num_threads(2)
        for _ in range(25):
            assert_identical(native_state(works[caller]), first[caller])

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(asked, range(CALLERS)))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads there")
def test_helpers_take_no_signals_and_may_use_every_processor(generator: torch.Generator) -> None:
    work, processors = small_work(generator), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        native_state(work, limits=NativeLimits(threads=4))
    finally:
        os.sched_setaffinity(0, processors)
    asked_until_helped(work)
    found = helpers()
    assert found
    for thread in found:
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        blocked = int(status["SigBlk"], 16)
        assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM))
        assert os.sched_getaffinity(int(thread.name)) == processors
