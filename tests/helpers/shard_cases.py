"""Folders of shards, and data sets whose samples stay in them however small they are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from oracle_engine.base.outside import block_reader
from oracle_engine.base.outside import rows as outside_rows
from oracle_engine.data import samples


def write_shards(folder: Path, points: Tensor, labels: Tensor | None = None, count: int = 3) -> Path:
    """Write samples to `count` shards of different sizes."""
    folder.mkdir(exist_ok=True)
    ends = [len(points) * number * (number + 1) // (count * (count + 1)) for number in range(count + 1)]
    for number, (start, stop) in enumerate(pairwise(ends)):
        tensors = {"points": points[start:stop].contiguous()}
        if labels is not None:
            tensors["labels"] = labels[start:stop].contiguous()
        save_file(tensors, folder / f"shard{number}.safetensors")
    return folder


def leave_in_files(monkeypatch: pytest.MonkeyPatch, block_bytes: int = 1000) -> None:
    """Leave samples in their files, and read them in blocks of so many bytes."""
    monkeypatch.setattr(samples, "READ_BYTES", 0)
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(outside_rows, "BLOCK_BYTES", block_bytes)


def bytes_read() -> int:
    """Return how many bytes this process has read, but for those of mapped files."""
    file = Path("/proc/self/io")
    if not file.exists():
        pytest.skip("only Linux counts what a process reads")
    return int(file.read_text().split("rchar: ")[1].split()[0])
