"""What comes before a call: `python -m bench.between`, times of a velocity after other work of the process, or none.

Threads that waited for the call before, or for a network of torch, may be awake or asleep, and hold processors that
others need. A velocity is asked for some times in a row after the same: another one, a network of a training step, or a
pause, as in a program that does nothing else; what comes before takes turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

import oracle_engine as oe
from oracle_engine.base.errors import OracleError
from oracle_engine.cli.commands.bench import listed_of
from oracle_engine.compare.workloads import Workload

from .data import load_data

# of the network: queries, values, layers
STEP, WIDTH, LAYERS = 256, 512, 4

# seconds
PAUSES = (0.005, 0.05)

# calls in a row, of which the first meets what the one before has left
IN_A_ROW = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the milliseconds of every case that the options name, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.between", description=__doc__)
    parser.add_argument("--data", default="digits", help="a built-in set or a file, with -fp32 its values as float32")
    parser.add_argument("--batch", type=listed_of(int), default=(16, 64, 256), help="queries of a call, with commas")
    parser.add_argument("--t", type=listed_of(float), default=(0.05, 0.5), help="times, with commas")
    parser.add_argument("--rounds", type=int, default=4, help=f"of {IN_A_ROW} calls in a row of each case")
    options = parser.parse_args(arguments)
    try:
        found = list(cases(load_data(options.data), options))
    except OracleError as error:
        sys.exit(f"{error}")
    json.dump(found, sys.stdout, indent=1)
    print()


def cases(data: oe.OracleDataset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of a velocity of each batch and time, by what came before."""
    engine, before = oe.OracleEngine(data), _before()
    for batch, t in product(options.batch, options.t):
        velocity = partial(engine.velocity, Workload(data, batch, t).draw().x, t)
        velocity()
        times: dict[str, list[float]] = {name: [] for name in before}
        for _ in range(options.rounds):
            for name, ask in before.items():
                times[name] += [_after(ask or velocity, velocity) for _ in range(IN_A_ROW)][1:]
        yield {"batch": batch, "t": t, "ms": {name: round(1e3 * median(some), 3) for name, some in times.items()}}


def _before() -> dict[str, Callable[[], Any] | None]:
    """Return what comes before a velocity, by name; None is the same velocity."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, WIDTH, generator=generator) for rows in (STEP, WIDTH))

    def network() -> None:
        values = x
        for _ in range(LAYERS):
            values = (values @ weight).relu() / WIDTH**0.5

    pauses = {f"pause of {1e3 * seconds:g} ms": partial(time.sleep, seconds) for seconds in PAUSES}
    return {"velocity": None, "network": network, **pauses}


def _after(before: Callable[[], Any], velocity: Callable[[], Any]) -> float:
    """Return the seconds of a velocity after something else."""
    before()
    start = time.perf_counter()
    velocity()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
