"""The seconds of a call: of the best of a few runs, since other programs make runs slower and never quicker."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(call: Callable[[], object], runs: int = 5) -> float:
    """Return the seconds of the quickest of some runs of `call`, which has to wait for its device by itself."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
