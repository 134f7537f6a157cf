"""Figures 7 and 8: CFM loss and oracle loss of checkpoints, along t and along the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float64, Tensor
from ...base.errors import invalid
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...paths.paths import coefficients
from ...samplers.fields import Field, Velocity
from ..transition import draw_rows, predict_transition
from .result import Curve, Panel, PaperResult, check_count, data_facts

EARLIEST, LATEST = 0.005, 0.95
BATCH = 256

NOTE_7 = (
    "Published: losses of models of several sizes along t. The CFM loss holds V(t), which no model can lower, so "
    "that models look alike early; the oracle loss is what a model lacks. CFM loss = oracle loss + V(t): compare "
    "the last two columns."
)
NOTE_8 = (
    "Published: losses along the training; navigation is learned first, refinement goes on with size and steps, "
    "towards memorisation."
)


@dataclass(frozen=True)
class Checkpoint:
    """A model v(x, t) as it was after `step` steps of training, t = 0 noise and t = 1 data."""

    step: int
    model: Velocity


@dataclass(frozen=True)
class _Losses:
    """Losses |v_model - target|^2 / D of Q queries at T times, [T, Q] float64, for either target."""

    conditional: Float64[Tensor, "T Q"]
    oracle: Float64[Tensor, "T Q"]


def fig7(
    engine: OracleEngine,
    models: Mapping[str, Velocity],
    *,
    times: Sequence[float] | None = None,
    queries: int = 256,
    seed: int = 0,
) -> PaperResult:
    """Return CFM loss and oracle loss of models along t, and their difference beside V(t).

    engine: the oracle. models: by name, such as their sizes: velocities v(x, t) along the path of the engine.
    times: in (0, 1); None takes ten, denser early. queries: at each time. seed: of samples and noise.
    Costs an oracle velocity and one of each model for each query.
    """
    if not models:
        raise invalid("models", "must hold one or more models", "none", "pass {'name': model}")
    grid = _grid(times)
    queries_of = _Queries(engine, grid, queries, seed)
    boundary = predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic
    found = {name: queries_of.losses(model) for name, model in models.items()}
    rows = [
        (
            *(name, t, *_mean(part.conditional[place]), *_mean(part.oracle[place]), queries_of.variance[place]),
            float((part.conditional - part.oracle)[place].mean()),
        )
        for name, part in found.items()
        for place, t in enumerate(grid)
    ]
    marks = {} if boundary is None else {"transition": boundary}
    columns = ("model", "t", "CFM loss", "+-", "oracle loss", "+- ", "V(t)", "CFM - oracle")
    variance = Curve("V(t), from the oracle alone", grid, tuple(queries_of.variance))
    conditional = tuple(_curve(name, grid, part.conditional) for name, part in found.items())
    oracle = tuple(_curve(name, grid, part.oracle) for name, part in found.items())
    return PaperResult(
        name="fig7",
        title="CFM loss and oracle loss along t",
        facts=data_facts(engine) | {"queries": queries, "models": ", ".join(models)},
        columns=columns,
        rows=tuple(rows),
        note=NOTE_7,
        panels=(
            Panel("CFM loss |v − u|² / D", "t (0 noise, 1 data)", "", (*conditional, variance), log=True, marks=marks),
            Panel("oracle loss |v − v*|² / D", "t (0 noise, 1 data)", "", oracle, log=True, marks=marks),
        ),
    )


def fig8(
    engine: OracleEngine, runs: Mapping[str, Sequence[Checkpoint]], *, queries: int = 256, seed: int = 0
) -> PaperResult:
    """Return the oracle loss of checkpoints along the training, before and after the transition.

    engine: the oracle. runs: checkpoints by the name of the run, such as the size of the model. queries: at each of ten
    times. seed: of samples and noise. Raises InputError where there is no transition on the path.
    """
    boundary = predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic
    if boundary is None or not runs:
        received = "no run" if not runs else "samples that cannot be told apart"
        raise invalid(
            "runs", "must hold checkpoints over data that can be told apart", received, "pass {'name': [...]}"
        )
    grid = _grid(None)
    queries_of = _Queries(engine, grid, queries, seed)
    early = torch.tensor([t < boundary for t in grid])
    rows: list[tuple[str | float | None, ...]] = []
    curves: dict[str, list[Curve]] = {"navigation": [], "refinement": []}
    for name, checkpoints in runs.items():
        steps = tuple(float(part.step) for part in checkpoints)
        losses = [queries_of.losses(part.model).oracle for part in checkpoints]
        stages = {"navigation": [_mean(part[early].mean(0)) for part in losses]}
        stages["refinement"] = [_mean(part[~early].mean(0)) for part in losses]
        pairs = zip(checkpoints, stages["navigation"], stages["refinement"], strict=True)
        rows += [(name, part.step, *first, *second) for part, first, second in pairs]
        for stage, found in stages.items():
            curves[stage].append(Curve(name, steps, tuple(one[0] for one in found), tuple(one[1] for one in found)))
    return PaperResult(
        name="fig8",
        title="Oracle loss along the training",
        facts=data_facts(engine) | {"queries": queries, "boundary": round(boundary, 3)},
        columns=("run", "step", "navigation", "+-", "refinement", "+- "),
        rows=tuple(rows),
        note=NOTE_8,
        panels=tuple(
            Panel(f"{stage}, t {sign} {boundary:.2f}", "training step", "oracle loss", tuple(curves[stage]))
            for stage, sign in (("navigation", "<"), ("refinement", ">"))
        ),
    )


class _Queries:
    """The same queries for every model, with conditional and oracle velocities."""

    def __init__(self, engine: OracleEngine, times: Sequence[float], count: int, seed: int) -> None:
        check_count("queries", count, 1)
        data, self.times, self.engine = engine.data, times, engine
        samples = data.sample_values(draw_rows(data, count, seed)).double()
        noise = torch.randn(samples.shape, generator=seeded(seed), dtype=torch.float64).to(data.device)
        at = coefficients(engine.path, torch.tensor(times, dtype=torch.float64, device=data.device))
        self.x, self.target, self.oracle, self.variance = [], [], [], []
        for place, t in enumerate(times):
            x = at.alpha_t[place] * samples + at.sigma_t[place] * noise
            posterior = engine.posterior(x, t, top_k=1)
            factor = at.d_alpha_t[place] - at.alpha_t[place] * at.d_sigma_t[place] / at.sigma_t[place]
            self.x.append(x)
            self.target.append(at.d_alpha_t[place] * samples + at.d_sigma_t[place] * noise)
            # u - v = A (X - E[X | x])
            self.oracle.append(self.target[-1] - factor * (samples - posterior.mean))
            self.variance.append(float(factor.square() * posterior.variance.mean() / data.dim))

    def losses(self, model: Velocity) -> _Losses:
        """Return the losses of a model."""
        pairs = [self._losses(model, place) for place in range(len(self.times))]
        return _Losses(torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs]))

    @torch.no_grad()
    def _losses(self, model: Velocity, place: int) -> tuple[Tensor, Tensor]:
        field, x = Field(model, self.engine.path), self.x[place].to(self.engine.data.value_dtype)
        answer = torch.cat([field.velocity(part, self.times[place]) for part in x.split(BATCH)]).double()
        gaps = (answer - target for target in (self.target[place], self.oracle[place]))
        conditional, oracle = (gap.reshape(len(gap), -1).square().mean(1).cpu() for gap in gaps)
        return conditional, oracle


def _grid(times: Sequence[float] | None) -> tuple[float, ...]:
    if times is not None:
        return tuple(sorted(times))
    return tuple(round(EARLIEST + (LATEST - EARLIEST) * (place / 9) ** 1.5, 4) for place in range(10))


def _mean(values: Float64[Tensor, "Q"]) -> tuple[float, float | None]:
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def _curve(name: str, grid: tuple[float, ...], losses: Float64[Tensor, "T Q"]) -> Curve:
    pairs = [_mean(part) for part in losses]
    return Curve(name, grid, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
