"""Processes forked from this one, so that nothing is imported again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import jaxtyping
import torch


def forked(work: Callable[[], None]) -> int:
    """Return the number of a process forked from this one that calls `work` and ends, with status 1 where it raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        # many calls of kernels: checks of annotations would take most of the time
        jaxtyping.config.update("jaxtyping_disable", True)
        work()
        status = 0
    finally:
        os._exit(status)


def killed(pid: int) -> bool:
    """Kill a process that :func:`forked` returned, and return whether it had not ended by itself."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
