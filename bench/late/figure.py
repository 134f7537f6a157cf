"""The figure of the late route: time and error against t, from the rows of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oracle_engine.compare.peers.nearest import peer_names
from oracle_engine.compare.workloads import HELD, TRAINING
from oracle_engine.science.plot_style import BLUE, BODY, GREEN, GREY, INK, ORANGE, SMALL, require_matplotlib

from .record import EXACT, LateRow, LateSide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# inches
COLUMN, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, GAP = 2.9, 1.9, 0.75, 1.75, 0.75, 0.45, 0.3

# errors below are drawn here: the exact route is rounded too, and differs from any other by about this much
FLOOR = 1e-6

LATER = "#56B4E9"


@dataclass(frozen=True)
class Curve:
    """The curve of one side: the kind of its queries, its name in the rows and in the key, and its line."""

    kind: str
    side: str
    words: str
    colour: str
    style: str | tuple[int, tuple[int, ...]] = "-"


def curves(rows: Sequence[LateRow]) -> list[Curve]:
    """Return the curves in the order of the key; tolerances from wide to narrow."""
    names = [name for name in rows[0].sides if name.startswith("auto ") and name.count(" ") == 1]
    own = [
        Curve(HELD, name, f"engine, held-out,\ntolerance {name.split()[1]}", colour)
        for name, colour in zip(names, (BLUE, LATER), strict=False)
    ]
    known = [
        Curve(TRAINING, f"{name} source", "engine, source known,\nthe first of these", GREEN) for name in names[:1]
    ]
    peers = [
        Curve(HELD, side, side.replace("-", " ", 1), colour, (0, (4, 2)))
        for side, colour in zip(peer_names(), (ORANGE, GREY, "#BBBBBB"), strict=False)
    ]
    return [Curve(HELD, EXACT, "exact route", INK), *own, *known, *peers]


def late_figure(rows: Sequence[LateRow], path: Path) -> None:
    """Draw time and error against t for the largest batch of every data set, in the format of the suffix."""
    require_matplotlib()
    from matplotlib.figure import Figure

    size = max(row.batch for row in rows if row.queries == HELD)
    rows = [row for row in rows if row.batch == size and row.queries in (HELD, TRAINING) and row.t != "mixed"]
    names = list(dict.fromkeys(row.data for row in rows))
    figure = Figure(facecolor="white")
    panels, drawn = _panels(figure, len(names)), curves(rows)
    for column, name in enumerate(names):
        part = [row for row in rows if row.data == name]
        _times(panels[0][column], part, drawn)
        _errors(panels[1][column], part, drawn)
        one = part[0]
        panels[0][column].set_title(f"{name}: {one.count:,} × {one.dim:,}", size=BODY, color=INK, loc="left")
        panels[1][column].set_xlabel("t   (0 noise, 1 data)", size=BODY, color=INK)
    panels[0][0].set_ylabel(f"ms for {size} queries", size=BODY, color=INK)
    panels[1][0].set_ylabel("largest relative error\nof the velocity", size=BODY, color=INK)
    _key(panels[0][-1], drawn)
    panels[1][-1].text(
        1.04, 0.95, "distance to the exact\nroute; dotted: what the\nengine states at most;\nrounding in the grey band",
        transform=panels[1][-1].transAxes, size=SMALL, color=GREY, va="top",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def _panels(figure: Figure, columns: int) -> Any:
    """Write the title and return axes, [2, columns]: time above error for every data set."""
    width = LEFT + columns * (COLUMN + GAP) - GAP + RIGHT
    height = TOP + 2 * HEIGHT + GAP + BOTTOM
    figure.set_size_inches(width, height)
    title: dict[str, Any] = {"size": 13, "weight": "bold", "color": INK, "va": "center"}
    figure.text(LEFT / width, 1 - 0.24 / height, "The late route: time and error against t", **title)
    grid = {"left": LEFT / width, "right": 1 - RIGHT / width, "top": 1 - TOP / height, "bottom": BOTTOM / height}
    return figure.subplots(
        2, columns, squeeze=False, sharex=True, sharey="row",
        gridspec_kw={**grid, "wspace": GAP / COLUMN, "hspace": GAP / HEIGHT},
    )  # fmt: skip


def _times(axes: Axes, rows: Sequence[LateRow], drawn: Sequence[Curve]) -> None:
    for curve in drawn:
        _line(axes, rows, curve, lambda side: side.median_ms)
    axes.set_xticks(sorted({float(row.t) for row in rows}))
    _thin(axes)


def _errors(axes: Axes, rows: Sequence[LateRow], drawn: Sequence[Curve]) -> None:
    for curve in drawn:
        if curve.side != EXACT:
            _line(axes, rows, curve, lambda side: max(side.true_error, FLOOR))
        if curve.side.startswith("auto "):
            _line(axes, rows, curve, _stated, ls=":", marker="", lw=1.0)
    axes.set_ylim(0.5 * FLOOR, 2.0)
    axes.axhspan(0.5 * FLOOR, FLOOR, color="#F4F4F4", lw=0, zorder=-2)
    _thin(axes)


def _stated(side: LateSide) -> float | None:
    # an answer from all samples states no error
    return None if not side.stated_error else max(side.stated_error, FLOOR)


def _line(
    axes: Axes, rows: Sequence[LateRow], curve: Curve, value: Callable[[LateSide], float | None], **style: Any
) -> None:
    found = [(float(row.t), value(row.sides[curve.side])) for row in rows if _has(row, curve)]
    points = sorted((t, height) for t, height in found if height is not None)
    drawing = {"color": curve.colour, "ls": curve.style, "lw": 1.5, "marker": "o", "ms": 2.5, **style}
    axes.plot([t for t, _ in points], [height for _, height in points], **drawing)
    axes.set_yscale("log")


def _has(row: LateRow, curve: Curve) -> bool:
    return row.queries == curve.kind and curve.side in row.sides


def _key(axes: Axes, drawn: Sequence[Curve]) -> None:
    height = 1.0
    for curve in drawn:
        axes.text(
            1.04, height, curve.words, transform=axes.transAxes, size=SMALL, color=curve.colour, va="top",
            linespacing=1.1, weight="bold" if curve.side == EXACT or curve.side.startswith("auto ") else "normal",
        )  # fmt: skip
        height -= 0.115 * (1 + curve.words.count("\n"))


def _thin(axes: Axes) -> None:
    axes.minorticks_off()
    axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5, width=0.6)
    axes.grid(visible=True, axis="y", color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#BBBBBB")
