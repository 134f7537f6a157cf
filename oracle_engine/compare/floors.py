"""Floors: the least time that this machine needs for an answer, from its rates as measured in the same run.

An answer reads every row once, multiplies every query with every row, and sums the rows that have weight. No side can
be faster than the larger of the two times, unless its data stay in a cache, or its products have fewer digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import OracleDataset
from .timing import settle
from .workloads import Batch

# an answer may leave out samples that hold less than this share of a posterior
OMITTED = 1e-6

# float32 numbers that are read to find the rate of memory: far more than any cache holds
READ = 1 << 26

# sides of square products that stay in cache
SQUARES = (256, 384, 512, 768, 1024)

ROUNDS = 5


@dataclass(frozen=True)
class Need:
    """What an answer to a batch cannot do without: bytes that are read once, and operations of its products."""

    read: float
    operations: float

    @classmethod
    def of(cls, data: OracleDataset, batch: Batch, weights: Tensor) -> Need:
        """Return the need of an exact answer, from the posteriors [b, N] of the first b queries of the batch."""
        size, dim = len(batch.x), data.dim
        if batch.labels is None:
            rows, pairs = float(len(data)), float(size * len(data))
        else:
            asked = [data.segments[label] for label in batch.labels.tolist()]
            rows, pairs = float(sum(map(len, set(asked)))), float(sum(map(len, asked)))
        weighed = float(heavy_rows(weights).sum()) * size / len(weights)
        return cls(rows * dim * data.storage.itemsize, 2.0 * dim * (pairs + weighed))


@dataclass(frozen=True)
class Floor:
    """The milliseconds of one read and of the products of an answer."""

    read_ms: float
    products_ms: float

    def reached(self, milliseconds: float) -> float:
        """Return the share of the higher floor in a measured time."""
        return max(self.read_ms, self.products_ms) / milliseconds


@dataclass(frozen=True)
class Rates:
    """Rates of this machine in this run, per second, and the calls that reached them.

    read: bytes; product: operations of float32 products on a CPU, of bf16 products on a GPU.
    """

    read: float
    product: float
    read_by: str
    product_by: str

    @classmethod
    def measured(cls) -> Rates:
        """Measure both on the CPU: the best library calls there are, in about two seconds."""
        read_by, read = _best(_reads())
        product_by, product = _best(_products())
        return cls(read, product, read_by, product_by)

    def floor(self, need: Need) -> Floor:
        """Return the time of what an answer needs."""
        return Floor(1e3 * need.read / self.read, 1e3 * need.operations / self.product)


def rates_of(device: torch.device) -> Rates:
    """Return the rates of a device: on CUDA of a copy and of a bf16 product, on operands far larger than a cache."""
    if device.type != "cuda":
        return Rates.measured()
    source = torch.ones(1 << 29, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    seconds = _cuda_seconds(lambda: target.copy_(source))
    side = 8192
    factor = torch.randn(side, side, device=device).bfloat16()
    product = 2 * side**3 / _cuda_seconds(lambda: factor @ factor)
    return Rates(2 * source.numel() * source.itemsize / seconds, product, "copy", f"bf16 {side} x {side}")


def heavy_rows(weights: Tensor) -> Tensor:
    """Return how few samples hold all but OMITTED of each posterior [b, N], as [b] int64."""
    held = weights.sort(dim=1, descending=True).values.cumsum(1)
    return (held < 1 - OMITTED).sum(1) + 1


def _reads() -> Mapping[str, tuple[float, Callable[[], object]]]:
    """Return the bytes that each call reads or writes, and the call."""
    source = torch.ones(READ)
    target = torch.empty_like(source)
    return {
        "torch copy": (2.0 * source.nbytes, lambda: target.copy_(source)),
        "torch sum": (1.0 * source.nbytes, source.sum),
        "torch dot": (2.0 * source.nbytes, lambda: torch.dot(source, target)),
    }


def _products() -> Mapping[str, tuple[float, Callable[[], object]]]:
    """Return the operations of each call, and the call; libraries alone, which may not reach what the cores do."""
    found: dict[str, tuple[float, Callable[[], object]]] = {}
    for side in SQUARES:
        factor, operations = torch.rand(side, side), 2.0 * side**3
        found[f"torch {side} x {side}"] = operations, partial(torch.mm, factor, factor)
        found[f"NumPy {side} x {side}"] = operations, partial(np.matmul, factor.numpy(), factor.numpy())
    return found


def _best(probes: Mapping[str, tuple[float, Callable[[], object]]]) -> tuple[str, float]:
    rates = {name: amount / _seconds(call) for name, (amount, call) in probes.items()}
    fastest = max(rates, key=lambda name: rates[name])
    return fastest, rates[fastest]


def _seconds(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls on the CPU."""
    # a rate is what the machine can do, so that the fastest round counts
    settle()
    rounds: list[float] = []
    while len(rounds) < ROUNDS or sum(rounds) < 0.05:
        began = time.perf_counter()
        call()
        rounds.append(time.perf_counter() - began)
    return min(rounds)


def _cuda_seconds(call: Callable[[], object], rounds: int = 20) -> float:
    """Return the mean seconds of a call on the CUDA device."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        call()
    begin.record()
    for _ in range(rounds):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / rounds
