"""The two stages of flow matching over a data set: early navigation among many samples, late refinement of one.

The quantities are those of "From Navigation to Refinement" (arXiv 2512.02826), computed from the exact posterior.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...base.arrays import Float, Numbers, Tensor
from ...base.errors import invalid
from ...base.machine.settings import __version__
from ...base.progress import Progress
from ...data.dataset import OracleDataset
from ...engine.engine import OracleEngine
from ...paths.paths import coefficients
from ..transition import EARLIEST_TIME
from .plan import StagePlan, unseen_queries
from .report import StageReport
from .run import StageRun
from .scope import Scope
from .strip import Follower, Strip, narrowing_times


def analyse(
    engine: OracleEngine,
    *,
    times: Sequence[float] | None = None,
    queries: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
    strip: int = 6,
    strip_times: int = 8,
    batch: int = 256,
    per_class: bool = False,
    labels: Sequence[int] | None = None,
    held_out: Float[Tensor, "Q ..."] | None = None,
    held_out_labels: Numbers | None = None,
    precision: float | None = None,
) -> StageReport:
    """Return how the posterior narrows along t, over training queries x_t = alpha(t) X_s + sigma(t) eps.

    engine: whose data, path and point_std are analysed.
    times: in [0, 1], at most t_max of the engine, with sigma > 0; None takes about 24 in [0.01, 0.99], most of them
        where 16 queries show that the posterior narrows.
    queries: number of training queries at each time, at least 1. Their samples X_s are drawn from strata of equal
        weight; every time uses the same samples and the same noise eps.
    seed: of these samples and this noise. The same seed gives the same numbers on one machine.
    progress: called with (steps done, all steps) after each batch of queries at one time, and before the first.
    strip: number of queries that are kept for pictures, at least 1; at most `queries` are kept.
    strip_times: number of times of these pictures, at least 1. Between them the posterior narrows by similar steps.
    batch: queries that are answered at once, at least 1; fewer where samples are large.
    per_class: compare each query with the samples of its own class alone, as class-conditional training does.
    labels: classes whose samples count, for queries and posteriors; None for all.
    held_out: samples that queries are made of in place of those of the data, [Q, *sample_shape], in value space; the
        first `queries` of them are used. held_out_labels: their classes, [Q], needed with `per_class`.
    precision: standard error of the time of the transition (median ESS = 2) below which no more queries are added, in
        (0, 1); at most 64 times `queries` are used.

    The report holds one StagePoint for each time, the measured and the predicted transition, and what it was computed
    from; `report.format_table()`, `report.to_json()` and `report.figure()` show it.
    Raises InputError for times that cannot be used, for counts below 1, for classes that the data lack, and where t_max
    of the engine is at most 0.01 and no times are given. Costs one posterior for each query and time, of labelled data
    also a log density of its class; memory is that of one batch.

    >>> import oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> report = oe.analyse(engine, times=[0.2, 0.5, 0.9], queries=64)
    >>> [round(point.top_weight, 1) for point in report.points]
    [0.0, 0.4, 1.0]
    >>> report.points[0].t, report.data["samples"]
    (0.2, 1797)
    """
    began = time.perf_counter()
    queries, batch = _counted("queries", queries), _counted("batch", batch)
    shown = min(_counted("strip", strip), queries), _counted("strip_times", strip_times)
    grid = _checked_times(engine, times)
    scope = Scope(engine.data, None if labels is None else tuple(int(label) for label in labels), per_class)
    precision = _checked_precision(precision, drawn=held_out is None)
    unseen = None if held_out is None else unseen_queries(scope, held_out, held_out_labels, queries)
    plan = StagePlan(engine, scope, seed, batch, progress)
    run = plan.run(grid or plan.times(), queries, unseen, precision)
    found = plan.findings(run) | {"strip": _pictures(plan, run, *shown)}
    return StageReport(**_origin(engine, scope), **found, elapsed=time.perf_counter() - began)


def _pictures(plan: StagePlan, run: StageRun, queries: int, times: int) -> Strip:
    """Return so many queries of a run at so many times, between which the posterior narrows by similar steps."""
    follower = Follower(plan.engine, run.queries, run.by_lateness(min(queries, len(run.queries))), plan.seed)
    return follower.strip(narrowing_times(run.times, run.narrowed(plan.scope), times))


def _counted(name: str, count: int) -> int:
    """Return the count called `name`. Raises InputError below 1."""
    if count < 1:
        raise invalid(name, "must be at least 1", count, "leave it out for the default")
    return count


def _checked_precision(precision: float | None, *, drawn: bool) -> float | None:
    """Return the precision. drawn: whether queries are drawn, so that more of them can be. Raises InputError."""
    if precision is not None and not drawn:
        requirement = "needs training queries, of which more can be drawn"
        raise invalid("precision", requirement, precision, "leave held_out out")
    if precision is not None and not 0.0 < precision < 1.0:
        raise invalid("precision", "must lie in (0, 1)", precision, "pass 0.002, or leave it out")
    return precision


def _checked_times(engine: OracleEngine, times: Sequence[float] | None) -> list[float] | None:
    """Return the times, rising, or None for those that the analysis chooses. Raises InputError."""
    if times is None:
        if engine.t_max is not None and engine.t_max <= EARLIEST_TIME:
            raise invalid("times", f"must be given where t_max is at most {EARLIEST_TIME}", None, "pass times=[t_max]")
        return None
    grid = sorted({float(t) for t in times})
    last = 1.0 if engine.t_max is None else engine.t_max
    if not grid or not all(0.0 <= t <= last for t in grid):
        raise invalid("times", f"must be one or more numbers in [0, {last:g}]", grid, "pass times such as 0.05 0.1 0.2")
    at = coefficients(engine.path, torch.tensor(grid, dtype=torch.float64))
    if not bool((at.sigma_t > 0).all()):
        bad = grid[int((at.sigma_t <= 0).nonzero()[0])]
        raise invalid("times", "must leave some noise: sigma(t) > 0", f"t = {bad}", "stop before the end, at 0.99")
    return grid


def _origin(engine: OracleEngine, scope: Scope) -> dict[str, Any]:
    """Return the fields of a report that say what it was computed from."""
    versions = {"oracle-velocity-engine": __version__, "torch": torch.__version__, "python": platform.python_version()}
    device = str(engine.data.device)
    compared = {"scope": scope.describe(), "population": max(scope.sizes())}
    origin = {"data": _data_facts(engine.data), "path": repr(engine.path), "device": device, "versions": versions}
    return origin | compared


def _data_facts(data: OracleDataset) -> dict[str, Any]:
    """Return what a report says of its data set, as plain values that json can write."""
    return {
        "name": data.name,
        "description": repr(data),
        "samples": len(data),
        "dim": data.dim,
        "sample_shape": list(data.sample_shape),
        "storage": str(data.storage).removeprefix("torch."),
        **data.value_facts(),
        "fingerprint": data.fingerprint,
    }
