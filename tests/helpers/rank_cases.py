"""Ranks for tests: processes forked from this one, so that nothing is imported again."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import torch
import torch.distributed as dist

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
        self.pids = [self._fork(rank, count, work) for rank in range(count)]
        self.began = time.monotonic()

    def results(self, *, gone: tuple[int, ...] = ()) -> list[Any]:
        """Return what each rank returned, or the exception that it raised; None for those that are `gone`."""
        return [None if rank in gone else self._result(rank) for rank in range(len(self.pids))]

    def end(self) -> None:
        """Kill the ranks that have not ended."""
        for pid in self.pids:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.pids = [0] * len(self.pids)

    def _fork(self, rank: int, count: int, work: Work) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            torch.set_num_threads(1)
            # every shard is a call of a kernel: checks of annotations would take most of the time
            jaxtyping.config.update("jaxtyping_disable", True)
            dist.init_process_group("gloo", init_method=self.meeting_point, rank=rank, world_size=count)
            found = work(rank)
            status = 0
        except BaseException as error:
            found = error
            (self.folder / f"trace-{rank}").write_text(traceback.format_exc())
        try:
            (self.folder / f"part-{rank}").write_bytes(pickle.dumps(found))
            (self.folder / f"part-{rank}").rename(self.folder / f"result-{rank}")
        finally:
            os._exit(status)

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
