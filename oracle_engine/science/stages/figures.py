"""The figures of a report by the name of their layout, and what a notebook shows of it."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from ...base.errors import MissingDependencyError, invalid
from ..plot_style import png_of
from .curve_plots import curves_figure
from .plots import poster
from .report import StageReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUTS = ("poster", "paper")


def report_figure(report: StageReport, layout: str = "poster", *, linear: bool = False) -> Figure:
    """Return the figure of a report; arguments and errors as in :meth:`StageReport.figure`."""
    if layout not in LAYOUTS:
        raise invalid("layout", f"must be one of {', '.join(LAYOUTS)}", repr(layout), "pass 'poster'")
    return curves_figure([report], linear=linear) if layout == "paper" else poster(report, linear=linear)


def notebook_png(report: StageReport) -> bytes | None:
    """Return the poster of a report as a PNG file, or None where matplotlib is not installed."""
    try:
        return png_of(report_figure(report))
    except MissingDependencyError:
        return None


def notebook_html(report: StageReport) -> str:
    """Return the poster, where it can be drawn, and the table of a report as HTML."""
    picture = notebook_png(report)
    data = "" if picture is None else base64.b64encode(picture).decode()
    name = html.escape(f"two stages of {report.data['name']}", quote=True)
    shown = f'<img alt="{name}" style="max-width:100%" src="data:image/png;base64,{data}">' if data else ""
    return f"<div>{shown}<pre>{html.escape(report.format_table())}</pre></div>"
