"""Tables 1 to 3: two models at a boundary, timestep shift, and the interval of guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...base.arrays import Int64, Tensor
from ...base.errors import invalid
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...paths.time_grids import sampling_times, shift_for
from ...queries.conditions import Guidance
from ...samplers.fields import Switch, Velocity
from ...samplers.runs import initial_noise, sample
from ..advice import WISHED_SHARES
from ..memorisation import copy_rate, nearest_samples
from .boundary import predicted_boundary
from .quality import Metric, energy_distance, mean_distance, quality_of
from .result import Cell, PaperResult, check_count, context_of, data_facts

SHIFTS = (1.0, 0.7, 0.5, 0.3, 0.1)
# samples of the data that generated ones are compared with
QUALITY_SAMPLES = 1024

TABLE1_NOTE = (
    "Published: FID of one model up to the boundary and another one after it. The quality here is the energy "
    "distance in value space, smaller is better, unless another metric is passed; the oracle takes part as a "
    "model."
)
TABLE2_NOTE = (
    "Published: shift 1 / .7 / .5 / .3 / .1 spend 22 / 28 / 34 / 46 / 72 % of 50 steps at t <= .2. The rows count "
    "the starts of steps up to each boundary; times run from noise: tools whose time runs from data name 1 / "
    "shift. Feed in the ESS boundary: half of the queries are down to two samples there; the prediction needs no "
    "queries but is early where samples overlap."
)
TABLE3_NOTE = (
    "Published: guidance of a trained model in an interval of t. Here the guidance is the oracle's: after the "
    "transition it changes little, since one sample has nearly all weight with and without the class."
)


def table1(
    engine: OracleEngine,
    models: Mapping[str, Velocity],
    *,
    boundary: float | None = None,
    count: int = 256,
    steps: int = 50,
    metric: Metric = energy_distance,
    seed: int = 0,
) -> PaperResult:
    """Return the quality of samples that follow one model up to a boundary and another one after it, for each pair.

    engine: the oracle, whose data samples are compared with; it takes part under the name "oracle". models: by name,
    velocities v(x, t) along its path. boundary: in (0, 1); None takes the predicted transition. count: samples of each
    pair, from the same noise. steps: of Euler. metric: of samples and data, smaller is better. seed: of the noise.
    """
    check_count("count", count, 2)
    boundary = _boundary(engine, seed) if boundary is None else boundary
    noise = initial_noise(engine, count, generator=seeded(seed, engine.data.device))
    data, times = context_of(engine, QUALITY_SAMPLES), sampling_times(steps)
    rows: list[tuple[Cell, ...]] = []
    for first, before in {**models, "oracle": engine}.items():
        for second, after in {**models, "oracle": engine}.items():
            x = sample(Switch(before, after, boundary), noise, times, path=engine.path).x
            found = quality_of(metric, x.float().cpu(), data)
            rate = copy_rate(nearest_samples(engine, x).ratio, seed=seed)
            rows.append((first, second, found.value, found.error, rate.rate, rate.error))
    facts = data_facts(engine) | {"boundary": round(boundary, 3), "runs": count, "steps": steps}
    return PaperResult(
        name="table1",
        title="One model up to the boundary, another after it",
        facts=facts | {"metric": getattr(metric, "__name__", "metric")},
        columns=("before", "after", "quality", "+-", "copy rate", "+- "),
        rows=tuple(rows),
        note=TABLE1_NOTE,
    )


def table2(
    engine: OracleEngine,
    boundaries: Mapping[str, float | None],
    *,
    steps: int = 50,
    shifts: Sequence[float] = SHIFTS,
    wished: Sequence[float] = WISHED_SHARES,
) -> PaperResult:
    """Return how many steps a timestep shift spends before each boundary, and the shift that gives a wished share.

    engine: whose data are named. boundaries: end of navigation by the definition that found it, such as
    `StageReport.quality_of`; None is left out. steps: of a run. shifts: s of t_m = s t / (1 + (s - 1) t).
    wished: shares f of the steps, in (0, 1), for which s = b (1 - f) / (f (1 - b)) is given.
    """
    known = {name: t for name, t in boundaries.items() if t is not None and 0.0 < t < 1.0}
    if not known:
        raise invalid("boundaries", "must hold a time in (0, 1)", dict(boundaries), "pass {'chosen': 0.2}")
    rows: list[tuple[str | float, ...]] = []
    for name, t in known.items():
        for shift in shifts:
            starts = sampling_times(steps, shift=shift)[:-1]
            rows.append((name, round(t, 4), shift, float((starts <= t).double().mean()), "counted"))
        rows += [(name, round(t, 4), shift_for(share, t), share, "wished") for share in wished]
    return PaperResult(
        name="table2",
        title="Timestep shift and the share of steps spent on navigation",
        facts=data_facts(engine) | {"steps": steps},
        columns=("boundary", "t", "shift", "share of steps", "the share is"),
        rows=tuple(rows),
        note=TABLE2_NOTE,
    )


def table3(
    engine: OracleEngine,
    *,
    scale: float = 2.0,
    count: int = 128,
    steps: int = 50,
    boundary: float | None = None,
    metric: Metric = energy_distance,
    seed: int = 0,
) -> PaperResult:
    """Return what guidance of the oracle does in intervals before and after the transition.

    engine: the oracle of labelled data. scale: w of v_0 + w (v_y - v_0). count: samples, of the classes in turn.
    steps: of Euler. boundary: in (0, 1); None takes the predicted transition. metric, seed: as in :func:`table1`.

    Agreement is the share of samples whose nearest sample has the class asked for. Raises InputError without labels.
    """
    check_count("count", count, 2)
    data = engine.data
    if not data.segments or data.labels is None:
        raise invalid("engine", "must be over labelled data", f"{data.name!r} without labels", "name data with labels")
    boundary = _boundary(engine, seed) if boundary is None else boundary
    names = torch.tensor(list(data.segments), device=data.device)
    labels = names[torch.arange(count, device=data.device) % len(names)]
    noise = initial_noise(engine, count, generator=seeded(seed, data.device))
    intervals = {"none": None, "navigation": (0.0, boundary), "refinement": (boundary, 1.0), "everywhere": (0.0, 1.0)}
    rows: list[tuple[Cell, ...]] = []
    for name, interval in intervals.items():
        guidance = None if interval is None else Guidance(scale, *interval)
        x = sample(engine, noise, sampling_times(steps), labels=labels, guidance=guidance).x
        ends = "-" if interval is None else f"{interval[0]:.2f} .. {interval[1]:.2f}"
        rows.append((name, ends, *_guided_cells(engine, x, labels, metric)))
    return PaperResult(
        name="table3",
        title="Guidance of the oracle by interval",
        facts=data_facts(engine) | {"scale": scale, "boundary": round(boundary, 3), "runs": count, "steps": steps},
        columns=("guided", "interval", "quality", "+-", "class agrees", "diversity", "samples that are nearest"),
        rows=tuple(rows),
        note=TABLE3_NOTE,
    )


def _guided_cells(engine: OracleEngine, x: Tensor, labels: Int64[Tensor, "K"], metric: Metric) -> tuple[Cell, ...]:
    """Return what table 3 says of samples `x` that were asked to be of the classes `labels`."""
    assert engine.data.labels is not None
    found = quality_of(metric, x.float().cpu(), context_of(engine, QUALITY_SAMPLES))
    nearest = nearest_samples(engine, x).index[:, 0]
    agreed = float((engine.data.labels[nearest] == labels).double().mean())
    diversity = mean_distance(x.float().cpu()) / mean_distance(context_of(engine))
    return (found.value, found.error, agreed, diversity, len(nearest.unique()))


def _boundary(engine: OracleEngine, seed: int) -> float:
    """Return the predicted transition. Raises InputError where there is none."""
    found = predicted_boundary(engine, seed)
    if found is None:
        raise invalid("boundary", "must be given where samples cannot be told apart", None, "pass boundary=0.2")
    return found
