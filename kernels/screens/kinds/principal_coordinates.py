"""Coordinates of rows in directions of large variance, and norms of what lies beyond them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from ....base.arrays import Float, Float64, Tensor
from ....base.progress import Progress
from ...common.rounding import UNIT_ROUNDOFF, WALK
from ...common.rows import Rows, Span
from ...common.screen_terms import UPWARD
from ..bounds.screen import log_weights

# coordinates beyond those of a level are bounded in blocks, each of which ends this many times further out
BLOCK_GROWTH = 2

# bytes of rows that the basis is fitted to and that are projected at once
FIT_BYTES = 128 << 20
PROJECT_BYTES = 32 << 20


def principal_basis(rows: Rows, width: int, seed: int) -> Float64[Tensor, "D M"]:
    """Return so many directions of large variance, [D, width] float64, orthonormal, fitted to a subset of `rows`.

    width: how many. seed: of the random subset and of the decomposition, which leave the global generator as it is.
    Randomised decomposition of Halko, Martinsson and Tropp (2011) as torch has it.
    """
    count = min(len(rows), max(2 * width, FIT_BYTES // (4 * rows.dim)))
    with torch.random.fork_rng(devices=[] if rows.device.type == "cpu" else None):
        torch.manual_seed(seed)
        chosen = torch.randperm(len(rows), device=rows.device)[:count].sort().values
        subset = rows.centred(rows.stored.index_select(0, chosen))
        basis = torch.svd_lowrank(subset, q=width, niter=2)[2]
    orthonormal: Tensor = torch.linalg.qr(basis.double()).Q
    return orthonormal


def row_features(
    rows: Rows,
    basis: Float64[Tensor, "D M"],
    widths: Sequence[int],
    span: Span,
    *,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "n _"], ...]:
    """Return the features of the rows in `span` for each level, [n, _] float32, see :class:`.pca.PrincipalScreen`.

    rows: the data. basis: orthonormal columns, [D, M] float64. widths: of the levels, rising up to M.
    progress: called with the rows done and their number. Costs 2 n D M operations, 32 MB of rows at a time.
    """
    edges = block_edges(widths)
    extra = 2 if rows.log_weights is None else 3
    sizes = [width + len(edges) - edges.index(width) + extra for width in widths]
    out = tuple(torch.empty(len(span), size, device=rows.device) for size in sizes)
    narrow = basis.float()
    step = max(1, PROJECT_BYTES // (4 * rows.dim))
    for start in range(span.start, span.stop, step):
        stop = min(start + step, span.stop)
        coordinates = rows.centred(rows.stored[start:stop]) @ narrow
        logs = [] if rows.log_weights is None else [log_weights(rows, slice(start, stop))[:, None]]
        for width, part in zip(widths, out, strict=True):
            features = _features(coordinates, rows.half_norms[start:stop], width, edges)
            part[start - span.start : stop - span.start] = torch.cat([*features, *logs], dim=1)
        if progress is not None:
            progress(stop - span.start, len(span))
    return out


def block_edges(widths: Sequence[int]) -> list[int]:
    """Return where the blocks beyond the first of `widths` begin; the last edge is M, where the rest begins."""
    first, last = widths[0], widths[-1]
    growing = [first]
    while growing[-1] < last:
        growing.append(min(BLOCK_GROWTH * growing[-1], last))
    return sorted({*widths, *growing})


def block_norms(coordinates: Float[Tensor, "n M"], edges: Sequence[int]) -> Float[Tensor, "n e"]:
    """Return the norms of `coordinates`, [n, M], between neighbouring `edges`, [n, e]."""
    norms = [torch.linalg.vector_norm(coordinates[:, first:last], dim=1) for first, last in pairwise(edges)]
    return torch.stack(norms, dim=1) if norms else coordinates.new_zeros(len(coordinates), 0)


def projection_error(width: int) -> float:
    """Return how far `width` float32 coordinates may be from exact ones, relative to the norm of the row."""
    return WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(width) + 1.0)


def _features(
    coordinates: Float[Tensor, "n M"], half_norms: Float64[Tensor, "n"], width: int, edges: list[int]
) -> list[Float[Tensor, "n _"]]:
    """Return the features of a level of this width, less the logs of weights, as columns."""
    beyond = edges[edges.index(width) :]
    error = projection_error(edges[-1])
    rest = norm_beyond(half_norms, coordinates, error)
    return [
        coordinates[:, :width],
        block_norms(coordinates, beyond) * UPWARD,
        rest[:, None],
        norm_beyond(half_norms, coordinates[:, :width], error)[:, None],
        half_norms.float()[:, None],
    ]


def norm_beyond(half_norms: Float64[Tensor, "n"], kept: Float[Tensor, "n m"], error: float) -> Float[Tensor, "n"]:
    """Return the norms of rows beyond the coordinates `kept` of them, [n], rounded up.

    half_norms: |z|^2 / 2 of the rows. error: of coordinates relative to |z|, see :func:`projection_error`.
    """
    # |z|^2 - |c|^2, and what rounding of c may hide
    square = 2.0 * half_norms * (1.0 + 4.0 * error) - kept.double().square().sum(1)
    return (square.clamp_min(0.0).sqrt() * UPWARD).float()


def residual_norm(
    point: Float64[Tensor, "B D"], projection: Float64[Tensor, "B M"], error: float
) -> Float64[Tensor, "B"]:
    """Return the norms of queries beyond their coordinates, [B].

    point: [B, D] float64. projection: its coordinates, [B, M]. error: of these, relative to |y|.
    """
    # what cancels here is lost below the rounding of the projection, relative to |y|^2, which is added
    norm: Tensor = torch.linalg.vector_norm(point, dim=1)
    square = norm.square() * (1.0 + 2.0 * error) - projection.square().sum(1)
    return square.clamp_min(0.0).sqrt()
