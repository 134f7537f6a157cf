"""Speed on a GPU in one command: `ORACLE_BACKEND=triton python -m bench.gpu`, under 9 minutes.

Every row is checked against float64 on the very queries that are timed, and set beside two floors that are measured
in the same run: the time to read the data once, and the time of the products at the measured rate of bf16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from oracle_engine.base.errors import invalid
from oracle_engine.base.machine.environment import environment_report
from oracle_engine.compare.floors import Floor, Need, Rates, rates_of
from oracle_engine.compare.record import OURS, OURS_RECORDED, Row
from oracle_engine.compare.workloads import Workload
from oracle_engine.kernels.gpu.core.configs import choose, scored_with
from oracle_engine.kernels.gpu.core.devices import device_of
from oracle_engine.kernels.gpu.scans.one_read import reading_once

from .__main__ import RESULTS, say
from .comparison import Comparison
from .gpu_cases import CASES, Case, draw, warm, warm_together
from .record import document_of, machine_name, rows_of, write_json

# time of the products of an exact answer for each pair of a row and a query, in units of D at the 16-bit rate: two
# parts of the query for the logit, or three digits at twice that rate, and two parts of the weight for the mean
PRODUCTS = {"parts": 4.0, "digits": 3.5}


def need_of(case: Case, batch: int, operand: str) -> Need:
    """Return one read of the data, and the products of an answer in which all rows weigh, with `operand`."""
    return Need(float(case.bytes), 2.0 * PRODUCTS[operand] * batch * case.count * case.dim)


# seconds that the sides of a row are timed for
BUDGET = 0.2

# what tells rows apart
Key = tuple[str, int, str, str]


def measure(
    cases: Sequence[Case],
    rates: Rates,
    device: torch.device,
    *,
    limit: float,
    operand: str | None = None,
    done: Collection[Key] = (),
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield a row and its floors for every batch and time of the cases; stop before `limit` seconds are over.

    done: rows that are left out: the name of the data, the batch, the time and the operand of each. operand: the form
    of the query that 8-bit rows are multiplied by: digits, parts, both one after the other, or None for the one in the
    tuned tables.
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
                    used, work = operand_used(case, batch, device), Workload(data, batch, t)
                    if (case.name, batch, str(work.time_label), used) in done:
                        continue
                    row = contest.row(work, budget=BUDGET)
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
    return {**asdict(floor), "reached": floor.reached(ours.median_ms), "exact": ours.within}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all cases, write the rows after each, and return 1 where a timed result missed the accuracy bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="default: bench/results/<gpu>.json")
    parser.add_argument("--limit", type=float, default=420.0, metavar="SECONDS", help="start no row after this long")
    parser.add_argument("--operand", choices=("digits", "parts", "both"), help="what 8-bit rows are multiplied by")
    words = "answer single queries in one read of the rows, by a kernel that is off until it was timed; name --json too"
    parser.add_argument("--one-read", action="store_true", help=words)
    parser.add_argument("--resume", action="store_true", help="keep the rows of the file, and measure the others")
    parser.add_argument("--warm", metavar="K/N", help="only compile the kernels of every N-th batch from K on")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    if options.warm:
        share, shares = map(int, options.warm.split("/"))
        warm(CASES, device, share=share, shares=shares, operand=options.operand)
        return 0
    path = options.json or RESULTS / f"{machine_name(device)}.json"
    warm_together(CASES, options.operand)
    with reading_once(options.one_read):
        return 0 if measured_into(path, device, options) else 1


def measured_into(path: Path, device: torch.device, options: argparse.Namespace) -> bool:
    """Measure all cases and write the rows after each; return whether all timed results met the accuracy bar.

    path: of the results, whose rows are kept where `options.resume` says so. device: the GPU. options: of the command.
    """
    rates, rows, floors = rates_of(device), list[Row](), list[dict[str, Any]]()
    if options.resume and path.exists():
        document = json.loads(path.read_text("utf-8"))
        rows, floors = rows_of(document), document["floors"]
    done = {(row.data, row.batch, str(row.t), floor["operand"]) for row, floor in zip(rows, floors, strict=True)}
    backend = environment_report()["settings"]["ORACLE_BACKEND"]
    settings = {"backend": backend, "device": str(device), "operand": options.operand, "one_read": options.one_read}
    for row, floor in measure(CASES, rates, device, limit=options.limit, operand=options.operand, done=done):
        rows.append(row)
        floors.append(floor)
        write_json(path, {**document_of(rows, settings, rates), "floors": floors})
        say(f"{row.data} B={row.batch} t={row.t} {json.dumps(asdict(row.sides[OURS]))} {json.dumps(floor)}")
    return bool(rows) and all(floor["exact"] for floor in floors)


if __name__ == "__main__":
    sys.exit(main())
