"""Run the comparison: `python -m bench --data patches --batch 1,64 --t .05,.5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from .compare import Comparison
from .peers import ATTENDS, default_peers
from .record import OURS, OURS_COARSE, OURS_RECORDED, Row, document_of, machine_name, read_json, rows_of, write_json
from .report import SIDE_COLUMNS, SUMMARY_COLUMNS, as_markdown, as_text, readme_lines, side_lines, summary_lines
from .workloads import BATCHES, DATA, TIMES, load_data, workloads

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the workloads that the options name, print the tables and write the rows."""
    options = parse_options(arguments)
    if options.readme is not None:
        print(as_markdown(*readme_lines(rows_of(read_json(options.readme)))))
        return
    device = torch.device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows = measure(options, device)
    table = as_markdown if options.markdown else as_text
    print(table(SIDE_COLUMNS, side_lines(rows)), "\n")
    print(table(SUMMARY_COLUMNS, summary_lines(rows)))


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Return the measured rows; the JSON file is written again after each."""
    path = options.json or RESULTS / f"{machine_name(device)}.json"
    sides = options.sides or [OURS, OURS_COARSE, *default_peers(device)]
    settings = {"sides": sides, "budget": options.budget, "device": str(device)}
    rows: list[Row] = []
    for name in options.data:
        contest = Comparison(load_data(name).to(device), sides, say)
        if not contest.velocities:
            sys.exit("none of these sides can run here")
        for work in workloads(contest.data, options.batch, options.t):
            rows.append(contest.row(work, options.budget))
            write_json(path, document_of(rows, settings))
            say(as_text(SUMMARY_COLUMNS, summary_lines(rows)).splitlines()[-1])
    say(f"rows are in {path}")
    return rows


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options in `arguments`, by default the command line; names of data and sides are checked."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed of the engine beside its peers.")
    add = parser.add_argument
    names = (OURS, OURS_COARSE, OURS_RECORDED, *ATTENDS)
    add("--data", type=_some_of(DATA), default=list(DATA), metavar="NAMES", help=", ".join(DATA))
    add("--batch", type=list_of(int), default=list(BATCHES), metavar="B,...", help="numbers of queries")
    add("--t", type=list_of(_time), default=list(TIMES), metavar="T,...", help="times in (0, 1), or mixed")
    add("--sides", type=_some_of(names), metavar="NAMES", help=f"{', '.join(names)}; default: all but the slowest")
    add("--budget", type=float, default=5.0, metavar="SECONDS", help="timing of a row, 5 by default")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="torch threads on the CPU")
    add("--json", type=Path, metavar="PATH", help="where the rows go; default: bench/results/<machine>.json")
    add("--markdown", action="store_true", help="print markdown tables")
    add("--readme", type=Path, metavar="PATH", help="only print the README's table of such a JSON file")
    return parser.parse_args(arguments)


def say(message: str) -> None:
    """Print progress to standard error, apart from the result."""
    print(message, file=sys.stderr, flush=True)


def _time(word: str) -> float | None:
    return None if word == "mixed" else float(word)


def list_of(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return a function that reads comma-separated values of a command line."""

    def parse(line: str) -> list[T]:
        return [kind(word) for word in line.split(",")]

    return parse


def _some_of(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(line: str) -> list[str]:
        chosen = line.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(names)}")
        return chosen

    return parse


if __name__ == "__main__":
    main()
