"""The figure of a result: a title, panels side by side, and pictures below, over two columns of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..pictures import Colours
from ..plot_style import BODY, GREY, INK, SERIES, SMALL, require_matplotlib, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .result import Panel, PaperResult, Sheet

# inches
WIDTH, LEFT, RIGHT, PANEL, FOOT, GAP = 6.9, 0.62, 0.12, 1.7, 0.46, 0.62
LINE, NAMES = 0.13, 0.95


def result_figure(result: PaperResult) -> Figure:
    """Return the figure of a result with panels or a sheet. Raises MissingDependencyError without matplotlib."""
    require_matplotlib()
    from matplotlib.figure import Figure

    facts = wrap(result.describe(), 118)
    names = max((len(panel.curves) for panel in result.panels), default=0)
    legend = LINE * names if names > 1 else 0.0
    top = 0.36 + 0.14 * len(facts) + 0.3
    panels = PANEL + FOOT + legend if result.panels else 0.0
    side = 0.0 if result.sheet is None else (WIDTH - NAMES - RIGHT) / max(len(result.sheet.columns), 6)
    rows = 0 if result.sheet is None else len(result.sheet.rows)
    height = top + panels + rows * side + (0.25 if rows else 0.0) + 0.1
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    _heading(figure, result.title, facts, height)
    _panels(figure, result.panels, top, height)
    if result.sheet is not None:
        _sheet(figure, result.sheet, top + panels + (0.2 if result.panels else 0.0), side, height)
    return figure


def _heading(figure: Figure, title: str, facts: Sequence[str], height: float) -> None:
    """Write the title and, line by line, what the result was computed from."""
    figure.text(0.1 / WIDTH, 1 - 0.18 / height, title, size=10, weight="bold", color=INK, va="center")
    for line, words in enumerate(facts):
        figure.text(0.1 / WIDTH, 1 - (0.38 + 0.14 * line) / height, words, size=SMALL, color=GREY, va="center")


def _panels(figure: Figure, panels: Sequence[Panel], top: float, height: float) -> None:
    """Draw the panels side by side, each with its legend below."""
    count = len(panels)
    for place, panel in enumerate(panels):
        width = (WIDTH - LEFT - RIGHT - GAP * (count - 1)) / count
        left = LEFT + place * (width + GAP)
        axes = figure.add_axes((left / WIDTH, 1 - (top + PANEL) / height, width / WIDTH, PANEL / height))
        _panel(axes, panel)
        _legend(figure, panel, left, top + PANEL + FOOT, height)


def _panel(axes: Axes, panel: Panel) -> None:
    """Draw the curves and the marks of a panel."""
    for number, curve in enumerate(panel.curves):
        colour, dashes, mark = SERIES[number % len(SERIES)]
        pairs = [(x, y, place) for place, (x, y) in enumerate(zip(curve.x, curve.y, strict=True)) if y is not None]
        xs, ys = [x for x, _, _ in pairs], [y for _, y, _ in pairs]
        look: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 1.4, "marker": mark, "ms": 3}
        if curve.errors is None:
            axes.plot(xs, ys, **look)
        else:
            errors = [2.0 * (curve.errors[place] or 0.0) for _, _, place in pairs]
            axes.errorbar(xs, ys, errors, elinewidth=0.7, capsize=1.5, **look)
    if panel.log:
        axes.set_yscale("log")
        axes.minorticks_off()
    if panel.share:
        axes.set_ylim(-0.03, 1.03)
    style(axes, panel.title, panel.x, panel.y)
    for name, x in panel.marks.items():
        low, high = axes.get_xlim()
        if low <= x <= high:
            axes.axvline(x, color=INK, lw=0.8, ls=(0, (3, 3)), zorder=0)
            right = x > 0.5 * (low + high)
            place: dict[str, Any] = {"rotation": 90, "va": "top", "ha": "right" if right else "left"}
            note = axes.text(x, 0.97, f" {name} ", transform=axes.get_xaxis_transform(), size=6.5, color=GREY, **place)
            note.set(zorder=0.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def _legend(figure: Figure, panel: Panel, left: float, top: float, height: float) -> None:
    """Name the curves below their panel."""
    from matplotlib.lines import Line2D

    if len(panel.curves) < 2:
        return
    for number, curve in enumerate(panel.curves):
        colour, dashes, mark = SERIES[number % len(SERIES)]
        y = 1 - (top + LINE * number) / height
        ends = [left / WIDTH, (left + 0.3) / WIDTH]
        figure.add_artist(Line2D(ends, [y, y], color=colour, ls=dashes, lw=1.4, marker=mark, ms=3))
        figure.text((left + 0.36) / WIDTH, y, curve.name, size=SMALL, color=INK, va="center")


def _sheet(figure: Figure, sheet: Sheet, top: float, side: float, height: float) -> None:
    """Draw the rows of pictures."""
    colours = Colours.of(sheet.context)
    for column, name in enumerate(sheet.columns):
        x = (NAMES + (column + 0.5) * side) / WIDTH
        figure.text(x, 1 - (top - 0.08) / height, name, size=SMALL, color=INK, ha="center", va="center")
    for row, (name, part) in enumerate(sheet.rows):
        y = top + row * side
        words = "\n".join(wrap(name, math.floor(NAMES / 0.06)))
        figure.text((NAMES - 0.08) / WIDTH, 1 - (y + side / 2) / height, words, size=BODY - 1, ha="right", va="center")
        for column, image in enumerate(colours.shown(part[: len(sheet.columns)])):
            left = (NAMES + column * side) / WIDTH
            axes = figure.add_axes((left, 1 - (y + side) / height, 0.94 * side / WIDTH, 0.94 * side / height))
            axes.imshow(image.numpy(), interpolation="nearest")
            axes.set_axis_off()
