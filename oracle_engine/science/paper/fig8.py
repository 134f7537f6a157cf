"""Figure 8: the oracle loss of checkpoints along the training, before and after the transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Bool, Tensor
from ...base.errors import invalid
from ...engine.engine import OracleEngine
from ...samplers.fields import Velocity
from .boundary import predicted_boundary
from .checkpoint_losses import LossQueries, default_times, mean_and_error
from .result import Cell, Curve, Panel, PaperResult, data_facts

FIG8_NOTE = (
    "Published: losses along the training; navigation is learned first, refinement goes on with size and steps, "
    "towards memorisation."
)


@dataclass(frozen=True)
class Checkpoint:
    """A model v(x, t) as it was after `step` steps of training, t = 0 noise and t = 1 data."""

    step: int
    model: Velocity


def fig8(
    engine: OracleEngine, runs: Mapping[str, Sequence[Checkpoint]], *, queries: int = 256, seed: int = 0
) -> PaperResult:
    """Return the oracle loss of checkpoints along the training, before and after the transition.

    engine: the oracle. runs: checkpoints by the name of the run, such as the size of the model. queries: at each of ten
    times. seed: of samples and noise. Raises InputError where there is no transition on the path.
    """
    boundary = _boundary(engine, runs, seed)
    asked = LossQueries(engine, default_times(), queries, seed)
    early = torch.tensor([t < boundary for t in asked.times])
    rows: list[tuple[Cell, ...]] = []
    curves: dict[str, list[Curve]] = {"navigation": [], "refinement": []}
    for name, checkpoints in runs.items():
        stages = _by_stage(asked, checkpoints, early)
        pairs = zip(checkpoints, stages["navigation"], stages["refinement"], strict=True)
        rows += [(name, part.step, *first, *second) for part, first, second in pairs]
        steps = tuple(float(part.step) for part in checkpoints)
        for stage, found in stages.items():
            curves[stage].append(Curve(name, steps, tuple(one[0] for one in found), tuple(one[1] for one in found)))
    return PaperResult(
        name="fig8",
        title="Oracle loss along the training",
        facts=data_facts(engine) | {"queries": queries, "boundary": round(boundary, 3)},
        columns=("run", "step", "navigation", "+-", "refinement", "+- "),
        rows=tuple(rows),
        note=FIG8_NOTE,
        panels=tuple(
            Panel(f"{stage}, t {sign} {boundary:.2f}", "training step", "oracle loss", tuple(curves[stage]))
            for stage, sign in (("navigation", "<"), ("refinement", ">"))
        ),
    )


def _by_stage(
    asked: LossQueries, checkpoints: Sequence[Checkpoint], early: Bool[Tensor, "T"]
) -> dict[str, list[tuple[float, float | None]]]:
    """Return mean and error of the oracle loss of each checkpoint in either stage; early: the times of the first."""
    losses = [asked.losses(part.model).oracle for part in checkpoints]
    return {
        "navigation": [mean_and_error(part[early].mean(0)) for part in losses],
        "refinement": [mean_and_error(part[~early].mean(0)) for part in losses],
    }


def _boundary(engine: OracleEngine, runs: Mapping[str, Sequence[Checkpoint]], seed: int) -> float:
    """Return the predicted transition. Raises InputError where there is none, or no run."""
    found = predicted_boundary(engine, seed)
    if found is None or not runs:
        received = "no run" if not runs else "samples that cannot be told apart"
        requirement = "must hold checkpoints over data that can be told apart"
        raise invalid("runs", requirement, received, "pass {'name': [...]}")
    return found
