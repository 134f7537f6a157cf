"""`oracle-engine bench`: the engine beside other ways to the same velocity, on the user's data and machine."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..options import Commands, add_command, add_figure, add_source, refuse_key, whole

if TYPE_CHECKING:
    from ...compare.run import BenchPlan

Entry = TypeVar("Entry")


def add_bench(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "time and error of the engine and of its peers on your data: a table, bench.json and bench.png"
    parser = add_command(commands, "bench", summary, run_bench)
    add_source(parser, default="patches", note="; patches unless given")
    add = parser.add_argument
    add("--batch", type=listed_of(whole), default=[64], metavar="B,..", help="numbers of queries, by commas (64)")
    add("--t", type=listed_of(float), default=[0.1, 0.5, 0.9], metavar="T,..", help="times, by commas (.1,.5,.9)")
    add("--sides", type=listed_of(str), metavar="NAME,..", help="by commas; all that can run, unless given")
    add("--compile", action="store_true", help="torch.compile too, which takes a minute to compile")
    add("--tolerance", type=float, default=1e-3, help="relative error that an estimate may have (1e-3)")
    add("--budget", type=float, default=3.0, metavar="S", help="seconds of timing for each B and t (3)")
    add("--sweep", action="store_true", help="also along N, D, B and t, with fitted exponents")
    add_figure(parser, "bench.json and bench.png", "bench.png")
    refuse_key(parser)


def run_bench(arguments: Namespace) -> None:
    """Measure every side at every batch size and time; print a table and advice, write bench.json and the figure."""
    from ...base.progress import progress_bar
    from ...compare.figure import comparison_figure
    from ...compare.run import compare
    from ..shared import check_memory, check_report, load_there, say, write_report

    check_report(arguments, "bench")
    plan, began = _plan(arguments), time.perf_counter()
    with progress_bar(f"bench of {arguments.data}") as progress:
        data = load_there(arguments)
        check_memory("--batch", max(plan.batches), 4 * (len(data) + 4 * data.dim))
        found = compare(data, plan, progress)
    facts = found.to_json()
    files = write_report(arguments, "bench", facts, lambda path: comparison_figure(found.rows, path))
    took = f"{' and '.join(files)} written; {time.perf_counter() - began:.0f} s"
    say(arguments, f"{found.format_table()}\n\n{took}", facts | {"files": files})


def listed_of(kind: Callable[[str], Entry]) -> Callable[[str], list[Entry]]:
    """Return a function that reads comma-separated values, each by `kind`, for argparse."""

    def listed(text: str) -> list[Entry]:
        """Return the values of one argument."""
        try:
            return [kind(word) for word in text.split(",")]
        except ValueError:
            raise ArgumentTypeError(f"must be comma-separated numbers, not {text!r}") from None

    return listed


def _plan(arguments: Namespace) -> BenchPlan:
    """Return what the arguments ask to measure. Raises InputError for unknown sides."""
    from ...base.errors import invalid
    from ...compare.run import BenchPlan
    from ...compare.sides import DEFAULT, NAMED

    known = (*DEFAULT, *NAMED)
    names = arguments.sides or DEFAULT
    unknown = [name for name in names if name not in known]
    if unknown:
        raise invalid("--sides", f"must be some of {', '.join(known)}", ", ".join(unknown), "leave it out for all")
    names = (*names, *(["compiled"] if arguments.compile and "compiled" not in names else []))
    options = {name: getattr(arguments, name) for name in ("budget", "seed", "tolerance", "sweep")}
    return BenchPlan(arguments.batch, arguments.t, names, **options).checked()
