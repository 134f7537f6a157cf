"""The strip of an analysis as pictures, or as points in a plane."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...base.arrays import Float, Tensor
from ..pictures import TAIL, Colours, plane_of
from .strip import Strip


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

    strip: with samples [H, W], [C, H, W] or [H, W, C]. Colours are those of :class:`.pictures.Colours` and span the
    range of the data; noise beyond it widens the range of its own picture.
    """
    colours = Colours.of(strip.context)
    noisy = colours.rgb(strip.noisy)
    ends = noisy.flatten(2).quantile(torch.tensor([TAIL, 1 - TAIL]), dim=2)
    lowest, highest = ends[0].clamp_max(colours.low), ends[1].clamp_min(colours.high)
    least, most = (end[..., None, None, None] for end in (lowest, highest))
    return Frames(
        noisy=((noisy - least) / (most - least).clamp_min(1e-12)).clamp(0, 1),
        denoised=colours.shown(strip.denoised),
        samples=colours.shown(strip.samples),
        context=colours.shown(strip.context),
    )


def plane_frames(strip: Strip) -> Frames:
    """Return a strip as points: the first two principal coordinates of the context of `strip`."""
    project = plane_of(strip.context)
    return Frames(
        project(strip.noisy, 2), project(strip.denoised, 2), project(strip.samples, 1), project(strip.context, 1)
    )
