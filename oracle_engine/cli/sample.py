"""`oracle-engine sample`: runs of the oracle from noise to data, as a picture, as numbers and in words."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.progress import progress_bar
from ..engine.engine import OracleEngine
from ..paths.time_grids import sampling_times
from ..samplers.fields import path_at
from ..samplers.runs import Run, initial_noise, sample
from ..science.stage_plots import require_matplotlib, samples_figure
from ..science.transition import draw_rows
from .query_files import check_result, result_file
from .shared import engine_of, say

FIGURES = (".png", ".pdf", ".svg")
# samples of the data that colours and planes are taken from
CONTEXT = 2000
# a run has ended on a sample when it is this close, in standard deviations of the data
LANDED = 0.01


@dataclass(frozen=True)
class Landing:
    """The nearest sample to the end of each run, and the root mean square distance to it a coordinate."""

    index: Int64[Tensor, "K"]
    distance: Float64[Tensor, "K"]
    spread: float

    @property
    def landed(self) -> int:
        """How many runs end on a sample."""
        return int((self.distance <= LANDED * self.spread).sum())


def run_sample(arguments: Namespace) -> None:
    """Draw samples with the oracle; write a picture and, where asked, the numbers; say where they ended."""
    _check(arguments)
    began = time.perf_counter()
    with progress_bar(f"samples of {arguments.data}") as progress:
        engine = engine_of(arguments)
        times = sampling_times(arguments.steps, shift=arguments.shift)
        noise = torch.Generator(engine.data.device).manual_seed(arguments.seed)
        x = initial_noise(engine, arguments.draw, generator=noise)
        options = {"labels": _labels(arguments, x), "guidance": arguments.guidance, "method": arguments.method}
        run = sample(engine, x, times, progress=progress, **options)
    landing = land(engine, run)
    files = _write(arguments, engine, run)
    facts = {
        "data": repr(engine.data),
        "path": repr(engine.path),
        "method": run.method,
        "times": run.times.tolist(),
        "seed": arguments.seed,
        "labels": None if options["labels"] is None else options["labels"].tolist(),
        "guidance": arguments.guidance,
        "landed": landing.landed,
        "nearest": landing.index.tolist(),
        "distance": landing.distance.tolist(),
        "files": files,
        "elapsed": time.perf_counter() - began,
    }
    say(arguments, _words(landing, files, facts["elapsed"]), facts)


def land(engine: OracleEngine, run: Run) -> Landing:
    """Return where a run ended: one pass over the data finds the nearest samples."""
    # the posterior at alpha x is heaviest at the sample nearest to x
    t = float(run.times[-2])
    posterior = engine.posterior(path_at(engine.path, t)[0] * run.x, t, top_k=1)
    index = posterior.top_indices[:, 0]
    difference = run.x.double() - engine.data[index].double()
    distance = difference.flatten(1).square().mean(1).sqrt()
    return Landing(index, distance, engine.data.variance_per_dim**0.5)


def _check(arguments: Namespace) -> None:
    """Raise InputError for what would fail only after the work."""
    if arguments.draw < 1:
        raise invalid("--draw", "must be at least 1", arguments.draw, "leave it out for 64")
    if arguments.steps < 2:
        raise invalid("--steps", "must be at least 2", arguments.steps, "leave it out for 50")
    if not arguments.no_figure:
        require_matplotlib()
        if Path(arguments.out).suffix not in FIGURES:
            raise invalid("--out", f"must end in {', '.join(FIGURES)}", arguments.out, "numbers are written by --save")
    if arguments.save is not None:
        check_result(Path(arguments.save), torch.float32)
    if arguments.guidance is not None and arguments.labels is None:
        raise invalid("--guidance", "needs classes to guide towards", "no --labels", "pass --labels 0 1 2")


def _labels(arguments: Namespace, x: Tensor) -> Tensor | None:
    if arguments.labels is None:
        return None
    return torch.tensor(arguments.labels, device=x.device).repeat(-(-len(x) // len(arguments.labels)))[: len(x)]


def _write(arguments: Namespace, engine: OracleEngine, run: Run) -> list[str]:
    files = []
    if arguments.save is not None:
        with result_file(Path(arguments.save), "samples", list(run.x.shape), run.x.dtype) as write:
            write(run.x)
        files.append(arguments.save)
    if not arguments.no_figure:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        rows = draw_rows(engine.data, min(CONTEXT, len(engine.data)), arguments.seed)
        context = engine.data.sample_values(rows)
        samples_figure(run.x.float().cpu(), context.float().cpu(), arguments.out)
        files.append(arguments.out)
    return files


def _words(landing: Landing, files: list[str], elapsed: Any) -> str:
    count, different = len(landing.index), len(landing.index.unique())
    where = f"{landing.landed} of {count} runs end on a sample of the data; {different} different samples are nearest"
    middle = f"median distance to the nearest {float(landing.distance.median()):.2g} a coordinate"
    wrote = f"{' and '.join(files) or 'nothing'} written; {elapsed:.1f} s"
    return f"{where}, {middle}\n{wrote}"
