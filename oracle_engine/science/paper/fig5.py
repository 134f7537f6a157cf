"""Figures 5 and 6: a model takes over from the oracle at s, or from noised held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Tensor
from ...base.errors import invalid
from ...base.seeds import seeded
from ...data.values import is_picture
from ...engine.engine import OracleEngine
from ...paths.time_grids import sampling_times
from ...samplers.fields import Switch, Velocity
from ...samplers.runs import initial_noise, noised, sample
from ..memorisation import COPY_RATIO, CopyRate, copy_rate, distance_to, nearest_samples
from ..transition import predict_transition
from .fig4 import context_of
from .quality import mean_distance
from .result import Curve, Panel, PaperResult, Sheet, check_count, data_facts

SWITCHES = (0.0, 0.5, 0.8, 1.0, 1.3, 1.8)
LATEST = 0.95
SHOWN = 8

NOTE_5 = (
    "Published: the oracle leads up to s, a trained model from there on; the later it leaves the oracle, the "
    "nearer a run ends to a training sample. A model that memorises copies from s = 0 on."
)
NOTE_6 = (
    "Published: held-out images noised to t and resumed by a trained model. From late t a model that generalises "
    "returns to the held-out sample, from early t it makes another; one that memorises goes to training samples "
    "instead."
)


@dataclass(frozen=True)
class _End:
    """The ends of K runs, and how near they are to the data: root mean square distance a coordinate, and copies."""

    x: Tensor
    rate: CopyRate
    distance: float
    ratio: float
    nearest: Tensor


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
    boundary = predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic
    grid = _grid(boundary) if switches is None else tuple(sorted(switches))
    noise = initial_noise(engine, count, generator=seeded(seed, engine.data.device))
    ends = [_end(engine, _run(engine, model, noise, s, steps), threshold, seed) for s in grid]
    spread = mean_distance(context_of(engine))
    diversity = [mean_distance(end.x.float().cpu()) / spread for end in ends]
    rows = tuple(
        (s, end.rate.rate, end.rate.error, end.distance, end.ratio, part, len(end.nearest.unique()))
        for s, end, part in zip(grid, ends, diversity, strict=True)
    )
    marks = {} if boundary is None else {"transition": boundary}
    columns = ("s", "copy rate", "+-", "distance", "ratio", "diversity", "samples that are nearest")
    return PaperResult(
        name="fig5",
        title="The oracle on [0, s], then the model",
        facts=data_facts(engine) | {"runs": count, "steps": steps, "copy if ratio <": round(threshold, 3)},
        columns=columns,
        rows=rows,
        note=NOTE_5,
        panels=_panels("s", rows, marks),
        sheet=_sheet(engine, [(f"s = {s:.2f}", end.x) for s, end in zip(grid, ends, strict=True)], ends[-1].nearest),
    )


def fig6(
    engine: OracleEngine,
    model: Velocity,
    held_out: Float[Tensor, "K ..."],
    *,
    times: Sequence[float] | None = None,
    steps: int = 50,
    threshold: float = COPY_RATIO,
    seed: int = 0,
) -> PaperResult:
    """Return what becomes of held-out samples that are noised to t and resumed by the model.

    engine, model, steps, threshold, seed: as in :func:`fig5`. held_out: samples that the model did not see,
    [K, *sample_shape] in value space. times: in [0, 1); None takes multiples of the predicted transition.
    """
    if tuple(held_out.shape[1:]) != engine.data.sample_shape or len(held_out) < 1:
        found = list(held_out.shape)
        raise invalid("held_out", "must be samples like those of the data", found, "pass samples in value space")
    boundary = predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic
    grid = tuple(sorted({*_grid(boundary), 0.9})) if times is None else tuple(sorted(times))
    unseen = held_out.to(engine.data.device, engine.data.value_dtype)
    ends, back = [], []
    for t in grid:
        x = noised(engine, unseen, t, generator=seeded(seed, engine.data.device))
        run = sample(model, x, sampling_times(steps, start=t), path=engine.path)
        ends.append(_end(engine, run.x, threshold, seed))
        back.append(float((run.x.double() - unseen).square().mean().sqrt()))
    rows = tuple(
        (t, gap, end.distance, end.ratio, end.rate.rate, end.rate.error)
        for t, gap, end in zip(grid, back, ends, strict=True)
    )
    own = Curve("to the held-out sample itself", grid, tuple(back))
    near = Curve("to the nearest training sample", grid, tuple(end.distance for end in ends))
    copies = Curve("", grid, tuple(end.rate.rate for end in ends), tuple(end.rate.error for end in ends))
    marks = {} if boundary is None else {"transition": boundary}
    named = [("held out", unseen), *((f"t = {t:.2f}", end.x) for t, end in zip(grid, ends, strict=True))]
    return PaperResult(
        name="fig6",
        title="Held-out samples, noised to t and resumed by the model",
        facts=data_facts(engine) | {"held out": len(unseen), "steps": steps, "copy if ratio <": round(threshold, 3)},
        columns=("t", "to the held-out sample", "to the nearest sample", "ratio", "copy rate", "+-"),
        rows=rows,
        note=NOTE_6,
        panels=(
            Panel("where the resumed runs end", "t", "RMS distance a coordinate", (own, near), marks=marks),
            Panel("copies of training samples", "t", "copy rate (± 2 errors)", (copies,), share=True, marks=marks),
        ),
        sheet=_sheet(engine, named, None),
    )


def _run(engine: OracleEngine, model: Velocity, noise: Tensor, s: float, steps: int) -> Tensor:
    times = sampling_times(steps)
    # the switch lies on the grid
    times = torch.cat([times[times < s - 1e-9], torch.tensor([s], dtype=times.dtype), times[times > s + 1e-9]])
    return sample(Switch(engine, model, s), noise, times, path=engine.path).x


def _end(engine: OracleEngine, x: Tensor, threshold: float, seed: int) -> _End:
    found = nearest_samples(engine, x)
    rate = copy_rate(found.ratio, threshold=threshold, seed=seed)
    distance = distance_to(engine, x, found.index[:, 0]) / engine.data.dim**0.5
    return _End(x, rate, float(distance.median()), float(found.ratio.median()), found.index[:, 0])


def _grid(boundary: float | None) -> tuple[float, ...]:
    middle = 0.3 if boundary is None else boundary
    return tuple(sorted({round(min(LATEST, share * middle), 3) for share in SWITCHES}))


def _panels(name: str, rows: Sequence[tuple[float | int, ...]], marks: dict[str, float]) -> tuple[Panel, ...]:
    x = tuple(row[0] for row in rows)
    parts = (("copy rate (± 2 errors)", 1, 2), ("distance to the nearest (RMS)", 3, None), ("diversity", 5, None))
    panels = []
    for title, place, error in parts:
        errors = None if error is None else tuple(row[error] for row in rows)
        curve = Curve("", x, tuple(row[place] for row in rows), errors)
        panels.append(Panel(title, f"{name} (oracle until here)", "", (curve,), share=place == 1, marks=marks))
    return tuple(panels)


def _sheet(engine: OracleEngine, named: Sequence[tuple[str, Tensor]], nearest: Tensor | None) -> Sheet | None:
    if not is_picture(engine.data.sample_shape):
        return None
    rows = [(name, x[:SHOWN].float().cpu()) for name, x in named]
    if nearest is not None:
        rows.append(("nearest sample of the last", engine.data[nearest[:SHOWN]].float().cpu()))
    columns = ("",) * min(SHOWN, *(len(part) for _, part in rows))
    return Sheet(tuple(rows), columns, context_of(engine))
