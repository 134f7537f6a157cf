"""How the queries of an analysis are made, and added until the transition is known well enough."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch

from ...base.arrays import Numbers, Tensor
from ...base.errors import invalid
from ...base.progress import Progress
from ...engine.engine import OracleEngine
from ..transition import Predictor, grid_where_it_changes, time_grid
from .errors import transition_errors
from .neighbours import neighbour_ratio
from .points import TransitionTimes, measure_transition, narrowing_curves
from .run import StageRun
from .scope import Scope, StageQueries

# queries and times of the pilot run that finds where the posterior narrows
PILOT_QUERIES, PILOT_TIMES = 16, 12
GRID_TIMES = 24
# the precision that was asked for is given up after this many times the queries
MOST_ROUNDS = 64


class StagePlan:
    """How the queries of an analysis are made and added."""

    def __init__(self, engine: OracleEngine, scope: Scope, seed: int, size: int, progress: Progress | None) -> None:
        """Measure nothing yet. seed: of samples and noise. size: queries that are answered at once."""
        self.engine, self.scope, self.seed, self.size, self.progress = engine, scope, seed, size, progress

    @cached_property
    def predicted(self) -> Predictor:
        """The predicted transition of the samples that count."""
        return self.scope.predict(self.engine.path, self.engine.point_std, self.seed)

    def times(self) -> list[float]:
        """Return times of which most lie where a few queries show that the posterior narrows."""
        last = 0.99 if self.engine.t_max is None else min(0.99, self.engine.t_max)
        coarse = time_grid(self.predicted.anisotropic, count=PILOT_TIMES, last=last)
        pilot = StageRun(self.engine, coarse, StageQueries.drawn(self.scope, PILOT_QUERIES, self.seed), self.seed)
        return grid_where_it_changes(coarse, pilot.measure(self.size).narrowed(self.scope), GRID_TIMES)

    def run(self, times: list[float], count: int, unseen: StageQueries | None, precision: float | None) -> StageRun:
        """Return the queries at these times, more of them until the precision is reached."""
        run = self._round(times, count, unseen, 0)
        if precision is None:
            return run
        for number in range(1, MOST_ROUNDS):
            error = self.errors(run).ess_2
            if error is not None and error < precision:
                return run
            run = run.join(self._round(times, count, None, number))
        warnings.warn(
            f"after {len(run.queries):,} queries the transition is not yet known to {precision:g}", stacklevel=3
        )
        return run

    def findings(self, run: StageRun) -> dict[str, Any]:
        """Return the fields of a report that say what its queries are and tell, and what was predicted."""
        return {
            "queries": len(run.queries),
            "seed": self.seed,
            "points": run.points(),
            "measured": measure_transition(run.times, narrowing_curves(run.statistics)),
            "predicted": self.predicted,
            "errors": self.errors(run),
            "held_out": run.queries.held_out is not None,
            "neighbour_ratio": neighbour_ratio(self.engine, run.queries),
        }

    def errors(self, run: StageRun) -> TransitionTimes:
        """Return the standard errors of the transition of a run."""
        return transition_errors(run.times, run.statistics, self.seed)

    def _round(self, times: list[float], count: int, unseen: StageQueries | None, number: int) -> StageRun:
        """Return the queries of one round: `unseen`, or `count` new ones."""
        # seeds of rounds are far apart: those of other analyses count up by one
        seed = self.seed + number * 1_000_003
        queries = StageQueries.drawn(self.scope, count, seed) if unseen is None else unseen
        return StageRun(self.engine, times, queries, seed).measure(self.size, self.progress)


def unseen_queries(scope: Scope, samples: Tensor, labels: Numbers | None, count: int) -> StageQueries:
    """Return queries of samples that are not in the data.

    scope: what they are compared with. samples: [Q, *sample_shape] floating, in value space. labels: their classes,
    [Q], which a scope by classes needs. count: how many of them are used at most.

    Raises InputError for samples and classes unlike those of the data.
    """
    data = scope.data
    if not isinstance(samples, Tensor) or tuple(samples.shape[1:]) != data.sample_shape or len(samples) < 1:
        found = list(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        requirement = f"must be a tensor of samples [Q, {', '.join(map(str, data.sample_shape))}]"
        raise invalid("held_out", requirement, found, "pass samples like those of the data")
    if not samples.is_floating_point():
        raise invalid("held_out", "must be floating numbers in value space", samples.dtype, "map them to values")
    if not bool(samples.isfinite().all()):
        raise invalid("held_out", "must be finite", "a NaN or an infinity", "leave such samples out")
    classes = None
    if labels is not None:
        classes = torch.as_tensor(labels, device=data.device).long()[:count]
    if scope.per_class and (classes is None or not set(classes.tolist()) <= set(scope.classes)):
        requirement = "must give the class of every held-out sample where queries are compared with their own class"
        raise invalid("held_out_labels", requirement, labels, "pass a class of the data for each")
    return StageQueries(scope, None, samples[:count].to(data.device), classes if data.segments else None)
