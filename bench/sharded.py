"""What ranks spend beside their scans: `python -m bench.sharded` times both on two processes of this machine.

Every rank scans its half with one thread; comparison and merge are timed after all ranks have come, so that none waits
for the scan of another. Printed are the best of some runs on the slower rank, in milliseconds by the clock and of CPU
time, and the share of the merge by both.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

import oracle_engine as oe
from oracle_engine.base.group.ranks import Ranks
from oracle_engine.scans.exchange import Exchange

# samples, values of each, and queries; runs of each case, and ranks
CASES = ((60_000, 784, 64), (20_000, 3_072, 64))
RUNS, RANKS = 9, 2


def main() -> None:
    """Print the figures of every case, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(1, RANKS):
            if os.fork() == 0:
                run(rank, Path(folder))
                os._exit(0)
        found = run(0, Path(folder))
        for _ in range(1, RANKS):
            os.wait()
    json.dump(found, sys.stdout, indent=1)
    print()


def run(rank: int, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of every case, on one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    return [
        measured(count, dim, batch, deterministic=deterministic)
        for count, dim, batch in CASES
        for deterministic in (True, False)
    ]


def measured(count: int, dim: int, batch: int, *, deterministic: bool) -> dict[str, Any]:
    """Return the figures of one case."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, dim), dtype=torch.uint8, generator=generator)
    data = oe.OracleDataset(pixels)
    engine = oe.sharded(data, deterministic=deterministic)
    facts: dict[str, Any] = {"samples": count, "dim": dim, "batch": batch, "deterministic": deterministic}
    for t in (0.05, 0.5, 0.9):
        noise = torch.randn(batch, dim, generator=generator)
        x = oe.path_sample("rectified_flow", data[:batch], noise, t)
        facts[f"t={t}"] = summary(timed_parts(engine, partial(engine.velocity, x, t)))
    return facts


def timed_parts(engine: oe.OracleEngine, call: Callable[[], Any]) -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds, by the clock and of CPU time, that RUNS calls spend in each of their parts."""
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    ranks: Ranks = engine.data.ranks  # type: ignore[attr-defined]
    compare, answered, working = Ranks.compare, Exchange.answered, Ranks.working

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        """Add what is spent inside to the part `name`."""
        began = time.perf_counter(), time.process_time()
        yield
        ended = time.perf_counter(), time.process_time()
        spent[name].append((1e3 * (ended[0] - began[0]), 1e3 * (ended[1] - began[1])))

    def timed_compare(*arguments: Any) -> Any:
        """Compare what ranks have been asked once all have come."""
        compare(ranks, "the start", [])
        with timed("compare"):
            return compare(*arguments)

    def timed_answered(*arguments: Any) -> Any:
        """Merge states once all ranks have come."""
        compare(ranks, "the start", [])
        with timed("merge"):
            return answered(*arguments)

    @contextmanager
    def timed_working(owner: Ranks) -> Iterator[None]:
        """Scan, as `owner`."""
        with working(owner), timed("scan"):
            yield

    with (
        patch.object(Ranks, "compare", timed_compare),
        patch.object(Exchange, "answered", timed_answered),
        patch.object(Ranks, "working", timed_working),
    ):
        for _ in range(RUNS):
            call()
    return spent


def summary(spent: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the best times of each part on the rank where they are longest, and what part the merge has."""
    best = torch.tensor([[min(one) for one in zip(*spent[name], strict=True)] for name in ("scan", "compare", "merge")])
    dist.all_reduce(best, op=dist.ReduceOp.MAX)
    scan, compare, merge = best
    share = ((compare + merge) / scan).tolist()
    named = {"scan": scan, "compare": compare, "merge": merge}
    return {name: [round(part, 2) for part in times.tolist()] for name, times in named.items()} | {
        "share": [round(part, 4) for part in share]
    }


if __name__ == "__main__":
    main()
