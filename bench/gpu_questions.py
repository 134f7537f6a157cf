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
from oracle_engine.base.environment import environment_report
from oracle_engine.base.errors import invalid
from oracle_engine.compare.truth import relative_error
from oracle_engine.compare.workloads import LABELLED, Batch, Workload
from oracle_engine.kernels.gpu.one_read import reading_once
from oracle_engine.kernels.gpu.tools.tile_trials import milliseconds

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
    """Something that an engine is asked: its name in reports, the call, and the same in float64 for a few queries."""

    name: str
    answer: Callable[[], Tensor]
    truth: Callable[[], Tensor]

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


def questions(device: torch.device) -> Iterator[Question]:
    """Yield all questions, what matters most first."""
    imagenet = Case(1_280_000, 4096, torch.float16, ())
    yield from classes(draw(imagenet, device), 1000, 256)
    yield from late(decaying(Case(300_000, 3072, torch.float16, ()), device), (64, 256))
    yield from scans(draw(imagenet, device), (1, 64, 256))
    for storage in (torch.float16, torch.uint8, torch.float32):
        yield from scans(draw(Case(50_000, 3072, storage, ()), device), (1, 64, 256))


@dataclass(frozen=True)
class Spent:
    """What a question took on the card.

    error: the largest relative error of its answers. call_ms: median time of a plain call. kernels_ms, launches: of a
    call, copies among them. largest: kernels that take most of it, with launches and milliseconds of a call.
    """

    name: str
    error: float
    call_ms: float
    kernels_ms: float
    launches: float
    largest: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, asked: Question) -> Spent:
        """Ask for the error, which compiles and caches, then for the time, then with a profiler."""
        error, took = asked.error(), milliseconds(asked.answer)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(PROFILED):
                asked.answer()
            torch.cuda.synchronize()
        spent, counts = Counter[str](), Counter[str]()
        for event in seen.key_averages():
            spent[event.key] += event.device_time_total / 1e3 / PROFILED
            counts[event.key] += event.count
        largest = {name[:60]: (counts[name] / PROFILED, ms) for name, ms in spent.most_common(NAMED)}
        return cls(asked.name, error, took, sum(spent.values()), counts.total() / PROFILED, largest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all questions and write what they took after each; arguments: those of the command line where None."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_questions", description=__doc__)
    parser.add_argument("--json", type=Path, help="default: bench/results/questions-<gpu>.json")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="ask nothing after this long")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    path = options.json or RESULTS / f"questions-{machine_name(device)}.json"
    document: dict[str, Any] = {"environment": environment_report(), "rows": []}
    began = time.perf_counter()
    for asked in questions(device):
        if time.perf_counter() - began > options.limit:
            break
        row = asdict(Spent.of(asked))
        document["rows"].append(row)
        write_json(path, document)
        say(" ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
