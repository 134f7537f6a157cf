"""Ranks for tests: processes forked from this one, so that nothing is imported again."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from forks import forked

# what ranks need is imported once, before they are forked
import oracle_engine.engine.sharded  # noqa: F401

# seconds after which ranks that have not ended are killed
DEADLINE = 120.0

# what a rank does: called with its number
Work = Callable[[int], Any]


class Ranks:
    """Forked processes, each a rank of one process group, which do some work and leave what it returned or raised."""

    def __init__(self, folder: Path, count: int, work: Work, *, store: str = "file") -> None:
        """Start `count` ranks, each to call `work` with its number.

        They meet by a file in `folder`, or, where `store` is "tcp", by a store that rank 0 keeps.
        """
        self.folder = folder / f"ranks-{time.monotonic_ns()}"
        self.folder.mkdir()
        self.meeting_point = f"file://{self.folder}/store" if store == "file" else f"tcp://127.0.0.1:{free_port()}"
        self.pids = [forked(partial(self._run, rank, count, work)) for rank in range(count)]
        self.began = time.monotonic()

    def results(self, *, gone: tuple[int, ...] = ()) -> list[Any]:
        """Return what each rank returned, or the exception that it raised; None for those that are `gone`."""
        return [None if rank in gone else self._result(rank) for rank in range(len(self.pids))]

    def wait_for(self, *files: Path) -> None:
        """Wait until all `files` are there; an error of a rank is raised here."""
        while not all(path.exists() for path in files):
            for path in self.folder.glob("trace-*"):
                raise AssertionError(f"a rank has failed:\n{path.read_text()}")
            if time.monotonic() - self.began > DEADLINE:
                raise AssertionError(f"{[path.name for path in files if not path.exists()]} did not come")
            time.sleep(0.01)

    def end(self) -> None:
        """Kill the ranks that have not ended."""
        for pid in self.pids:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.pids = [0] * len(self.pids)

    def _run(self, rank: int, count: int, work: Work) -> None:
        """Leave what `work` returned or raised; the error ends the process with status 1."""
        try:
            dist.init_process_group("gloo", init_method=self.meeting_point, rank=rank, world_size=count)
            self._leave(rank, work(rank))
        except BaseException as error:
            (self.folder / f"trace-{rank}").write_text(traceback.format_exc())
            self._leave(rank, error)
            raise

    def _leave(self, rank: int, found: Any) -> None:
        (self.folder / f"part-{rank}").write_bytes(pickle.dumps(found))
        (self.folder / f"part-{rank}").rename(self.folder / f"result-{rank}")

    def _result(self, rank: int) -> Any:
        while time.monotonic() - self.began < DEADLINE:
            pid, _ = os.waitpid(self.pids[rank], os.WNOHANG)
            if pid:
                self.pids[rank] = 0
                return pickle.loads((self.folder / f"result-{rank}").read_bytes())
            time.sleep(0.005)
        self.end()
        raise AssertionError(f"rank {rank} did not end")


def free_port() -> int:
    """Return the number of a port that nobody listens to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


def on_ranks(folder: Path, count: int, work: Work) -> list[Any]:
    """Return what `work` returns on each of `count` ranks; an exception of one of them is raised here."""
    ranks = Ranks(folder, count, work)
    try:
        found = ranks.results()
    finally:
        ranks.end()
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found
