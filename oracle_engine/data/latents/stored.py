"""Latents in the numbers they are stored in, and how the parts of several files become one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ...base.errors import bad_file


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of the channels, float64, one number each or [C]."""

    mean: Float64[Tensor, "M"]
    std: Float64[Tensor, "S"]


@dataclass(frozen=True, eq=False)
class LatentFiles:
    """Latents in the numbers they are stored in.

    format: "lightningdit", "mean-std" or "fast-dit". points: [N, C, H, W], floating. labels: [N] int64, or None.
    flips: whether the second half of the points are the latents of the mirrored images of the first.
    point_std: root mean square of the posterior standard deviations, in stored numbers, where the files hold them
        beside the means; else 0.
    stats: mean and std of the channels, from a file beside the points, or None.
    """

    format: str
    points: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"] | None
    flips: bool = False
    point_std: float = 0.0
    stats: ChannelStats | None = None


def check_kind(rows: Tensor, first: Tensor, index: int, where: Callable[[int], Path]) -> None:
    """Raise DataFileError where `rows`, the part `index`, are of another shape or dtype than those of the first."""
    if (rows.shape[1:], rows.dtype) != (first.shape[1:], first.dtype):
        wanted = f"{first.dtype} {list(first.shape[1:])} as in {where(0).name}"
        raise bad_file(where(index), wanted, f"{rows.dtype} {list(rows.shape[1:])}", "keep one kind in the folder")


def stacked(
    sizes: Sequence[int],
    part: Callable[[int], Tensor],
    where: Callable[[int], Path],
    storage: torch.dtype | None,
) -> Tensor:
    """Return the parts in one tensor that is allocated once; the first decides shape and dtype.

    sizes: rows of each part. part, where: give the part of a number, and the file that errors name.
    storage: floating dtype to cast to, or None. Raises DataFileError for a part of another shape or dtype.
    """
    first = part(0)
    points = torch.empty(sum(sizes), *first.shape[1:], dtype=storage or first.dtype)
    start = 0
    for index, size in enumerate(sizes):
        rows = first if index == 0 else part(index)
        check_kind(rows, first, index, where)
        points[start : start + size] = rows
        start += size
    return points
