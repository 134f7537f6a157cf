"""A sheet of samples: pictures side by side, or points in a plane among those of the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..base.arrays import Tensor
from ..data.values import is_picture
from .pictures import plane_of, sheet_of
from .plot_style import BLUE, require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the approximate width of a sheet of samples
SHEET_PIXELS = 1000


def samples_figure(samples: Tensor, context: Tensor, path: str | Path) -> None:
    """Draw samples to `path`: a sheet of pictures, or points in the plane among those of `context`.

    samples: what is drawn, [K, *shape] float32 on the CPU. context: samples of the data, [M, *shape] float32 on the
    CPU, which give the colours or the plane. path: the file, whose suffix names the format.

    Every pixel of a picture becomes a square of whole pixels. Raises MissingDependencyError where matplotlib is not
    installed, OSError where `path` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    draw = _draw_sheet if is_picture(tuple(context.shape[1:])) else _draw_points
    dots = draw(figure, axes, samples, context)
    save_figure(figure, path, dots)


def _draw_sheet(figure: Figure, axes: Axes, samples: Tensor, context: Tensor) -> int:
    """Draw a sheet of pictures and return the dots per inch of the figure, one inch a pixel."""
    sheet = sheet_of(samples, context)
    height, width = sheet.shape[:2]
    figure.set_size_inches(width, height)
    axes.imshow(sheet.numpy(), interpolation="nearest", aspect="auto")
    return max(1, round(SHEET_PIXELS / width))


def _draw_points(figure: Figure, axes: Axes, samples: Tensor, context: Tensor) -> int:
    """Draw points in the plane of the context and return the dots per inch of the figure."""
    project = plane_of(context)
    figure.set_size_inches(5, 5)
    for part, size, colour in ((context, 2.0, "#BBBBBB"), (samples, 14.0, BLUE)):
        points = project(part, 1).numpy()
        axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, lw=0)
    return 150
