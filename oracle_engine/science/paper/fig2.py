"""Figure 2: how the posterior narrows along t, for one data set or several."""

from __future__ import annotations

from collections.abc import Mapping

from ...engine.engine import OracleEngine
from ..stages.analysis import analyse
from ..stages.report import StageReport
from .result import Curve, Panel, PaperResult, data_facts, spread

FIG2_NOTE = (
    "Published: class-conditional ImageNet-256 latents (about 1,300 samples a class, D = 8192 and 4096); the top-1 "
    "weight passes .02 / .2 / .4 / .63 / .82 / .99 at t = .02 / .04 / .05 / .06 / .07 / .10, on linear t. Curves of "
    "other data lie where their N, D and variance put them."
)


def fig2(
    engines: Mapping[str, OracleEngine], *, queries: int = 256, seed: int = 0, per_class: bool = False
) -> PaperResult:
    """Return top-1 weight, cosine of conditional and oracle velocity, and V(t) along t, a curve for each data set.

    engines: by the names of the curves, at least one. queries: at each time. seed: of the queries. per_class: compare
    each query with its own class, as the published figure does; data without labels are then refused.
    Costs an analysis of each.
    """
    reports = {
        name: analyse(engine, queries=queries, seed=seed, per_class=per_class, strip=1, strip_times=1)
        for name, engine in engines.items()
    }
    rows = tuple(_row(name, report) for name, report in reports.items())
    scope = "class-conditional" if per_class else "unconditional"
    first = next(iter(engines.values()))
    facts = data_facts(first) if len(engines) == 1 else {"data": ", ".join(engines), "path": data_facts(first)["path"]}
    return PaperResult(
        name="fig2",
        title=f"From many samples to one along t, {scope}",
        facts=facts | {"queries": queries},
        columns=("data", "N", "D", "values", "top-1 = .5", "+-", "ESS = 2", "+- ", "predicted"),
        rows=rows,
        note=FIG2_NOTE,
        panels=_panels(reports),
    )


def _row(name: str, report: StageReport) -> tuple[str | int | float | None, ...]:
    """Return the row of the table about one report."""
    data, measured, errors = report.data, report.measured, report.errors
    sizes = (report.population, data["dim"], spread([round(end, 3) for end in data["value_range"]]))
    times = (measured.top_weight_50, errors.top_weight_50, measured.ess_2, errors.ess_2)
    return (name, *sizes, *times, report.predicted.anisotropic)


def _panels(reports: Mapping[str, StageReport]) -> tuple[Panel, ...]:
    """Return a panel for each quantity, with a curve for each report."""
    titles = {
        "top_weight": "mean top-1 weight",
        "cosine": "mean cos(u, v)",
        "velocity_variance": "V(t) = E|u − v|² / D",
    }
    panels = []
    for field, title in titles.items():
        curves = []
        for name, report in reports.items():
            # until the posterior has narrowed: the rest of the axis is empty
            points = [point for point in report.points if point.t <= _end(report)]
            values = tuple(getattr(point, field) for point in points)
            errors = tuple(getattr(point, f"{field}_error") for point in points)
            told = f"{name} (N = {report.population:,}, D = {report.data['dim']:,})"
            curves.append(Curve(told, tuple(point.t for point in points), values, errors))
        panels.append(Panel(title, "t (0 noise, 1 data)", "", tuple(curves)))
    return tuple(panels)


def _end(report: StageReport) -> float:
    """Return the time at which the posterior has narrowed, or the last one."""
    done = [point.t for point in report.points if point.top_weight > 0.995]
    return done[0] if done else report.points[-1].t
