"""Samples that are larger than the memory a process may have: the same bits as with all of it, each byte read once.

ORACLE_TEST_GIGABYTES sets the size of the data, for a run by hand: 6, with 600 MB of memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SIZE = int(1e9 * float(os.environ.get("ORACLE_TEST_GIGABYTES", "0.3")))
# of which the interpreter and torch take half
MEMORY = 600_000_000 if SIZE > 1e9 else 400_000_000
DIM, SHARDS, QUERIES = 3072, 8, 8

PROGRAM = """
import hashlib, sys, torch
import oracle_engine as oe

def counts():
    held = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(held["rchar"]), int(held["read_bytes"])

torch.set_num_threads(1)
labels = torch.randint(50, (int(sys.argv[2]),), generator=torch.Generator().manual_seed(0))
data = oe.load_dataset(sys.argv[1], labels=labels)
engine = oe.OracleEngine(data, mode="exact")
generator = torch.Generator().manual_seed(1)
x, t = torch.randn(8, data.dim, generator=generator), torch.linspace(0.1, 0.8, 8)
before = counts()
answer = engine.velocity(x, t)
read = max(now - then for now, then in zip(counts(), before))
conditional = engine.velocity(x, t, labels=torch.arange(8) * 6)
print(hashlib.sha256(answer.numpy().tobytes() + conditional.numpy().tobytes()).hexdigest(), read)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group whose processes share MEMORY bytes, page cache among them."""
    made = Path(f"/sys/fs/cgroup/memory/oracle-test-{os.getpid()}")
    if not os.access(made.parent / "memory.limit_in_bytes", os.W_OK):
        pytest.skip("control groups of memory (version 1) cannot be made here")
    made.mkdir()
    (made / "memory.limit_in_bytes").write_text(str(MEMORY))
    yield made
    made.rmdir()


def forget(path: Path) -> None:
    """Make the system read a file anew."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(folder: Path, count: int, group: Path | None) -> tuple[str, int]:
    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-c", PROGRAM, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
    assert done.returncode == 0, done.stderr
    digest, read = done.stdout.split()
    return digest, int(read)


@pytest.mark.slow
def test_samples_larger_than_memory_give_the_same_bits(tmp_path: Path, group: Path) -> None:
    count = SIZE // DIM // SHARDS
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip("the disk is too full")
    for number in range(SHARDS):
        values = np.random.default_rng(number).integers(0, 256, (count, DIM), dtype=np.uint8)
        np.save(tmp_path / f"shard{number}.npy", values)
    whole, _ = run(tmp_path, SHARDS * count, None)
    for shard in tmp_path.iterdir():
        forget(shard)
    limited, read = run(tmp_path, SHARDS * count, group)
    assert limited == whole
    assert read <= 1.1 * SIZE
