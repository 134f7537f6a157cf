"""The data sets of the GPU bench, and their kernels compiled by many processes at once before any is timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.compare.workloads import Workload
from oracle_engine.kernels.gpu.core.configs import scored_with

# values of random data that are drawn at once
DRAWN = 1 << 26

# rows that a kernel is compiled with: counts are no part of what is compiled
FEW_ROWS = 4096


@dataclass(frozen=True)
class Case:
    """One data set and the workloads over it; `peers` are those whose float32 copy of the data fits beside it."""

    count: int
    dim: int
    storage: torch.dtype
    batches: tuple[int, ...]
    times: tuple[float, ...] = (0.05, 0.3, 0.8)
    peers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the data set in reports."""
        return f"random-{self.count}x{self.dim}-{str(self.storage).removeprefix('torch.')}"

    @property
    def bytes(self) -> int:
        """The size of the stored samples."""
        return self.count * self.dim * self.storage.itemsize


PEERS = ("eager", "tf32", "bf16")

# what matters most comes first: a run that is cut has lost the least
CASES = (
    Case(1_280_000, 4096, torch.float16, (1, 64, 256), peers=("eager", "bf16")),
    Case(50_000, 3072, torch.uint8, (1, 16, 64, 256), peers=PEERS),
    Case(50_000, 3072, torch.float16, (1, 64, 256), peers=PEERS),
    Case(1_280_000, 12_288, torch.uint8, (64,)),
    Case(50_000, 3072, torch.float32, (1, 64, 256), peers=PEERS),
    Case(50_000, 3072, torch.bfloat16, (1, 64, 256)),
    Case(50_000, 784, torch.uint8, (1, 64, 256, 1024), peers=PEERS),
    Case(50_000, 128, torch.float16, (1, 64, 256), peers=(*PEERS, "sdpa")),
    Case(200_000, 2, torch.float32, (256,), peers=PEERS),
    Case(300_000, 16_384, torch.float16, (64, 256)),
)


def draw(case: Case, device: torch.device) -> OracleDataset:
    """Return Gaussian samples, or the same as 8-bit pixels."""
    generator = torch.Generator(device).manual_seed(0)
    points = torch.empty(case.count, case.dim, dtype=case.storage, device=device)
    for part in points.split(max(1, DRAWN // case.dim)):
        values = torch.randn(part.shape, generator=generator, device=device)
        part.copy_((values * 50 + 128).clamp_(0, 255) if case.storage == torch.uint8 else values)
    return OracleDataset(points, name=case.name)


def warm(cases: Sequence[Case], device: torch.device, *, share: int, shares: int, operand: str | None) -> None:
    """Compile the kernels of every `shares`-th batch of the cases from `share` on, by one answer for each.

    device: the GPU. operand: as in :func:`.gpu.measure`.
    """
    for number, (case, batch) in enumerate(_batches(cases)):
        if number % shares == share:
            data = draw(replace(case, count=min(case.count, FEW_ROWS)), device)
            drawn = Workload(data, batch, case.times[0]).draw()
            for wanted in ("digits", "parts") if operand == "both" else (operand,):
                with scored_with(wanted):
                    OracleEngine(data, device=device).velocity(drawn.x, drawn.t)


def warm_together(cases: Sequence[Case], operand: str | None) -> None:
    """Run :func:`warm` in a process for each processor but two, and wait for all; one that fails is timed compiling."""
    shares = max(1, min(len(list(_batches(cases))), (os.cpu_count() or 3) - 2))
    command = [sys.executable, "-m", "bench.gpu", *(() if operand is None else ("--operand", operand))]
    running = [subprocess.Popen([*command, "--warm", f"{share}/{shares}"]) for share in range(shares)]
    for process in running:
        process.wait()


def _batches(cases: Sequence[Case]) -> Iterator[tuple[Case, int]]:
    for case in cases:
        yield from product((case,), case.batches)
