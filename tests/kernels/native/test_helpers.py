"""Threads that help with small scans: they come by themselves, change no bit, and disturb nobody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from closed_form import normal
from row_cases import EVERYTHING, assert_identical, make_query, whole

from oracle_engine.kernels import (
    Pairs,
    PosteriorState,
    Work,
    native_library,
    native_state,
    pairs_state,
    prepare_rows,
)
from oracle_engine.kernels.native.scan import NativeLimits

pytestmark = [
    pytest.mark.skipif(native_library().library is None, reason=native_library().reason),
    pytest.mark.usefixtures("two_threads"),
]

# Calls that are made until a helper has taken a share of one: it has to be awake before it ends. And seconds before
# each, in which the threads of the last parallel region fall asleep.
MOST_CALLS, PAUSE = 200, 0.05

CALLERS = 8


def small_work(generator: torch.Generator) -> Work:
    """Return a scan that is cut into two shares, and not worth waiting for a thread."""
    rows = prepare_rows(normal(1800, 64, generator).float(), None)
    return Work(rows, make_query(rows, generator, 96), whole(rows), EVERYTHING)


def shares_helped() -> int:
    library = native_library().library
    assert library is not None
    return int(library.oracle_shares_helped())


def regions_begun() -> int:
    library = native_library().library
    assert library is not None
    return int(library.oracle_regions_begun())


def helpers() -> list[Path]:
    """Return what the system knows of each thread that helps."""
    threads = Path("/proc/self/task").iterdir()
    return [thread for thread in threads if (thread / "comm").read_text().strip() == "oracle-helper"]


def asked_until_helped(state: Callable[[], PosteriorState]) -> None:
    before, first = shares_helped(), state()
    for _ in range(MOST_CALLS):
        time.sleep(PAUSE)
        assert_identical(state(), first)
        if shares_helped() > before:
            return
    pytest.fail(f"no helper took a share of {MOST_CALLS} calls")


def test_helpers_take_shares_of_scans_and_change_no_bit(generator: torch.Generator) -> None:
    work = small_work(generator)
    asked_until_helped(lambda: native_state(work))


def test_helpers_take_lists_of_rows_and_change_no_bit(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(500, 800, generator).float(), None)
    query = make_query(rows, generator, 32)
    named = torch.arange(32 * 20)
    pairs = Pairs(named // 20, named % 500, torch.zeros(len(named), dtype=torch.float64))
    asked_until_helped(lambda: pairs_state(rows, query, pairs, EVERYTHING))


def test_a_thread_that_asks_for_the_first_time_meets_the_threads_of_a_region(generator: torch.Generator) -> None:
    work = small_work(generator)
    first, before = native_state(work), regions_begun()

    def asked() -> PosteriorState:
        torch.set_num_threads(2)
        return native_state(work)

    with ThreadPoolExecutor(1) as pool:
        assert_identical(pool.submit(asked).result(), first)
    assert regions_begun() > before


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
def test_helpers_take_no_signals_and_use_any_processor_but_that_of_who_asks(generator: torch.Generator) -> None:
    work, processors = small_work(generator), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        native_state(work, limits=NativeLimits(threads=4))
    finally:
        os.sched_setaffinity(0, processors)
    asked_until_helped(lambda: native_state(work))
    found = helpers()
    assert found
    for thread in found:
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        blocked = int(status["SigBlk"], 16)
        assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM))
        used = os.sched_getaffinity(int(thread.name))
        assert used <= processors
        assert len(used) >= max(1, len(processors) - 1)
