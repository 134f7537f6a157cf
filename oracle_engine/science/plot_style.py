"""How every figure looks and is written: colours, sizes of type, thin frames, files that exist whole or not at all."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import missing
from ..base.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by every kind of colour vision
BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#767676"
NAVIGATION, REFINEMENT = "#FCF4E8", "#EAF2F8"
# series in an order whose lightness falls and rises, with dashes and marks that greyscale keeps
SERIES = (
    ("#0072B2", "-", "o"),
    ("#E69F00", (0, (5, 1.5)), "s"),
    ("#111111", (0, (1.2, 1.2)), "^"),
    ("#56B4E9", (0, (6, 1.5, 1.2, 1.5)), "D"),
    ("#B0478F", (0, (3, 1, 1, 1, 1, 1)), "v"),
    ("#009E73", (0, (8, 2)), "P"),
)
BODY, SMALL = 8.5, 7.5
DOTS = 200


def require_matplotlib() -> None:
    """Check that figures can be drawn. Raises MissingDependencyError, which says what to install, where they cannot."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise missing("matplotlib", "A figure", "plot") from error


def save_figure(figure: Figure, path: str | Path, dots: int = DOTS) -> None:
    """Write a figure to `path`, in the format its suffix names (.png, .pdf, .svg), whole or not at all.

    figure: what is written. path: the file; its folder is created. dots: per inch, of pictures.
    Raises OSError where `path` cannot be written.
    """
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png", dpi=dots)


def png_of(figure: Figure, dots: float = 120) -> bytes:
    """Return a figure as the bytes of a PNG file with `dots` per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots)
    return stream.getvalue()


def thin(axes: Axes) -> None:
    """Draw the frame of `axes` thin and light."""
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#BBBBBB")


def style(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes small type, a thin frame, a title at the left and names of both axes with their units."""
    thin(axes)
    axes.tick_params(which="both", labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5, width=0.6)
    if title:
        axes.set_title(title, size=BODY, color=INK, loc="left", pad=5)
    axes.set_xlabel(x, size=BODY, color=INK, labelpad=2)
    axes.set_ylabel(y, size=BODY, color=INK, labelpad=3)


def place_of(t: float) -> float:
    """Return logit(t), with t kept 1e-4 away from 0 and 1."""
    t = min(max(t, 1e-4), 1 - 1e-4)
    return math.log(t / (1 - t))
