"""The gate of the Triton kernels, without a GPU: `python -m bench.gate`, or `make aot`.

Every listed configuration is compiled ahead of time for every target and what came out is counted; so are launches,
device calls and waits of the engine on a card that is not there. Limits hold for what is counted, and the figures kept
in figures.json may only improve.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import triton

from oracle_engine.kernels.gpu.tools import waves
from oracle_engine.kernels.gpu.tools.compilation import Compilation, compile_job
from oracle_engine.kernels.gpu.tools.jobs import TARGETS, Job
from oracle_engine.kernels.gpu.tools.listed_jobs import jobs, subset

from . import calls
from .kept import PATH, Change, Kept, Section, changes, read, updated
from .table import HEADER, faults, line, share_lines

CONFIGURATIONS, WAVES, CALLS = "configurations", "waves", "calls"


def compiled(chosen: Sequence[Job], workers: int) -> Iterator[Compilation]:
    """Yield what the compiler makes of each of the jobs, in their order, in so many processes at once."""
    if workers <= 1:
        yield from map(compile_job, chosen)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_job, chosen)


def counted(chosen: Sequence[Job], workers: int, kept: Kept) -> tuple[dict[str, Section], list[str]]:
    """Compile the jobs, print a table, and return all figures by section, and what misses a limit in words.

    workers: processes. kept: figures of configurations that are not among the jobs.
    """
    complaints, configurations = [], Section()
    print(HEADER, flush=True)
    for result in compiled(chosen, workers):
        configurations[str(result.job)] = result.figures
        print(line(result), flush=True)
        complaints += [f"{result.job}: {words}" for words in faults(result)]
    sections = {CONFIGURATIONS: configurations}
    held = {**kept.sections.get(CONFIGURATIONS, {}), **configurations}
    try:
        sections[WAVES] = waves.waves(held)
        complaints += waves.empty(sections[WAVES])
    except KeyError as error:
        complaints.append(f"the waves need figures of {error}: compile sm_90 too")
    sections[CALLS] = calls.calls()
    complaints += calls.costly(sections[CALLS])
    for name in (WAVES, CALLS):
        print("\n".join(share_lines(name, sections.get(name, {}))), flush=True)
    return sections, complaints


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print tables, and return 1 where anything misses a limit or is worse than what is kept, else 0.

    arguments: those of the command line where None.
    """
    options = parse_options(arguments)
    targets = options.targets.split(",")
    chosen = [*dict.fromkeys((*(() if options.subset else jobs(targets)), *subset()))]
    chosen = [job for job in chosen if job.target in targets]
    kept = read()
    sections, complaints = counted(chosen, options.workers, kept)
    if options.write or options.accept:
        whole = not options.subset and set(targets) == set(TARGETS)
        rewrite(kept, sections, whole=whole, reason=options.accept)
        kept = read()
    found = against(kept, sections)
    complaints += [str(change) for change in found if change.worse]
    news = [change for change in found if not change.worse]
    print("\n".join(complaints))
    if news:
        print(f"{len(news)} figures are new or better, such as {news[0]}: keep them with --write, commit {PATH.name}")
    print("the gate is passed" if not complaints else f"{len(complaints)} complaints")
    return 1 if complaints else 0


def against(kept: Kept, sections: dict[str, Section]) -> list[Change]:
    """Return what of the sections is not as it is kept; nothing where figures of another compiler are kept."""
    if not kept.comparable:
        print(f"figures are kept of Triton {kept.compiler}, not of {triton.__version__}: only limits are looked at")
        return []
    return [change for name, section in sections.items() for change in changes(kept.sections.get(name, {}), section)]


def rewrite(kept: Kept, sections: dict[str, Section], *, whole: bool, reason: str | None) -> None:
    """Write the file anew: with what is better, or, for a `reason`, with what is worse too.

    whole: whether everything was compiled, so that configurations that were not are gone.
    """
    fresh = not kept.comparable
    old = {} if fresh else kept.sections
    accepted = {} if fresh else dict(kept.accepted)
    if reason:
        accepted |= {str(change): reason for change in against(kept, sections) if change.worse}
    new = {
        name: updated(old.get(name, {}), section, whole=whole or name != CONFIGURATIONS, worse_too=bool(reason))
        for name, section in sections.items()
    }
    Kept(triton.__version__, {**old, **new}, accepted).write()


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options in `arguments`, those of the command line where None."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    add = parser.add_argument
    add("--subset", action="store_true", help="a few configurations that cover every kernel and target")
    add("--targets", default=",".join(TARGETS), help=f"some of {','.join(TARGETS)}")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that compile at once")
    add("--write", action="store_true", help=f"keep what is new or better in {PATH.name}")
    add("--accept", metavar="REASON", help="keep what is worse too, and the reason beside it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
