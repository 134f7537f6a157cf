"""Runs of the oracle from noise for `oracle-engine sample`: drawn, described and written."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.progress import progress_bar
from ..base.seeds import seeded
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.time_grids import sampling_times
from ..samplers.fields import path_at
from ..samplers.runs import Run, initial_noise, sample
from ..science.plot_style import require_matplotlib
from ..science.sample_plots import samples_figure
from ..science.transition import draw_rows
from .class_names import class_numbers
from .query_files import check_result, result_file
from .shared import check_figure, check_memory, check_output, engine_of
from .torchrun import reports

# samples of the data from which colours and the plane of the picture are taken
PICTURE_SAMPLES = 2000
# a run has ended on a sample when their distance is at most this many standard deviations of the data
LANDED = 0.01


@dataclass(frozen=True)
class Landing:
    """The sample of the data nearest to the end of each of K runs.

    index: of that sample, [K] int64. distance: root mean square distance to it a coordinate, [K] float64.
    spread: standard deviation of the data a coordinate.
    """

    index: Int64[Tensor, "K"]
    distance: Float64[Tensor, "K"]
    spread: float

    @property
    def landed(self) -> int:
        """How many runs end on a sample."""
        return int((self.distance <= LANDED * self.spread).sum())

    def describe(self) -> str:
        """Return a sentence about where the runs ended."""
        count, different = len(self.index), len(self.index.unique())
        where = f"{self.landed} of {count} runs end on a sample of the data"
        nearest = f"{different} different samples are nearest"
        return f"{where}; {nearest}, median distance to the nearest {float(self.distance.median()):.2g} a coordinate"


def check_arguments(arguments: Namespace) -> None:
    """Check what would fail only after the work.

    arguments: of `oracle-engine sample`.

    Raises InputError for counts that are too small, names of files that cannot be written and guidance without labels,
    MissingDependencyError where a picture is asked for without matplotlib.
    """
    if arguments.draw < 1:
        raise invalid("--draw", "must be at least 1", arguments.draw, "leave it out for 64")
    if arguments.steps < 2:
        raise invalid("--steps", "must be at least 2", arguments.steps, "leave it out for 50")
    if not arguments.no_figure:
        require_matplotlib()
        check_figure("--out", Path(arguments.out), "numbers are written by --save")
        check_output(arguments, "--out", Path(arguments.out))
    if arguments.save is not None:
        check_result("--save", Path(arguments.save), torch.float32)
        check_output(arguments, "--save", Path(arguments.save))
    if arguments.guidance is not None and arguments.labels is None:
        raise invalid("--guidance", "needs classes to guide towards", "no --labels", "pass --labels 0 1 2")


def chosen_labels(arguments: Namespace, data: OracleDataset) -> list[int] | None:
    """Return the class of each of the --draw runs, the classes of --labels in turn, or None without --labels."""
    given = class_numbers(arguments.labels, data)
    return None if given is None else [given[run % len(given)] for run in range(arguments.draw)]


def draw_run(arguments: Namespace) -> tuple[OracleEngine, Run[Tensor]]:
    """Return the engine that the arguments describe, and --draw runs of it from noise to data.

    arguments: of `oracle-engine sample`.

    Raises InputError as :func:`engine_of` and `samplers.sample` do.
    """
    with progress_bar(f"samples of {arguments.data}") as progress:
        engine = engine_of(arguments)
        check_memory("--steps", arguments.steps, 100)
        # noise, state, velocity and what a scan makes of them
        check_memory("--draw", arguments.draw, 64 * engine.data.dim)
        times = sampling_times(arguments.steps, shift=arguments.shift)
        noise = seeded(arguments.seed, engine.data.device)
        x = initial_noise(engine, arguments.draw, generator=noise)
        classes = chosen_labels(arguments, engine.data)
        labels = None if classes is None else torch.tensor(classes, device=x.device)
        options = {"labels": labels, "guidance": arguments.guidance, "method": arguments.method}
        return engine, sample(engine, x, times, progress=progress, **options)


def land(engine: OracleEngine, run: Run[Tensor]) -> Landing:
    """Return where a run ended, by one pass over the data.

    engine: of the run, whose samples are searched. run: its end is compared with the samples.
    """
    # the posterior at alpha x is heaviest at the sample nearest to x
    t = float(run.times[-2])
    posterior = engine.posterior(path_at(engine.path, t)[0] * run.x, t, top_k=1)
    index = posterior.top_indices[:, 0]
    difference = run.x.double() - engine.data[index].double()
    distance = difference.reshape(len(index), -1).square().mean(1).sqrt()
    return Landing(index, distance, engine.data.variance_per_dim**0.5)


def run_facts(engine: OracleEngine, run: Run[Tensor], landing: Landing) -> dict[str, Any]:
    """Return what was computed, as plain values that json can write.

    engine: of the run. run: what is described. landing: where it ended, as :func:`land` returns.
    """
    return {
        "data": repr(engine.data),
        "path": repr(engine.path),
        "method": run.method,
        "times": run.times.tolist(),
        "landed": landing.landed,
        "nearest": landing.index.tolist(),
        "distance": landing.distance.tolist(),
    }


def write_run(arguments: Namespace, engine: OracleEngine, run: Run[Tensor]) -> list[str]:
    """Return the names of the files that are written: the numbers to --save, and the picture to --out.

    arguments: with `save`, `out`, `no_figure` and `seed`. engine: its data give the colours or the plane of the
    picture. run: its end is what is written.

    Raises OSError where a file cannot be written.
    """
    files = []
    if arguments.save is not None:
        with result_file(Path(arguments.save), "samples", list(run.x.shape), run.x.dtype) as write:
            write(run.x)
        files.append(arguments.save)
    if not arguments.no_figure:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        rows = draw_rows(engine.data, min(PICTURE_SAMPLES, len(engine.data)), arguments.seed)
        context = engine.data.sample_values(rows)
        if reports():
            samples_figure(run.x.float().cpu(), context.float().cpu(), arguments.out)
        files.append(arguments.out)
    return files
