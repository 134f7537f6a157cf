"""The server beside calls of the engine: `python -m bench.serving`, one run, sides in turns, ratios.

Requests of one query each from 1, 8 and 32 clients that keep their connections, against batch-1 calls of the same
engine without a server; how many scans answered them; and what the wire costs for [256, D] in binary.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import torch

from oracle_engine import OracleEngine, load_dataset
from oracle_engine.serving import Limits
from oracle_engine.serving.client.asking import Ask
from oracle_engine.serving.models import Model
from oracle_engine.serving.protocol import answer_body, parse

CLIENTS = (1, 8, 32)


@contextmanager
def listening(count: int) -> Iterator[tuple[int, int]]:
    """Yield the port of a server of `count` patches, a process of its own, and its number."""
    options = ["--data", "patches", "--count", str(count), "--port", "0", "--lame-duck", "0"]
    command = [sys.executable, "-m", "oracle_engine", "serve", "--log-level", "error", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1]), process.pid
        finally:
            process.terminate()


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process; 0 where the system does not tell it as Linux does."""
    file = Path(f"/proc/{pid}/stat")
    if not file.exists():
        return 0.0
    fields = file.read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def statistics(port: int) -> tuple[int, int]:
    """Return how many queries were answered, and by how many scans."""
    held = http.client.HTTPConnection("127.0.0.1", port)
    held.request("GET", "/v2/models/oracle/stats")
    (model,) = json.loads(held.getresponse().read())["model_stats"]
    held.close()
    return model["inference_count"], model["execution_count"]


def client(port: int, ask: Ask, ends: float) -> list[float]:
    """Return the seconds of each request until the time `ends`."""
    body, headers = ask.encoded()
    held, taken = http.client.HTTPConnection("127.0.0.1", port), []
    while (began := time.perf_counter()) < ends:
        held.request("POST", "/v2/models/oracle/infer", body, headers)
        response = held.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}")
        taken.append(time.perf_counter() - began)
    held.close()
    return taken


def served(port: int, ask: Ask, clients: int, seconds: float) -> tuple[list[float], float]:
    """Return the seconds of each request of `clients` at once, and scans a request."""
    before, ends = statistics(port), time.perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        taken = [one for held in pool.map(lambda _: client(port, ask, ends), range(clients)) for one in held]
    after = statistics(port)
    return taken, (after[1] - before[1]) / (after[0] - before[0])


def alone(engine: OracleEngine, x: torch.Tensor, seconds: float) -> list[float]:
    """Return the seconds of each call of the engine for one query."""
    taken, ends = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends:
        engine.velocity(x[:1], 0.3)
        taken.append(time.perf_counter() - began)
    return taken


def wire(engine: OracleEngine, x: torch.Tensor) -> float:
    """Return the median CPU seconds for reading and writing a binary request of all of `x`, without the answer."""
    model = Model("oracle", engine, Limits())
    body, headers = Ask(["velocity"], {"x": x, "t": torch.full((len(x),), 0.3, dtype=torch.float64)}).encoded()
    length, taken = int(next(iter(headers.values()))), []
    for _ in range(20):
        began = time.thread_time()
        inference = parse(bytearray(body), length)
        model.question(inference)
        b"".join(answer_body("oracle", inference, {"velocity": x})[0])
        taken.append(time.thread_time() - began)
    return median(taken)


@dataclass
class Side:
    """What so many clients at once got: requests a second, scans and processor seconds a request, and their times."""

    rates: list[float] = field(default_factory=list)
    scans: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--count", type=int, default=20000, help="photograph patches of 3,072 values (20000)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn (1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (5)")
    options = parser.parse_args()
    data = load_dataset("patches", count=options.count)
    engine = OracleEngine(data)
    x = torch.randn(256, *data.sample_shape)
    ask = Ask(["velocity"], {"x": x[:1], "t": torch.full((1,), 0.3, dtype=torch.float64)})
    calls: list[float] = []
    sides = {clients: Side() for clients in CLIENTS}
    with listening(options.count) as (port, pid):
        for _ in range(options.rounds):
            calls.append(len(alone(engine, x, options.seconds)) / options.seconds)
            for clients, side in sides.items():
                before = processor_seconds(pid)
                found, share = served(port, ask, clients, options.seconds)
                side.processor.append((processor_seconds(pid) - before) / len(found))
                side.rates.append(len(found) / options.seconds)
                side.scans.append(share)
                side.taken += found
    print(f"{data!r}, {torch.get_num_threads()} threads, medians of {options.rounds} turns")
    print(f"engine alone, batch 1: {median(calls):.0f} calls/s")
    for clients, side in sides.items():
        print(f"{clients:>3} clients: {line(side, sides[1])}")
    print(f"wire, binary [256, {data.dim:,}]: {1e3 * wire(engine, x):.1f} ms of processor time")


def line(side: Side, one: Side) -> str:
    """Return the figures of a side, with ratios to `one` client turn by turn."""
    cuts = quantiles(side.taken, n=100)
    more = median(many / single for many, single in zip(side.rates, one.rates, strict=True))
    return (
        f"{median(side.rates):.0f} requests/s ({more:.2f}x), {median(side.scans):.2f} scans and "
        f"{1e3 * median(side.processor):.1f} ms of processor time a request, "
        f"p50 {1e3 * cuts[49]:.1f} ms, p99 {1e3 * cuts[98]:.1f} ms"
    )


if __name__ == "__main__":
    main()
