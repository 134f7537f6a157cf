"""Time against t and against B, a line for each side that is within its tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..science.plot_style import INK, SERIES, SMALL, require_matplotlib, save_figure, style
from .record import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# inches
WIDTH, HEIGHT = 9.5, 3.4


def comparison_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw the medians of the rows and write the figure; sides above their tolerance are left out.

    rows: of one data set. path: .png, .pdf or .svg. Raises MissingDependencyError where matplotlib is not installed,
    OSError where the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    batch, times = max(row.batch for row in rows), sorted({row.t for row in rows}, key=float)
    t = times[len(times) // 2]
    names = list(dict.fromkeys(name for row in rows for name, side in row.sides.items() if side.within))
    at_batch = [row for row in rows if row.batch == batch]
    at_time = [row for row in rows if row.t == t]
    _lines(panels[0], at_batch, names, lambda row: float(row.t))
    _lines(panels[1], at_time, names, lambda row: float(row.batch))
    style(panels[0], f"B = {batch}", "t", "milliseconds for the batch")
    style(panels[1], f"t = {t}", "queries B", "")
    panels[1].set_xscale("log", base=2)
    for axes in panels:
        axes.set_yscale("log")
    figure.suptitle(
        f"Time of a velocity, {rows[0].label}; sides within their tolerance", size=10, color=INK, x=0.01, ha="left"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=SMALL, frameon=False)
    save_figure(figure, path)


def _lines(axes: Axes, rows: Sequence[Row], names: Sequence[str], place: Callable[[Row], float]) -> None:
    """Draw the time of each side over the places of the rows; what missed its tolerance is left out."""
    ordered = sorted(rows, key=place)
    for number, name in enumerate(names):
        colour, dashes, mark = SERIES[number % len(SERIES)]
        found = [row.sides[name] for row in ordered]
        times = [side.median_ms if side.within else math.nan for side in found]
        # the second round of colours has hollow marks
        face = "white" if number >= len(SERIES) else colour
        axes.plot(
            [place(row) for row in ordered],
            times,
            color=colour,
            ls=dashes,
            marker=mark,
            mfc=face,
            ms=4,
            lw=1.3,
            label=name,
        )
