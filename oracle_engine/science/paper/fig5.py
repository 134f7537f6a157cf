"""Figure 5: the oracle leads a run up to s, and a model takes over from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...base.arrays import Tensor
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...paths.time_grids import sampling_times
from ...samplers.fields import Switch, Velocity
from ...samplers.runs import initial_noise, sample
from ..memorisation import COPY_RATIO
from .boundary import marks_at, predicted_boundary, times_around
from .quality import mean_distance
from .result import Curve, Panel, PaperResult, check_count, context_of, data_facts
from .takeover import Ends, ends_sheet

# of the transition
SWITCH_MULTIPLES = (0.0, 0.5, 0.8, 1.0, 1.3, 1.8)

FIG5_NOTE = (
    "Published: the oracle leads up to s, a trained model from there on; the later it leaves the oracle, the "
    "nearer a run ends to a training sample. A model that memorises copies from s = 0 on."
)

TableRow = tuple[float | int, ...]


def fig5(
    engine: OracleEngine,
    model: Velocity,
    *,
    switches: Sequence[float] | None = None,
    count: int = 128,
    steps: int = 50,
    threshold: float = COPY_RATIO,
    seed: int = 0,
) -> PaperResult:
    """Return what becomes of samples that follow the oracle on [0, s] and the model from there on.

    engine: the oracle. model: a velocity v(x, t) along the same path, t = 0 noise and t = 1 data. switches: values of s
    in [0, 1]; None takes multiples of the predicted transition. count: samples at each s, from the same noise.
    steps: of Euler. threshold: largest distance ratio of a copy. seed: of the noise.

    Copy rate, distance to the nearest sample, and diversity: the mean distance of two samples relative to that of the
    data. Costs steps of the oracle up to s and of the model after it, for each s, and two searches.
    """
    check_count("count", count, 2)
    boundary = predicted_boundary(engine, seed)
    grid = times_around(boundary, SWITCH_MULTIPLES) if switches is None else tuple(sorted(switches))
    noise = initial_noise(engine, count, generator=seeded(seed, engine.data.device))
    ends = [Ends.of(engine, _run(engine, model, noise, s, steps), threshold, seed) for s in grid]
    rows = _rows(engine, grid, ends)
    return PaperResult(
        name="fig5",
        title="The oracle on [0, s], then the model",
        facts=data_facts(engine) | {"runs": count, "steps": steps, "copy if ratio <": round(threshold, 3)},
        columns=("s", "copy rate", "+-", "distance", "ratio", "diversity", "samples that are nearest"),
        rows=rows,
        note=FIG5_NOTE,
        panels=_panels(rows, marks_at(boundary)),
        sheet=ends_sheet(
            engine, [(f"s = {s:.2f}", end.x) for s, end in zip(grid, ends, strict=True)], ends[-1].nearest
        ),
    )


def _run(engine: OracleEngine, model: Velocity, noise: Tensor, s: float, steps: int) -> Tensor:
    """Return the ends of runs that the oracle leads up to `s`, which lies on the grid of times."""
    times = sampling_times(steps)
    times = torch.cat([times[times < s - 1e-9], torch.tensor([s], dtype=times.dtype), times[times > s + 1e-9]])
    return sample(Switch(engine, model, s), noise, times, path=engine.path).x


def _rows(engine: OracleEngine, grid: Sequence[float], ends: Sequence[Ends]) -> tuple[TableRow, ...]:
    """Return a row of the table for each s."""
    spread = mean_distance(context_of(engine))
    diversity = [mean_distance(end.x.float().cpu()) / spread for end in ends]
    return tuple(
        (s, end.rate.rate, end.rate.error, end.distance, end.ratio, part, len(end.nearest.unique()))
        for s, end, part in zip(grid, ends, diversity, strict=True)
    )


def _panels(rows: Sequence[TableRow], marks: dict[str, float]) -> tuple[Panel, ...]:
    """Return panels of the columns of the table along s."""
    x = tuple(row[0] for row in rows)
    parts = (("copy rate (± 2 errors)", 1, 2), ("distance to the nearest (RMS)", 3, None), ("diversity", 5, None))
    panels = []
    for title, place, error in parts:
        errors = None if error is None else tuple(row[error] for row in rows)
        curve = Curve("", x, tuple(row[place] for row in rows), errors)
        panels.append(Panel(title, "s (oracle until here)", "", (curve,), share=place == 1, marks=marks))
    return tuple(panels)
