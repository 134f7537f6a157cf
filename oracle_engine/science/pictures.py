"""Samples as RGB pictures where they are images or latents, else as points in a plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..base.arrays import Float, Tensor
from ..data.values import picture_layout

# the range of colours leaves out this share of the values of the data at either end
TAIL = 0.005


@dataclass(frozen=True)
class Colours:
    """How samples become pictures: one channel is grey, three are RGB, any other number (latents) by directions.

    layout: of a sample, as :func:`.data.values.picture_layout` names it. directions: of the channels, [C, 3], or None
    where they are grey or RGB. low, high: the values that are shown as 0 and 1.
    """

    layout: str
    directions: Float[Tensor, "C 3"] | None
    low: float
    high: float

    @classmethod
    def of(cls, context: Float[Tensor, "M ..."]) -> Colours:
        """Return the colours of the data, of which `context` is some samples, [M, *shape] float32, pictures."""
        layout, directions = _layout(context), _channel_colours(context)
        values = _coloured(context, directions, layout).reshape(-1)
        return cls(layout, directions, *values.quantile(torch.tensor([TAIL, 1 - TAIL])).tolist())

    def rgb(self, samples: Float[Tensor, "..."]) -> Float[Tensor, "... H W 3"]:
        """Return samples, with any leading axes, as RGB in their own range."""
        return _coloured(samples, self.directions, self.layout)

    def shown(self, samples: Float[Tensor, "..."]) -> Float[Tensor, "... H W 3"]:
        """Return samples, with any leading axes, as RGB in [0, 1], clamped to the range of the data."""
        return ((self.rgb(samples) - self.low) / max(self.high - self.low, 1e-12)).clamp(0, 1)


def sheet_of(samples: Float[Tensor, "K ..."], context: Float[Tensor, "M ..."]) -> Float[Tensor, "H W 3"]:
    """Return pictures side by side in rows on white, as one RGB picture in [0, 1], [H, W, 3] float32.

    samples: the pictures, [K, *shape] float32. context: samples of the data, [M, *shape] float32, which give the
    colours and their range.
    """
    images = Colours.of(context).shown(samples)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1] + 1, images.shape[2] + 1
    sheet = torch.ones(rows * height + 1, columns * width + 1, 3)
    for number, image in enumerate(images):
        top, left = number // columns * height + 1, number % columns * width + 1
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def plane_of(context: Float[Tensor, "M ..."]) -> Callable[[Tensor, int], Tensor]:
    """Return a function from samples to their first two principal coordinates.

    context: samples of the data, [M, *shape], whose principal directions are used.
    The function takes samples [..., *shape] and the number of leading axes, and returns [..., 2].
    """
    flat = context.reshape(len(context), -1)
    centre = flat.mean(0)
    directions = torch.linalg.svd(flat - centre, full_matrices=False).Vh[:2]

    def project(part: Tensor, batch: int) -> Tensor:
        """Return the coordinates of samples in the plane."""
        points = (part.reshape(*part.shape[:batch], -1) - centre) @ directions.T
        return torch.nn.functional.pad(points, (0, 2 - points.shape[-1]))

    return project


def _channel_colours(context: Float[Tensor, "M ..."]) -> Tensor | None:
    """Return the directions [C, 3] that channels are shown by, or None where they are grey or RGB already."""
    image = _channels_last(context, _layout(context))
    channels = image.shape[-1]
    if channels in (1, 3):
        return None
    values = image.reshape(-1, channels)
    directions = torch.linalg.svd(torch.cov(values.T)).U[:, :3]
    return torch.nn.functional.pad(directions, (0, 3 - directions.shape[1]))


def _layout(context: Float[Tensor, "M ..."]) -> str:
    """Return the layout of samples that may be smaller than pictures are."""
    return picture_layout(tuple(context.shape[1:])) or "CHW"[4 - context.ndim :]


def _channels_last(part: Tensor, layout: str) -> Tensor:
    """Return pictures with the axes [..., H, W, C]."""
    return {"HW": part.unsqueeze(-1), "HWC": part}[layout] if layout != "CHW" else part.movedim(-3, -1)


def _coloured(part: Tensor, colours: Tensor | None, layout: str) -> Tensor:
    """Return pictures with the axes [..., H, W, 3]."""
    image = _channels_last(part, layout)
    if colours is not None:
        return image @ colours
    return image if image.shape[-1] == 3 else image.expand(*image.shape[:-1], 3)
