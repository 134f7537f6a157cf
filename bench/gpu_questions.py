"""What questions beside plain scans cost on a GPU: `ORACLE_BACKEND=triton python -m bench.gpu_questions`.

Classes, guidance, unions, posteriors, late batches with a screen, and single queries in one read of the rows: each is
checked against float64 on some of the very queries, then timed as a plain call, and profiled: which kernels take it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.errors import invalid
from oracle_engine.base.machine.environment import environment_report
from oracle_engine.compare.truth import BAR, relative_error
from oracle_engine.compare.workloads import LABELLED, Batch, Workload
from oracle_engine.kernels.gpu.scans.one_read import reading_once
from oracle_engine.kernels.gpu.tools.tile_trials import median_milliseconds

from .__main__ import RESULTS, say
from .gpu_cases import DRAWN, Case, draw
from .record import machine_name, write_json

# calls that are profiled, and kernels that are named
PROFILED, NAMED = 3, 8

# queries that are compared with float64
CHECKED = 8

# heaviest samples that a posterior names
TOP = 8

# standard deviations of the values of late data fall by this power of their place, about as those of images do
DECAY = 0.9

# times at which all rows have weight, and next to none
TIMES = (0.05, 0.8)

LATE_TIMES = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Question:
    """Something that an engine is asked: its name in reports, the call, and the same in float64 for a few queries.

    allowed: the largest relative error: the bar, or the tolerance of an engine that searches.
    """

    name: str
    answer: Callable[[], Tensor]
    truth: Callable[[], Tensor]
    allowed: float = BAR

    def error(self) -> float:
        """Return the largest relative error over the first queries."""
        return relative_error(self.answer()[:CHECKED], self.truth())


def scans(data: OracleDataset, batches: Sequence[int]) -> Iterator[Question]:
    """Yield velocities over `data`, those of single queries in one read of the rows too."""
    engine = OracleEngine(data, device=data.device)
    for batch in batches:
        for t in TIMES:
            asked = Workload(data, batch, t).draw()
            yield question(f"velocity {_of(data, batch, t)}", engine, asked)
            if batch == 1:
                yield question(f"velocity in one read {_of(data, batch, t)}", engine, asked, once=True)


def classes(data: OracleDataset, count: int, batch: int) -> Iterator[Question]:
    """Yield questions to `data` about their class, with guidance, and about two classes, one of `count` each."""
    labels = torch.arange(len(data), device=data.device) % count
    labelled = OracleDataset(data.rows.stored, labels=labels, name=data.name)
    engine = OracleEngine(labelled, device=data.device)
    for t in TIMES:
        asked, of = Workload(labelled, batch, t, LABELLED).draw(), _of(data, batch, t)
        if asked.labels is None:
            raise AssertionError("labelled queries have labels")
        unions = torch.stack([asked.labels, (asked.labels + 1) % count], dim=1)
        plain = Batch(asked.x, asked.t)
        yield question(f"classes {of}", engine, plain, labels=asked.labels)
        yield question(f"guidance {of}", engine, plain, labels=asked.labels, guidance=2.0)
        yield question(f"unions {of}", engine, plain, labels=unions)
        yield question(f"posterior {of}", engine, plain, top=TOP)
        yield question(f"posterior of classes {of}", engine, plain, top=TOP, labels=asked.labels)
        yield question(f"posterior of unions {of}", engine, plain, top=TOP, labels=unions)


def late(data: OracleDataset, batches: Sequence[int]) -> Iterator[Question]:
    """Yield velocities over `data` by a scan, by a search of their screen, and by one that knows its sources."""
    scanning, searching = (OracleEngine(data, device=data.device) for _ in range(2))
    began = time.perf_counter()
    searching.prepare(neighbours=False)
    say(f"{data.name}: screen of kind {searching.index and searching.index.kind} {time.perf_counter() - began:.1f} s")
    for batch in batches:
        for t in LATE_TIMES:
            drawn, of = Workload(data, batch, t).draw(), _of(data, batch, t)
            asked = Batch(drawn.x, drawn.t)
            yield question(f"scan {of}", scanning, asked)
            yield question(f"search {of}", searching, asked)
            yield question(f"search with sources {of}", searching, asked, source=drawn.source)


def question(
    name: str, engine: OracleEngine, asked: Batch, *, once: bool = False, top: int = 0, **more: Any
) -> Question:
    """Return a question about a batch: for its velocity, or for its posterior mean with the `top` heaviest samples.

    once: whether rows are read once. more: keywords of the engine, tensors among them one for each query.
    """
    reference = OracleEngine(engine.data, device=engine.data.device, backend="reference")
    few = {key: value[:CHECKED] if isinstance(value, Tensor) else value for key, value in more.items()}
    # the float64 answer needs no hint
    few.pop("source", None)
    return Question(
        name,
        partial(_answered, engine, asked, more, once=once, top=top),
        partial(_answered, reference, asked[:CHECKED], few, top=top),
        BAR if engine.index is None else max(BAR, engine.tolerance),
    )


def _answered(engine: OracleEngine, asked: Batch, more: dict[str, Any], *, once: bool = False, top: int = 0) -> Tensor:
    with reading_once(once):
        if top:
            return engine.posterior(asked.x, asked.t, top_k=top, **more).mean
        return engine.velocity(asked.x, asked.t, **more)


def _of(data: OracleDataset, batch: int, t: float) -> str:
    return f"{data.name} B={batch} t={t:g}"


def decaying(case: Case, device: torch.device) -> OracleDataset:
    """Return Gaussian samples in the shape of a case whose variance a few of their values hold."""
    generator = torch.Generator(device).manual_seed(0)
    scale = torch.arange(1, case.dim + 1, device=device, dtype=torch.float32).pow(-DECAY)
    scale *= (case.dim / scale.square().sum()).sqrt()
    points = torch.empty(case.count, case.dim, dtype=case.storage, device=device)
    for part in points.split(max(1, DRAWN // case.dim)):
        part.copy_(scale * torch.randn(part.shape, generator=generator, device=device))
    return OracleDataset(points, name=case.name.replace("random", "decaying"))


def groups(device: torch.device) -> list[Callable[[], Iterator[Question]]]:
    """Return the questions in groups that share their data, what matters most first."""
    imagenet, images = Case(1_280_000, 4096, torch.float16, ()), Case(300_000, 3072, torch.float16, ())
    few = (torch.float16, torch.uint8, torch.float32)
    return [
        lambda: classes(draw(imagenet, device), 1000, 256),
        lambda: late(decaying(images, device), (64, 256)),
        lambda: scans(draw(imagenet, device), (1, 64, 256)),
        *(partial(_scans_of, Case(50_000, 3072, storage, ()), device) for storage in few),
    ]


def _scans_of(case: Case, device: torch.device) -> Iterator[Question]:
    return scans(draw(case, device), (1, 64, 256))


@dataclass(frozen=True)
class Spent:
    """What a question took on the card.

    error: the largest relative error of its answers. within: whether it is allowed. call_ms: median time of a plain
    call. kernels_ms, launches: of a call, copies among them. largest: kernels that take most of it, with launches and
    milliseconds of a call.
    """

    name: str
    error: float
    within: bool
    call_ms: float
    kernels_ms: float
    launches: float
    largest: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, asked: Question) -> Spent:
        """Ask for the error, which compiles and caches, then for the time, then with a profiler."""
        error, took = asked.error(), median_milliseconds(asked.answer)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(PROFILED):
                asked.answer()
            torch.cuda.synchronize()
        spent, counts = Counter[str](), Counter[str]()
        for event in seen.key_averages():
            spent[event.key] += event.device_time_total / 1e3 / PROFILED
            counts[event.key] += event.count
        largest = {name[:60]: (counts[name] / PROFILED, ms) for name, ms in spent.most_common(NAMED)}
        return cls(
            asked.name, error, error <= asked.allowed, took, sum(spent.values()), counts.total() / PROFILED, largest
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all questions, and return 1 where one failed or missed the bar; arguments: of the command line where None."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_questions", description=__doc__)
    parser.add_argument("--json", type=Path, help="default: bench/results/questions-<gpu>.json")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="ask nothing after this long")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    path = options.json or RESULTS / f"questions-{machine_name(device)}.json"
    return int(not ask_all(groups(device), path, Spent.of, limit=options.limit))


def ask_all(
    asked: Sequence[Callable[[], Iterator[Question]]], path: Path, spent: Callable[[Question], Spent], *, limit: float
) -> bool:
    """Ask groups of questions, write what each took, and return whether all were answered as exactly as they must be.

    asked: the groups. path: written anew after every question. spent: asks one. limit: seconds after which none begins.
    A question that fails is written with the reason, and the next one asked; so is a group that fails to begin.
    """
    began, rows, good = time.perf_counter(), list[dict[str, Any]](), True
    for group in asked:
        for row in _rows_of(group, spent, began + limit):
            rows.append(row)
            write_json(path, {"environment": environment_report(), "rows": rows})
            say(" ".join(f"{name} {value}" for name, value in row.items()))
            good = good and row.get("within", False)
    return good


def _rows_of(
    group: Callable[[], Iterator[Question]], spent: Callable[[Question], Spent], until: float
) -> Iterator[dict[str, Any]]:
    name = "a group"
    try:
        for question in group():
            if time.perf_counter() > until:
                return
            name = question.name
            try:
                row = asdict(spent(question))
            except Exception as reason:
                row = {"name": name, "failed": repr(reason)}
            yield row
    except Exception as reason:
        yield {"name": f"what follows {name}", "failed": repr(reason)}


if __name__ == "__main__":
    sys.exit(main())
