"""A figure or table of the paper for one's own data: rows, panels of curves, a sheet of pictures, and what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...base.arrays import Float, Tensor
from ...base.errors import invalid
from ...engine.engine import OracleEngine
from ..transition import draw_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = float | int | str | None


@dataclass(frozen=True)
class Curve:
    """A curve through the points (x, y): its name, and the standard errors of y, or None where they are not known."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    errors: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Panel:
    """Axes with curves. log: y is logarithmic. share: y is a share. marks: vertical lines at x by their names."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log: bool = False
    share: bool = False
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """Rows of pictures with names, [K, *shape] float32 on the CPU each; colours are those of `context`, [M, *shape]."""

    rows: tuple[tuple[str, Float[Tensor, "..."]], ...]
    columns: tuple[str, ...]
    context: Float[Tensor, "M ..."]


@dataclass(frozen=True)
class PaperResult:
    """A figure or table of arXiv 2512.02826 computed for other data.

    name: such as "fig5". title: what is shown. facts: what it was computed from, plain values that json can write.
    columns, rows: the table. note: what the published one shows, and how this one differs. panels, sheet: the figure;
    a table has neither.
    """

    name: str
    title: str
    facts: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    panels: tuple[Panel, ...] = ()
    sheet: Sheet | None = field(default=None, repr=False, compare=False)

    def format_table(self) -> str:
        """Return the table as aligned text, with its title, what it was computed from, and the note."""
        cells = [self.columns, *(tuple(_shown(cell) for cell in row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([f"{self.name}: {self.title}", self.describe(), "", *lines, "", *_wrapped(self.note)])

    def describe(self) -> str:
        """Return the facts in one line."""
        joints = {"N": " = ", "D": " = "}
        return ", ".join(f"{name}{joints.get(name, ' ')}{_shown(value)}" for name, value in self.facts.items())

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values that json can write."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        facts = {name: list(held) if isinstance(held, tuple) else held for name, held in self.facts.items()}
        return {"name": self.name, "title": self.title, "facts": facts, "rows": rows, "note": self.note}

    def figure(self) -> Figure | None:
        """Return the matplotlib figure, or None for a table. Raises MissingDependencyError without matplotlib."""
        from .plots import result_figure

        return result_figure(self) if self.panels or self.sheet is not None else None


def data_facts(engine: OracleEngine) -> dict[str, Any]:
    """Return what a result says of the data and the path of an engine."""
    data, (low, high) = engine.data, engine.data.value_range
    path = repr(engine.path).removesuffix("()")
    return {"data": data.name, "N": len(data), "D": data.dim, "values": f"{low:.3g} .. {high:.3g}", "path": path}


def context_of(engine: OracleEngine, count: int = 512) -> Float[Tensor, "M ..."]:
    """Return samples that stand for the data of an engine, float32 on the CPU; a sheet takes its colours from them.

    engine: over the data. count: how many at most. They are drawn by their weights, the same ones every time.
    """
    rows = draw_rows(engine.data, min(count, len(engine.data)), 0)
    return engine.data.sample_values(rows).float().cpu()


def check_count(name: str, count: int, least: int) -> None:
    """Raise InputError where `count`, the argument called `name`, is below `least`."""
    if count < least:
        raise invalid(name, f"must be at least {least}", count, "leave it out for the default")


def spread(values: Sequence[float]) -> str:
    """Return the ends of some numbers as text."""
    return f"{min(values):g} .. {max(values):g}"


def _shown(cell: Any) -> str:
    """Return a cell as text."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 110)
