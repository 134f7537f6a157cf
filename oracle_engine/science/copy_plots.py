"""The figure of copies: generated samples above the samples of the data that are nearest to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..base.arrays import Float, Tensor
from ..data.dataset import OracleDataset
from ..data.values import is_picture
from .memorisation import Nearest
from .pictures import Colours
from .plot_style import BLUE, GREY, INK, SMALL, require_matplotlib, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the pairs shown, from the smallest ratio on
PAIRS = 10
# inches
WIDTH, HEAD, CURVE = 6.9, 0.5, 1.5
SIDE = (WIDTH - 0.9) / PAIRS
COLOUR_SAMPLES = 512


def copies_figure(x: Float[Tensor, "K ..."], found: Nearest, data: OracleDataset, path: str | Path) -> None:
    """Draw distance ratios, and of pictures the pairs with the smallest ones, to `path`.

    x: generated samples. found: their nearest samples. data: which were searched. path: the file, .png, .pdf or .svg.
    Raises MissingDependencyError where matplotlib is not installed, OSError where `path` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    pictures = is_picture(data.sample_shape)
    height = HEAD + CURVE + 0.5 + (2 * SIDE + 0.35 if pictures else 0.0)
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    words = f"Nearest samples: {len(x):,} generated, {data.name} (N = {len(data):,}, D = {data.dim:,})"
    figure.text(0.07, 1 - 0.2 / height, words, size=10, weight="bold", color=INK, va="center")
    axes = figure.add_axes((0.07, 1 - (HEAD + CURVE) / height, 0.91, CURVE / height))
    _histogram(axes, found.ratio)
    if pictures:
        _pairs(figure, x, found, data)
    save_figure(figure, path)


def _pairs(figure: Figure, x: Float[Tensor, "K ..."], found: Nearest, data: OracleDataset) -> None:
    """Draw the generated pictures with the smallest ratios, and below each the nearest sample."""
    shown = found.ratio.argsort()[:PAIRS]
    height = figure.get_figheight()
    colours = Colours.of(data[torch.arange(min(COLOUR_SAMPLES, len(data)))].float().cpu())
    rows = (("generated", x[shown]), ("nearest", data.sample_values(data.row_of(found.index[shown, 0]))))
    for row, (name, part) in enumerate(rows):
        top = HEAD + CURVE + 0.6 + row * (SIDE + 0.02)
        figure.text(0.085, 1 - (top + SIDE / 2) / height, name, size=SMALL, color=GREY, va="center", ha="right")
        for column, image in enumerate(colours.shown(part.float().cpu())):
            left = (0.65 + column * SIDE) / WIDTH
            inside = figure.add_axes((left, 1 - (top + SIDE) / height, 0.94 * SIDE / WIDTH, 0.94 * SIDE / height))
            inside.imshow(image.numpy(), interpolation="nearest")
            inside.set_axis_off()
            if row == 0:
                ratio = float(found.ratio[shown[column]])
                inside.set_title(f"{ratio:.2f}", size=SMALL, color=INK, pad=2)


def _histogram(axes: Axes, ratio: Tensor) -> None:
    """Draw the distance ratios."""
    axes.hist(ratio.cpu().numpy(), bins=40, range=(0.0, 1.0), color=BLUE)
    axes.axvline(1 / 3, color=INK, lw=0.8, ls=(0, (3, 3)))
    axes.set_xlim(0.0, 1.0)
    name = "distance to the nearest sample / distance to the second (dashed: 1/3)"
    style(axes, "", name, "samples")
