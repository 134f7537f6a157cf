"""The tables that the gate prints."""

from __future__ import annotations

from collections.abc import Iterable

from oracle_engine.kernels.gpu.tools.compilation import Compilation
from oracle_engine.kernels.gpu.tools.limits import missed

from .kept import Section

# figures of a configuration, their names in the table, and the width of a column
COLUMNS = (
    ("registers", "regs", 4),
    ("spills", "spills", 6),
    ("shared", "shared", 7),
    ("programs", "progs", 5),
    ("instructions", "instr", 7),
    ("issued", "issued", 6),
    ("barriers", "bars", 5),
    ("ahead", "ahead", 5),
    ("flying", "fly", 3),
    ("outside", "sums", 4),
    ("unguarded", "races", 5),
    ("operand_kb", "kB/MFLOP", 8),
)

NAME = 42


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:{NAME}}" + " ".join(cell.rjust(width) for cell, (_, _, width) in zip(cells, COLUMNS, strict=True))


HEADER = _row("target  kernel   data  tile        launch", [title for _, title, _ in COLUMNS]) + "  matrix"


def line(result: Compilation) -> str:
    """Return the line of a table for a compilation."""
    figures = result.figures
    cells = [f"{figures[name]:g}" if name in figures else "-" for name, _, _ in COLUMNS]
    units = " ".join(f"{name}:{count}" for name, count in result.matrix.items()) or "-"
    return f"{_row(str(result.job), cells)}  {units:12} {'; '.join(faults(result)) or 'ok'}"


def faults(result: Compilation) -> list[str]:
    """Return what of a compilation misses a limit, in words."""
    return [*result.complaints, *missed(result.job, result.figures)]


def share_lines(title: str, section: Section) -> list[str]:
    """Return the lines of a table for figures that are not about a configuration."""
    lines = ["", title]
    for about, figures in section.items():
        lines.append(f"  {about:28} " + "  ".join(f"{name} {value:g}" for name, value in figures.items()))
    return lines
