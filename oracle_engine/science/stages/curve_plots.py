"""Figure 2 of the paper for any reports: top-1 weight, effective sample size and V(t) along t, one curve a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..plot_style import INK, SERIES, SMALL, place_of, require_matplotlib, style
from .report import StageReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# inches: two columns of a page
WIDTH, PANEL, LINE, BOTTOM = 6.9, 1.75, 0.14, 0.42
# a linear axis ends where every mean top-1 weight has reached this
LINEAR_END = 0.99
FEW_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def curves_figure(
    reports: Sequence[StageReport], *, linear: bool = False, names: Sequence[str] | None = None
) -> Figure:
    """Return the figure of one report or the comparison of several, at most six, 6.9 inches wide.

    reports: what is drawn, a curve each. linear: t on a linear axis that ends a little after the last transition, and
    V(t) on a linear axis, as published; otherwise logit(t), and V(t) on a logarithmic axis.
    names: of the curves; the names of the data unless given.

    Bands are two standard errors. Vertical marks on the t axis are predictions. Raises MissingDependencyError where
    matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    names = names or [report.data["name"] for report in reports]
    top = 0.3 + LINE * len(reports) + 0.28
    height = top + PANEL + BOTTOM
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    _heads(figure, reports, names, height)
    panels = [
        figure.add_axes(((0.47 + 2.18 * place) / WIDTH, BOTTOM / height, 1.72 / WIDTH, PANEL / height))
        for place in range(3)
    ]
    for number, report in enumerate(reports):
        _draw(panels, report, number, linear=linear)
    _finish(panels, reports, linear=linear)
    return figure


def _heads(figure: Figure, reports: Sequence[StageReport], names: Sequence[str], height: float) -> None:
    """Write the title, and a line about each report that names its curve."""
    paths = {report.path.removesuffix("()") for report in reports}
    words = f"Two stages along t ({', '.join(sorted(paths))}; t = 0 noise, t = 1 data)"
    figure.text(0.47 / WIDTH, 1 - 0.14 / height, words, size=10, weight="bold", color=INK, va="center")
    for number, (report, name) in enumerate(zip(reports, names, strict=True)):
        colour, dashes, _ = SERIES[number % len(SERIES)]
        y = 1 - (0.34 + LINE * number) / height
        from matplotlib.lines import Line2D

        line = Line2D([0.47 / WIDTH, 0.78 / WIDTH], [y, y], color=colour, ls=dashes, lw=1.8)
        figure.add_artist(line)
        figure.text(0.85 / WIDTH, y, _facts(report, name), size=SMALL, color=INK, va="center")


def _facts(report: StageReport, name: str) -> str:
    """Return the words about one report."""
    data, t, error = report.data, report.measured.ess_2, report.errors.ess_2
    low, high = data["value_range"]
    size = (
        f"N = {data['samples']:,}" if report.population == data["samples"] else f"N = {report.population:,} a posterior"
    )
    told = "" if t is None else f", ESS = 2 at {t:.3f}{'' if error is None else f' ± {error:.3f}'}"
    kind = "held-out" if report.held_out else "training"
    return f"{name}: {size}, D = {data['dim']:,}, values {low:.3g} .. {high:.3g}, {report.queries} {kind} queries{told}"


def _draw(panels: Sequence[Axes], report: StageReport, number: int, *, linear: bool) -> None:
    """Draw the curves of one report."""
    colour, dashes, mark = SERIES[number % len(SERIES)]
    look: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 1.5}
    points = report.points
    place = [point.t if linear else place_of(point.t) for point in points]
    top = [point.top_weight for point in points]
    panels[0].plot(place, top, **look)
    _band(panels[0], place, top, [point.top_weight_error for point in points], colour)
    panels[1].plot(place, [point.ess_quantiles[2] for point in points], **look)
    low, high = ([point.ess_quantiles[end] for point in points] for end in (1, 3))
    panels[1].fill_between(place, low, high, color=colour, alpha=0.15, lw=0)
    variance = [point.velocity_variance for point in points]
    panels[2].plot(place, variance, **look)
    _band(panels[2], place, variance, [point.velocity_variance_error for point in points], colour)
    predicted, measured = report.predicted.anisotropic, report.measured.top_weight_50
    if predicted is not None:
        x = predicted if linear else place_of(predicted)
        panels[0].plot([x], [0.0], mark, color=colour, ms=4, mfc="white", clip_on=False, zorder=5)
    if measured is not None:
        panels[0].plot([measured if linear else place_of(measured)], [0.5], mark, color=colour, ms=4)


def _band(axes: Axes, place: list[float], values: list[float], errors: list[float | None], colour: str) -> None:
    wide = [2.0 * (error or 0.0) for error in errors]
    low, high = ([value + sign * error for value, error in zip(values, wide, strict=True)] for sign in (-1, 1))
    axes.fill_between(place, low, high, color=colour, alpha=0.2, lw=0)


def _finish(panels: Sequence[Axes], reports: Sequence[StageReport], *, linear: bool) -> None:
    """Set titles, ticks and limits of the panels."""
    name = "t" if linear else "t (logit scale)"
    titles = ("top-1 weight, open: predicted", "median ESS, middle 50 %", "V(t) = E|u − v|² / D")
    for axes, title in zip(panels, titles, strict=True):
        style(axes, title, name)
        if linear:
            axes.set_xlim(0.0, _end(reports))
        else:
            held = [point.t for report in reports for point in report.points]
            inside = [t for t in FEW_TICKS if min(held) <= t <= max(held)]
            axes.set_xticks([place_of(t) for t in inside], [f"{t:g}" for t in inside])
            axes.minorticks_off()
    panels[0].set_ylim(-0.03, 1.03)
    panels[1].set_yscale("log")
    panels[1].minorticks_off()
    if linear:
        panels[2].set_ylim(bottom=0.0)
        return
    largest = max(point.velocity_variance for report in reports for point in report.points)
    panels[2].set_yscale("log")
    panels[2].set_ylim(1e-5 * largest, 3.0 * largest)
    panels[2].minorticks_off()


def _end(reports: Sequence[StageReport]) -> float:
    ends = [next((point.t for point in report.points if point.top_weight >= LINEAR_END), None) for report in reports]
    last = max(report.points[-1].t for report in reports)
    known = [end for end in ends if end is not None]
    return min(last, 1.15 * max(known)) if known else last
