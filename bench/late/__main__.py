"""Time the late route beside the exact one and FAISS: `python -m bench.late --data patches --t .3,.5 --budget 1`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import torch

from oracle_engine.base.errors import OracleError
from oracle_engine.cli.commands.bench import listed_of
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.load import watch_others
from oracle_engine.compare.tables import as_text
from oracle_engine.compare.timing import Timing, interleave
from oracle_engine.compare.truth import relative_error
from oracle_engine.compare.workloads import HELD, TRAINING

from ..__main__ import RESULTS, names_of, say
from ..data import KNOWN, is_known
from ..record import document_of, machine_name, read_json, write_json
from .figure import late_figure
from .ode import ode_row
from .record import EXACT, LateRow, LateSide, late_rows
from .report import COLUMNS, late_lines
from .sides import Answered, Sides
from .split import Split

CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the workloads that the options name, print the table and write the rows; or show rows of a file."""
    options = parse_options(arguments)
    shown = options.figure or options.table
    if shown is None:
        torch.set_num_threads(options.threads or torch.get_num_threads())
        try:
            print(as_text(COLUMNS, late_lines(measure(options))))
        except OracleError as error:
            sys.exit(f"{error}")
        return
    rows = late_rows(read_json(shown))
    if options.figure is not None:
        late_figure(rows, options.out)
    else:
        print(as_text(COLUMNS, late_lines(rows)))


def measure(options: argparse.Namespace) -> list[LateRow]:
    """Return the measured rows; the JSON file is written again after each."""
    path = options.json or RESULTS / f"late-{machine_name(CPU)}.json"
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("count", "tolerance", "budget", "limit")}
    rows: list[LateRow] = []
    rates = Rates.measured()
    began = time.perf_counter()
    for name in options.data:
        split = Split.load(name, options.count)
        sides = Sides(split, options.tolerance, options.cache, rates)
        say(f"{split.data!r} prepared")
        for row in _rows(sides, options):
            rows.append(row)
            write_json(path, document_of(rows, settings, rates))
            say(as_text(COLUMNS, late_lines([row])))
            if time.perf_counter() - began > options.limit:
                say(f"stopped after {options.limit:g} s")
                return rows
    say(f"rows are in {path}")
    return rows


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options in `arguments`, by default the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.late", description=__doc__)
    add = parser.add_argument
    names = f"{', '.join(KNOWN)}, or paths of files (fashion-mnist,patches)"
    add("--data", type=names_of(is_known), default=["fashion-mnist", "patches"], metavar="NAMES", help=names)
    add("--count", type=int, default=50_000, metavar="N", help="samples at most, beside those held out (50,000)")
    add("--batch", type=listed_of(int), default=[64, 256], metavar="B,...", help="numbers of queries (64,256)")
    add("--t", type=listed_of(float), default=[0.2, 0.3, 0.4, 0.5, 0.7, 0.9], metavar="T,...", help="times in (0, 1)")
    add("--tolerance", type=listed_of(float), default=[1e-3, 1e-6], metavar="E,...", help="of mode auto (1e-3,1e-6)")
    add("--steps", type=int, default=50, help="of the runs from noise, at the first of --batch (50); 0 for no runs")
    add("--budget", type=float, default=2.0, metavar="SECONDS", help="timing of a row beyond three rounds (2)")
    add("--limit", type=float, default=float("inf"), metavar="SECONDS", help="begin no row after so long")
    add("--threads", type=int, help="torch threads")
    add("--cache", type=Path, metavar="DIR", help="where indexes are kept from one run to the next")
    add("--json", type=Path, metavar="PATH", help="where the rows go; default: bench/results/late-<machine>.json")
    show = parser.add_mutually_exclusive_group()
    show.add_argument("--table", type=Path, metavar="PATH", help="only print the table of such a JSON file")
    show.add_argument("--figure", type=Path, metavar="PATH", help="only draw the figure of such a file to --out")
    add("--out", type=Path, default=Path("docs/late.png"), metavar="FILE", help="of --figure (docs/late.png)")
    return parser.parse_args(arguments)


def _rows(sides: Sides, options: argparse.Namespace) -> Iterator[LateRow]:
    for size in options.batch:
        # the batches of training and of sampling come first
        yield late_row(sides, TRAINING, size=size, t=None, budget=options.budget)
        if options.steps and size == options.batch[0]:
            yield ode_row(sides, size, options.steps)
        for kind, t in product((HELD, TRAINING), options.t):
            yield late_row(sides, kind, size=size, t=t, budget=options.budget)


def late_row(sides: Sides, kind: str, *, size: int, t: float | None, budget: float) -> LateRow:
    """Return the measurements of all sides over one batch of queries."""
    work = sides.split.workload(kind, size, t)
    batch = work.draw()
    calls = sides.calls(kind, batch)
    answers = {name: sides.answered(name, call, batch) for name, call in calls.items()}
    others = watch_others()
    timings = interleave(calls, budget, CPU, always=calls)
    busy = others()
    truth = answers[EXACT]
    measured = {name: _side(timings[name], timings[EXACT], answers[name], truth) for name in calls}
    return sides.row(measured, (size, kind, work.time_label), busy, sides.floor(batch))


def _side(timing: Timing, exact: Timing, answered: Answered, truth: Answered) -> LateSide:
    first, third = timing.quartiles
    ratios = [exact.seconds[number] / seconds for number, seconds in timing.seconds.items()]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    survivors, recall = answered.survivors.double(), (answered.log_density - truth.log_density).exp().clamp_max(1.0)
    return LateSide(
        median_ms=1e3 * timing.median,
        first_quartile_ms=1e3 * first,
        third_quartile_ms=1e3 * third,
        rounds=len(timing.seconds),
        ratio=median(ratios),
        ratio_low=low,
        ratio_high=high,
        routes=_shares(answered.routes),
        survivors=float(survivors.median()),
        survivors_90=float(survivors.quantile(0.9)),
        recall=float(recall.mean()),
        recall_5=float(recall.quantile(0.05)),
        stated_error=None if answered.stated_error is None else float(answered.stated_error.max()),
        true_error=relative_error(answered.velocity, truth.velocity),
        peak_mib=None if answered.peak is None else answered.peak / 2**20,
    )


def _shares(routes: Sequence[str]) -> Mapping[str, float]:
    return {name: routes.count(name) / len(routes) for name in sorted(set(routes))}


if __name__ == "__main__":
    main()
