"""The figure of the training demonstration: variances along t above, losses along the training below."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.files import replacing
from ..plot_style import BLUE, BODY, GREEN, GREY, INK, NAVIGATION, ORANGE, REFINEMENT, SMALL, require_matplotlib
from .report import TITLES, PerTarget, TrainReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (ORANGE, GREEN, BLUE)
# inches
SIZE = (7.8, 6.6)
# variances below this part of the largest are not drawn
FLOOR = 1e-5


def train_figure(report: TrainReport, path: str | Path) -> None:
    """Draw `report` to `path`, in the format its suffix names (.png, .pdf, .svg), whole or not at all.

    report: of the training. path: the file, in a folder that exists.

    Above, along t: the variance of the three targets and of the gradients they give. Below, along the steps: the oracle
    loss in either stage and the CFM loss of held-out samples, relative to the network trained with CFM.
    Raises MissingDependencyError where matplotlib is not installed, OSError where `path` cannot be written.
    """
    require_matplotlib()
    figure, path = _draw(report), Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png", dpi=200)


def _draw(report: TrainReport) -> Figure:
    """Return the figure of a report."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, facecolor="white")
    grid = figure.add_gridspec(2, 6, left=0.09, right=0.98, top=0.785, bottom=0.08, hspace=0.5, wspace=1.6)
    _title(figure, report)
    _variances(
        figure.add_subplot(grid[0, :3]), report, "target_variance", "variance of the target, E|u − v|² / D", log=True
    )
    _variances(
        figure.add_subplot(grid[0, 3:]), report, "gradient_variance", "variance of the gradient of one query", log=False
    )
    words = ("oracle loss, navigation", "oracle loss, refinement", "CFM loss, held-out samples")
    for column, (name, word) in enumerate(zip(("navigation", "refinement", "held_out"), words, strict=True)):
        _losses(figure.add_subplot(grid[1, 2 * column : 2 * column + 2]), report, name, word)
    return figure


def _title(figure: Figure, report: TrainReport) -> None:
    """Write the title, the facts and the names of the targets."""
    data, settings = report.data, report.settings
    facts = (
        f"N = {data['samples']:,},  D = {data['dim']:,},  {report.parameters / 1e6:.2f} M parameters,  "
        f"{settings['steps']} steps of {settings['batch']},  EFM over {settings['references']} references,  one seed"
    )
    figure.text(0.09, 0.965, f"Training targets: {data['name']}", size=13, weight="bold", color=INK, va="center")
    figure.text(0.09, 0.935, facts, size=BODY, color=GREY, va="center")
    figure.text(0.09, 0.905, data["values"], size=BODY, color=GREY, va="center")
    for column, (title, colour) in enumerate(zip(TITLES, COLOURS, strict=True)):
        figure.text(0.09 + 0.08 * column, 0.872, title, size=BODY, weight="bold", color=colour, va="center")


def _variances(axes: Axes, report: TrainReport, name: str, title: str, *, log: bool) -> None:
    """Draw a variance of the three targets along t."""
    middle = [0.5 * (part.first + part.last) for part in report.bins]
    held: list[PerTarget] = [getattr(part, name) for part in report.bins]
    floor = FLOOR * max(max(values) for values in held) if log else -1.0
    for index, colour in enumerate(COLOURS):
        values = [value[index] if value[index] > floor else math.nan for value in held]
        # thinner and on top, so that equal curves are seen to be equal
        axes.plot(middle, values, "o-", ms=3.8 - index * 0.7, lw=2.8 - index * 0.9, color=colour)
    if log:
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0.0)
    _stages(axes, min(report.boundary, report.bins[-1].last), report.bins[-1].last)
    _style(axes, title)


def _stages(axes: Axes, border: float, last: float) -> None:
    """Colour navigation and refinement."""
    axes.axvspan(0.0, border, color=NAVIGATION, lw=0, zorder=-2)
    axes.axvspan(border, last, color=REFINEMENT, lw=0, zorder=-2)
    axes.set_xlim(0.0, last)
    axes.set_xlabel("t   (0 noise, 1 data)", size=BODY, color=INK)
    for word, place, side in (("navigation", border - 0.02, "right"), ("refinement", border + 0.02, "left")):
        word_style: dict[str, Any] = {"size": SMALL, "style": "italic", "color": GREY, "ha": side}
        axes.text(place, 1.03, word, transform=axes.get_xaxis_transform(), **word_style)


def _losses(axes: Axes, report: TrainReport, name: str, title: str) -> None:
    """Draw a loss of the three networks along the training, relative to that of CFM."""
    steps = [point.step for point in report.checkpoints]
    held: list[PerTarget] = [getattr(point, name) for point in report.checkpoints]
    for index, colour in enumerate(COLOURS):
        values = [100.0 * (value[index] / value.cfm - 1.0) for value in held]
        axes.plot(steps, values, lw=2.8 - index * 0.9, color=colour)
    axes.set_xlabel("step", size=BODY, color=INK)
    _style(axes, f"{title}\n% from CFM's, {held[-1].cfm:.3g} at last")


def _style(axes: Axes, title: str) -> None:
    """Set the title and the ticks of a panel."""
    axes.set_title(title, size=BODY, color=INK, loc="left", pad=16 if "\n" not in title else 6)
    axes.tick_params(which="both", labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5, width=0.6)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#BBBBBB")
