"""The processor time of other programs while something is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")


def watch_others() -> Callable[[], float | None]:
    """Return a function that returns how many processors other programs kept busy since this call, None if unknown."""
    began, before = time.perf_counter(), _seconds_of_others()

    def others() -> float | None:
        """Return how many processors others have used since then, or None where that is not known."""
        now = _seconds_of_others()
        if before is None or now is None:
            return None
        return max(0.0, (now - before) / (time.perf_counter() - began))

    return others


def _seconds_of_others() -> float | None:
    """Return the processor seconds since the start of the machine that are not of this process."""
    if not _STAT.exists():
        return None
    ticks = [int(word) for word in _STAT.read_text("ascii").split("\n", 1)[0].split()[1:9]]
    # user, nice, system, irq, softirq and steal: everything but idle and waiting for disks
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system
