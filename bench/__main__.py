"""Run the comparison: `python -m bench --data patches --batch 1,64 --t .05,.5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from oracle_engine.cli.commands.bench import listed_of
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.peers import CLASSES, PEERS, default_peers
from oracle_engine.compare.record import OURS, OURS_COARSE, OURS_RECORDED, Row
from oracle_engine.compare.tables import as_markdown, as_text
from oracle_engine.compare.workloads import BATCHES, LABELLED, TIMES, TRAINING, workloads

from .comparison import Comparison
from .data import CLASSES_DATA, DATA, KNOWN, is_known, load_data
from .record import document_of, machine_name, write_json
from .report import SIDE_COLUMNS, SUMMARY_COLUMNS, side_lines, summary_lines

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the workloads that the options name, print the tables and write the rows."""
    options = parse_options(arguments)
    device = torch.device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows = measure(options, device)
    table = as_markdown if options.markdown else as_text
    print(table(SIDE_COLUMNS, side_lines(rows)), "\n")
    print(table(SUMMARY_COLUMNS, summary_lines(rows)))


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Return the measured rows; the JSON file is written again after each."""
    kind = LABELLED if options.labelled else TRAINING
    path = options.json or RESULTS / f"{'classes-' if options.labelled else ''}{machine_name(device)}.json"
    sides = options.sides or [OURS, OURS_COARSE, *(CLASSES if options.labelled else default_peers(device))]
    settings = {"sides": sides, "budget": options.budget, "device": str(device)}
    rates = Rates.measured() if device.type == "cpu" else None
    rows: list[Row] = []
    for name in options.data or (CLASSES_DATA if options.labelled else DATA):
        contest = Comparison(load_data(name).to(device), sides, say, rates=rates)
        if not contest.velocities:
            sys.exit("none of these sides can run here")
        for work in workloads(contest.data, options.batch, options.t, kind):
            rows.append(contest.row(work, options.budget))
            write_json(path, document_of(rows, settings, rates))
            say(as_text(SUMMARY_COLUMNS, summary_lines(rows)).splitlines()[-1])
    say(f"rows are in {path}")
    return rows


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options in `arguments`, by default the command line; names of data and sides are checked."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed of the engine beside its peers.")
    add = parser.add_argument
    names = (OURS, OURS_COARSE, OURS_RECORDED, *PEERS)
    sides = f"{', '.join(names)}; default: all but the slowest"
    add("--data", type=names_of(is_known), metavar="NAMES", help=f"{', '.join(KNOWN)}, or paths of files")
    add("--labelled", action="store_true", help="every query asks about its class, beside the peers for that")
    add("--batch", type=listed_of(int), default=list(BATCHES), metavar="B,...", help="numbers of queries")
    add("--t", type=listed_of(_time), default=list(TIMES), metavar="T,...", help="times in (0, 1), or mixed")
    add("--sides", type=names_of(names.__contains__), metavar="NAMES", help=sides)
    add("--budget", type=float, default=5.0, metavar="SECONDS", help="timing of a row, 5 by default")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="torch threads on the CPU")
    add("--json", type=Path, metavar="PATH", help="where the rows go; default: bench/results/<machine>.json")
    add("--markdown", action="store_true", help="print markdown tables")
    return parser.parse_args(arguments)


def say(message: str) -> None:
    """Print progress to standard error, apart from the result."""
    print(message, file=sys.stderr, flush=True)


def _time(word: str) -> float | None:
    return None if word == "mixed" else float(word)


def names_of(known: Callable[[str], object]) -> Callable[[str], list[str]]:
    """Return a function that reads comma-separated names of a command line, each of which must be known."""

    def parse(line: str) -> list[str]:
        """Return the names of one argument."""
        chosen = line.split(",")
        for name in chosen:
            if not known(name):
                raise argparse.ArgumentTypeError(f"{name} is not known here, see --help")
        return chosen

    return parse


if __name__ == "__main__":
    main()
