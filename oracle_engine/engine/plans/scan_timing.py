"""The seconds of a scan, of an engine's own kernels over some of its samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...data.dataset import OracleDataset
from .timing import best_seconds

if TYPE_CHECKING:
    from ..engine import OracleEngine

# early in t, where every sample has weight
TIME = 0.1

SCAN_RUNS = 3


def scan_seconds(engine: OracleEngine, batch: int, count: int) -> float:
    """Return the seconds of an exact answer of `engine` to `batch` queries over its first `count` samples, early in t.

    The quickest of SCAN_RUNS counts; the queries are `count` samples at most with noise on them.
    """
    data = engine.data
    few = OracleDataset(data.rows.stored[:count].reshape(count, *data.sample_shape), value_map=data.value_map)
    timed = type(engine)(few, engine.path, backend=engine.backend, precision=engine.precision, mode="exact")
    own = few[torch.arange(batch) % count]
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
    x = TIME * own + (1.0 - TIME) * noise

    def scan() -> None:
        """Answer the queries once, and wait for it."""
        # reading a value waits for the device
        timed.velocity(x, TIME).reshape(-1)[0].item()

    # what a first call allocates or compiles is no part of others
    scan()
    return best_seconds(scan, SCAN_RUNS)
