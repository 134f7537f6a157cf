"""Aligned and markdown tables, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence

Lines = list[list[str]]

NOTHING = "-"


def as_text(columns: Sequence[str], lines: Lines) -> str:
    """Return an aligned table for a terminal."""
    widths = [max(map(len, cells)) for cells in zip(columns, *lines, strict=True)]
    return "\n".join(
        "  ".join(_aligned(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [list(columns), *lines]
    )


def as_markdown(columns: Sequence[str], lines: Lines) -> str:
    """Return a markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(columns), ["---"] * len(columns), *lines])


def milliseconds(value: float) -> str:
    """Return a time with three digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share in whole percents."""
    return f"{100 * share:.0f} %"


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() or cell == NOTHING else cell.ljust(width)
