"""Speed on a GPU in one command: `ORACLE_BACKEND=triton python -m bench.gpu`, under 9 minutes.

Every row is checked against float64 on the very queries that are timed, and set beside two floors that are measured
in the same run: the time to read the data once, and the time of the products at the measured rate of bf16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from oracle_engine import OracleDataset
from oracle_engine.base.environment import environment_report
from oracle_engine.base.errors import invalid
from oracle_engine.kernels.gpu.configs import choose, scored_with
from oracle_engine.kernels.gpu.devices import device_of

from .__main__ import RESULTS, say
from .compare import Comparison
from .floors import Floor, Need, Rates
from .record import OURS, OURS_RECORDED, Row, document_of, machine_name, write_json
from .workloads import Workload

# time of the products of an exact answer for each pair of a row and a query, in units of D at the 16-bit rate: two
# parts of the query for the logit, or three digits at twice that rate, and two parts of the weight for the mean
PRODUCTS = {"parts": 4.0, "digits": 3.5}

# values of random data that are drawn at once
DRAWN = 1 << 26


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


ALL_PEERS = ("eager", "compiled", "tf32", "bf16")

CASES = (
    Case(50_000, 128, torch.float16, (1, 16, 64, 256), peers=(*ALL_PEERS, "sdpa")),
    Case(50_000, 784, torch.uint8, (1, 16, 64, 256, 1024), peers=ALL_PEERS),
    Case(50_000, 3072, torch.uint8, (1, 16, 64, 256), peers=ALL_PEERS),
    Case(50_000, 3072, torch.bfloat16, (1, 64, 256)),
    Case(50_000, 3072, torch.float32, (1, 64, 256)),
    Case(1_280_000, 4096, torch.float16, (1, 64, 256), peers=("eager", "bf16")),
    Case(1_280_000, 12_288, torch.uint8, (64,)),
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


def rates_of(device: torch.device) -> Rates:
    """Return the rates of a copy and of a bf16 product, on operands far larger than a cache."""
    source = torch.ones(1 << 29, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source))
    side = 8192
    factor = torch.randn(side, side, device=device).bfloat16()
    product = 2 * side**3 / _seconds(lambda: factor @ factor)
    return Rates(2 * source.numel() * source.itemsize / seconds, product, "copy", f"bf16 {side} x {side}")


def need_of(case: Case, batch: int, operand: str) -> Need:
    """Return one read of the data, and the products of an answer in which all rows weigh, with `operand`."""
    return Need(float(case.bytes), 2.0 * PRODUCTS[operand] * batch * case.count * case.dim)


def measure(
    cases: Sequence[Case], rates: Rates, device: torch.device, *, limit: float, operand: str | None = None
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield a row and its floors for every batch and time of the cases; stop before `limit` seconds are over.

    operand: the form of the query that 8-bit rows are multiplied by: digits, parts, both one after the other, or None
    for the one in the tuned tables.
    """
    began = time.perf_counter()
    for case in cases:
        if case.bytes > 0.8 * torch.cuda.mem_get_info(device)[0]:
            say(f"{case.name} left out: it does not fit")
            continue
        data = draw(case, device)
        for place, wanted in enumerate(operands(case, operand)):
            # each operand needs sides of its own, since a graph keeps what it recorded; peers run once
            contest = Comparison(data, (OURS, OURS_RECORDED, *(case.peers if place == 0 else ())), say)
            for batch, t in product(case.batches, case.times):
                if time.perf_counter() - began > limit:
                    return
                with scored_with(wanted):
                    used = operand_used(case, batch, device)
                    row = contest.row(Workload(data, batch, t), budget=1.0)
                yield row, {"operand": used, **against_floor(row, rates.floor(need_of(case, batch, used)))}
            del contest
        del data
        torch.cuda.empty_cache()


def operands(case: Case, wanted: str | None) -> tuple[str | None, ...]:
    """Return the operands that a case is measured with, one after the other; only 8-bit data have two."""
    if case.storage.itemsize > 1:
        return (None,)
    return ("digits", "parts") if wanted == "both" else (wanted,)


def operand_used(case: Case, batch: int, device: torch.device) -> str:
    """Return the operand of the Triton kernels in this case: parts wherever one program holds all of D."""
    config = choose(device_of(device), case.storage, batch, case.dim)
    return config.operand if config.fused is None else "parts"


def against_floor(row: Row, floor: Floor) -> dict[str, Any]:
    """Return the floor, and its share in the time of the engine."""
    ours = row.sides[OURS]
    return {**asdict(floor), "reached": floor.reached(ours.median_ms), "exact": ours.exact}


def _seconds(call: Any, rounds: int = 20) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        call()
    begin.record()
    for _ in range(rounds):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / rounds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all cases, write the rows after each, and return 1 where a timed result missed the accuracy bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="default: bench/results/<gpu>.json")
    parser.add_argument("--limit", type=float, default=420.0, metavar="SECONDS", help="start no row after this long")
    parser.add_argument("--operand", choices=("digits", "parts", "both"), help="what 8-bit rows are multiplied by")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    path = options.json or RESULTS / f"{machine_name(device)}.json"
    rates = rates_of(device)
    rows: list[Row] = []
    floors: list[dict[str, Any]] = []
    backend = environment_report()["settings"]["ORACLE_BACKEND"]
    settings = {"backend": backend, "device": str(device), "operand": options.operand}
    for row, floor in measure(CASES, rates, device, limit=options.limit, operand=options.operand):
        rows.append(row)
        floors.append(floor)
        write_json(path, {**document_of(rows, settings, rates), "floors": floors})
        say(f"{row.data} B={row.batch} t={row.t} {json.dumps(asdict(row.sides[OURS]))} {json.dumps(floor)}")
    return 0 if rows and all(floor["exact"] for floor in floors) else 1


if __name__ == "__main__":
    sys.exit(main())
