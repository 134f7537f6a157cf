"""A process that answers for one commit: `python bench/asked.py DATA COUNT ROOT`, for :mod:`bench.compare`.

It reads a workload a line, as JSON, and prints the seconds of a call. Nothing of `bench` is imported: the commit may be
older than it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch

import oracle_engine

# a call that is shorter is repeated for so long, and the median counts
TURN = 0.02

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Answer until the input ends."""
    name, count, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    origin = Path(oracle_engine.__file__).resolve()
    if not origin.is_relative_to(root.resolve()):
        sys.exit(f"the package comes from {origin}, not from {root}")
    data = oracle_engine.load_dataset(name, count=count or None)
    engine = oracle_engine.OracleEngine(data)
    print(json.dumps({"backend": engine.backend}), flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        generator = torch.Generator().manual_seed(0)
        t, batch = float(work["t"]), int(work["batch"])
        source = torch.randint(len(data), (batch,), generator=generator)
        noise = torch.randn(batch, *data.sample_shape, generator=generator)
        x = t * data[source].float() + (1 - t) * noise
        engine.velocity(x, t)
        print(json.dumps({"seconds": turn(partial(engine.velocity, x, t), CLOCKS[work["clock"]])}), flush=True)


def turn(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the median seconds of a call, asked for at least TURN."""
    found: list[float] = []
    while sum(found) < TURN and len(found) < 200:
        began = clock()
        call()
        found.append(max(clock() - began, 1e-9))
    return median(found)


if __name__ == "__main__":
    main()
