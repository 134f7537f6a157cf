"""What a pass over samples that are streamed takes, from rates that are measured on the samples themselves."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from ...base.outside.block_reader import BlockReader
from ...base.outside.lanes import lane_of
from ...base.outside.rows import BLOCK_BYTES, OutsideRows
from ...base.sizes import in_words
from .scan_timing import scan_seconds
from .timing import best_seconds

if TYPE_CHECKING:
    from ..engine import OracleEngine

# blocks that are read to learn the rate, and how often a copy is timed
READ_BLOCKS, COPY_RUNS = 3, 3


@dataclass(frozen=True)
class PassForecast:
    """What a pass takes for a batch of queries; rates are bytes of samples a second, measured just now.

    size: bytes of a pass. read: at which a thread reads them, from the disk or from what the system keeps of it, or
    None where they are scanned in place. copy: at which they come to the device, or None where they are scanned on the
    host. scan: at which they are scanned for the batch, early in t. seconds: of a pass, whose parts overlap but for the
    first block of each; on a CPU the thread that reads takes time of the scan.
    """

    size: int
    read: float | None
    copy: float | None
    scan: float
    seconds: float

    def __str__(self) -> str:
        """Return the seconds and the rates in words."""
        rates = {"read": self.read, "copied": self.copy, "scanned": self.scan}
        words = ", ".join(f"{name} at {in_words(rate)}/s" for name, rate in rates.items() if rate is not None)
        return f"{self.seconds:,.3g} s for {in_words(self.size)}: {words}; timed now"


def forecast_pass(engine: OracleEngine, batch: int) -> PassForecast | None:
    """Return what a pass of `engine` for `batch` queries takes, or None where its samples are not streamed.

    Costs a read of a few blocks, a copy of one, and a few scans of one.
    """
    stored = engine.data.rows.stored
    if not isinstance(stored, OutsideRows):
        return None
    block = min(stored.nbytes, stored.block_bytes or BLOCK_BYTES)
    read, scan = read_rate(stored), scan_rate(engine, batch)
    copy = transfer_rate(stored.device, block) if stored.device.type == "cuda" else None
    rates = [rate for rate in (read, copy, _beside(read, scan, stored.device)) if rate is not None]
    # the slowest part sets the pace once the first block has passed through the others
    first = sum(block / rate for rate in rates) - block / min(rates)
    return PassForecast(stored.nbytes, read, copy, scan, stored.nbytes / min(rates) + first)


def _beside(read: float | None, scan: float, device: torch.device) -> float:
    """Return the rate of a scan beside a thread that reads: on a CPU it takes one of the cores that the scan shares."""
    taken = 0.0 if read is None or device.type != "cpu" else 1.0 / (read * torch.get_num_threads())
    return 1.0 / (1.0 / scan + taken)


def read_rate(stored: OutsideRows) -> float | None:
    """Return the bytes a second at which blocks are read and brought in order, or None where they are used in place.

    Reads the first READ_BLOCKS blocks.
    """
    with closing(BlockReader(stored, None)) as reader:
        memory = torch.empty(reader.size * reader.row_bytes, dtype=torch.uint8)
        # what the system has to find memory for at first
        memory.fill_(0)
        if stored.device.type == "cpu" and reader.in_place(next(reader.asked())) is not None:
            return None
        start, count = time.perf_counter(), 0
        for asked in islice(reader.asked(), READ_BLOCKS):
            reader.read(asked, memory)
            count += len(asked) * reader.row_bytes
        return count / (time.perf_counter() - start)


def transfer_rate(device: torch.device, block_bytes: int) -> float:
    """Return the bytes a second at which a block of so many bytes comes from pinned memory to a CUDA device."""
    with closing(lane_of(block_bytes, device)) as lane:
        index, values = torch.zeros(1, dtype=torch.int64), lane.memory(0)

        def copy() -> None:
            """Copy the block once, and wait for it."""
            lane.send(0, index, values, []).copied.synchronize()

        return block_bytes / best_seconds(copy, COPY_RUNS)


def scan_rate(engine: OracleEngine, batch: int) -> float:
    """Return the bytes a second at which `engine` scans samples for `batch` queries, those of one block of its rows."""
    data, stored = engine.data, engine.data.rows.stored
    count = max(1, min(len(data), BLOCK_BYTES * len(data) // stored.nbytes))
    return stored.nbytes / len(data) * count / scan_seconds(engine, batch, count)
