"""Figure 7: CFM loss and oracle loss of models along t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...base.arrays import Float64, Tensor
from ...base.errors import invalid
from ...engine.engine import OracleEngine
from ...samplers.fields import Velocity
from .boundary import marks_at, predicted_boundary
from .checkpoint_losses import Losses, LossQueries, default_times, mean_and_error
from .result import Cell, Curve, Panel, PaperResult, data_facts

FIG7_NOTE = (
    "Published: losses of models of several sizes along t. The CFM loss holds V(t), which no model can lower, so "
    "that models look alike early; the oracle loss is what a model lacks. CFM loss = oracle loss + V(t): compare "
    "the last two columns."
)


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
    grid = default_times() if times is None else tuple(sorted(times))
    asked = LossQueries(engine, grid, queries, seed)
    found = {name: asked.losses(model) for name, model in models.items()}
    return PaperResult(
        name="fig7",
        title="CFM loss and oracle loss along t",
        facts=data_facts(engine) | {"queries": queries, "models": ", ".join(models)},
        columns=("model", "t", "CFM loss", "+-", "oracle loss", "+- ", "V(t)", "CFM - oracle"),
        rows=tuple(row for name, part in found.items() for row in _rows(name, part, asked)),
        note=FIG7_NOTE,
        panels=_panels(found, asked, marks_at(predicted_boundary(engine, seed))),
    )


def _rows(name: str, losses: Losses, asked: LossQueries) -> list[tuple[Cell, ...]]:
    """Return a row of the table for each time of one model."""
    gap = losses.conditional - losses.oracle
    return [
        (
            *(name, t, *mean_and_error(losses.conditional[place]), *mean_and_error(losses.oracle[place])),
            *(asked.variance[place], float(gap[place].mean())),
        )
        for place, t in enumerate(asked.times)
    ]


def _panels(found: Mapping[str, Losses], asked: LossQueries, marks: dict[str, float]) -> tuple[Panel, Panel]:
    """Return the panel of the CFM loss beside V(t), and that of the oracle loss."""
    grid, below = tuple(asked.times), "t (0 noise, 1 data)"
    variance = Curve("V(t), from the oracle alone", grid, tuple(asked.variance))
    conditional = tuple(_curve(name, grid, part.conditional) for name, part in found.items())
    oracle = tuple(_curve(name, grid, part.oracle) for name, part in found.items())
    return (
        Panel("CFM loss |v − u|² / D", below, "", (*conditional, variance), log=True, marks=marks),
        Panel("oracle loss |v − v*|² / D", below, "", oracle, log=True, marks=marks),
    )


def _curve(name: str, grid: tuple[float, ...], losses: Float64[Tensor, "T Q"]) -> Curve:
    """Return the mean loss along t, with its errors."""
    pairs = [mean_and_error(part) for part in losses]
    return Curve(name, grid, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
