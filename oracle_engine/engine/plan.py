"""Which rows are scanned for which query, at what cost: decided before any work, and printable."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ..queries.classes import MAX_BATCH
from .outlook import RouteForecast


@dataclass(frozen=True)
class Plan:
    """What a query of `batch` points without labels will do; costs are those of the exact route.

    backend: the implementation; reason: why, in words. route: the ways it can take, as they are tried; late: when.
    memory: bytes beyond the data. operations: of the matrix products, at most. read: bytes of data.
    seconds: expected at most, when every block carries weight, at a matrix product rate measured just now.
    """

    data: str
    batch: int
    backend: str
    route: str
    reason: str
    late: RouteForecast
    memory: int
    operations: int
    read: int
    seconds: float

    def __str__(self) -> str:
        lines = {
            "data": self.data,
            "batch": f"{self.batch}",
            "backend": self.backend,
            "route": self.route,
            "reason": self.reason,
            "late": f"{self.late}",
            "memory": f"{self.memory / 2**20:,.1f} MiB beyond the data",
            "cost": f"at most {self.operations / 1e9:,.2f} GFLOP, {self.read / 2**20:,.1f} MiB read",
            "expected": f"at most {self.seconds * 1e3:,.1f} ms, from a matrix product timed now",
        }
        return "\n".join(f"{name:<9} {text}" for name, text in lines.items())


def product_rate(device: torch.device, batch: int, dim: int) -> float:
    """Return operations per second of a float32 product of this shape, the best of a few runs of milliseconds."""
    rows = torch.ones(512, dim, device=device)
    queries = torch.ones(dim, max(1, min(batch, MAX_BATCH)), device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (rows @ queries)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows.numel() * queries.shape[1] / best
