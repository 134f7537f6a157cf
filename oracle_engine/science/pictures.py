"""Samples as RGB pictures where they are images or latents, else as points in a plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..base.arrays import Float, Tensor
from ..data.values import picture_layout
from .stage_strip import Strip

# the range of colours leaves out this share of the values of the data at either end
TAIL = 0.005


@dataclass(frozen=True)
class Frames:
    """The tensors of a strip, as RGB in [0, 1] with the last axes [H, W, 3], or as points with the last axis [2].

    noisy, denoised: K queries at T times, [K, T, ...]. samples: those that made the queries, [K, ...].
    context: M samples of the data, [M, ...].
    """

    noisy: Float[Tensor, "K T ..."]
    denoised: Float[Tensor, "K T ..."]
    samples: Float[Tensor, "K ..."]
    context: Float[Tensor, "M ..."]


def picture_frames(strip: Strip) -> Frames:
    """Return a strip of images as RGB in [0, 1].

    strip: with samples [H, W], [C, H, W] or [H, W, C]. One channel is shown in grey, three as they are, any other
    number (latents) by the three principal directions of the channels. Colours span the range of the data; noise beyond
    it widens the range of its own picture.
    """
    layout, colours = _layout(strip.context), _channel_colours(strip.context)
    noisy, denoised, samples, context = (
        _coloured(part, colours, layout) for part in (strip.noisy, strip.denoised, strip.samples, strip.context)
    )
    low, high = context.reshape(-1).quantile(torch.tensor([TAIL, 1 - TAIL])).tolist()
    ends = noisy.flatten(2).quantile(torch.tensor([TAIL, 1 - TAIL]), dim=2)
    least, most = (end[..., None, None, None] for end in (ends[0].clamp_max(low), ends[1].clamp_min(high)))
    width = max(high - low, 1e-12)
    return Frames(
        noisy=((noisy - least) / (most - least).clamp_min(1e-12)).clamp(0, 1),
        denoised=((denoised - low) / width).clamp(0, 1),
        samples=((samples - low) / width).clamp(0, 1),
        context=((context - low) / width).clamp(0, 1),
    )


def sheet_of(samples: Float[Tensor, "K ..."], context: Float[Tensor, "M ..."]) -> Float[Tensor, "H W 3"]:
    """Return pictures side by side in rows on white, as one RGB picture in [0, 1], [H, W, 3] float32.

    samples: the pictures, [K, *shape] float32. context: samples of the data, [M, *shape] float32, which give the
    colours and their range, as in :func:`picture_frames`.
    """
    layout, colours = _layout(context), _channel_colours(context)
    known, images = (_coloured(part, colours, layout) for part in (context, samples))
    low, high = known.reshape(-1).quantile(torch.tensor([TAIL, 1 - TAIL])).tolist()
    images = ((images - low) / max(high - low, 1e-12)).clamp(0, 1)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1] + 1, images.shape[2] + 1
    sheet = torch.ones(rows * height + 1, columns * width + 1, 3)
    for number, image in enumerate(images):
        top, left = number // columns * height + 1, number % columns * width + 1
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def colour_function(context: Float[Tensor, "M ..."]) -> Callable[[Float[Tensor, "K ..."]], Float[Tensor, "K H W 3"]]:
    """Return a function from pictures [K, *shape] to RGB in [0, 1], with the colours and the range of the data.

    context: samples of the data, [M, *shape] float32, pictures.
    """
    layout, colours = _layout(context), _channel_colours(context)
    low, high = _coloured(context, colours, layout).reshape(-1).quantile(torch.tensor([TAIL, 1 - TAIL])).tolist()

    def shown(samples: Tensor) -> Tensor:
        """Return samples as pictures, values in [0, 1]."""
        values = (_coloured(samples, colours, layout) - low) / max(high - low, 1e-12)
        clamped: Tensor = values.clamp(0, 1)
        return clamped

    return shown


def plane_frames(strip: Strip) -> Frames:
    """Return a strip as points: the first two principal coordinates of the context of `strip`."""
    project = plane_of(strip.context)
    return Frames(
        project(strip.noisy, 2), project(strip.denoised, 2), project(strip.samples, 1), project(strip.context, 1)
    )


def plane_of(context: Float[Tensor, "M ..."]) -> Callable[[Tensor, int], Tensor]:
    """Return a function from samples to their first two principal coordinates.

    context: samples of the data, [M, *shape], whose principal directions are used.
    The function takes samples [..., *shape] and the number of leading axes, and returns [..., 2].
    """
    flat = context.reshape(len(context), -1)
    center = flat.mean(0)
    directions = torch.linalg.svd(flat - center, full_matrices=False).Vh[:2]

    def project(part: Tensor, batch: int) -> Tensor:
        """Return the coordinates of samples in the plane."""
        points = (part.reshape(*part.shape[:batch], -1) - center) @ directions.T
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
    return picture_layout(tuple(context.shape[1:])) or "CHW"[4 - context.ndim :]


def _channels_last(part: Tensor, layout: str) -> Tensor:
    """Return pictures with the axes [..., H, W, C]."""
    return {"HW": part.unsqueeze(-1), "HWC": part}[layout] if layout != "CHW" else part.movedim(-3, -1)


def _coloured(part: Tensor, colours: Tensor | None, layout: str) -> Tensor:
    image = _channels_last(part, layout)
    if colours is not None:
        return image @ colours
    return image if image.shape[-1] == 3 else image.expand(*image.shape[:-1], 3)
