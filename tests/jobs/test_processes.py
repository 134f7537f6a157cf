"""Processes are started again where they are killed, and stopped where one of them cannot go on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pool_tasks
import pytest

from oracle_engine import InputError
from oracle_engine.jobs.processes import on_processes


def test_killed_processes_are_started_again(tmp_path: Path) -> None:
    on_processes(2, partial(pool_tasks.killed_once, tmp_path), lambda: len(list(tmp_path.iterdir())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1", "killed"]


def test_processes_that_are_killed_before_they_do_anything_are_given_up() -> None:
    with pytest.raises(InputError, match="`workers` must have the memory that each of them needs"):
        on_processes(1, pool_tasks.killed, lambda: 0)


def test_an_error_stops_the_others_and_is_raised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a NaN in query 7") as caught:
        on_processes(2, partial(pool_tasks.one_fails, tmp_path), lambda: 0)
    assert (caught.value.parameter, caught.value.remedy) == ("x", "look at it")
    assert (tmp_path / "told").exists()
