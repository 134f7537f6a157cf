"""A compressed copy of the rows: short vectors whose inner product with a query bounds the logit of every sample.

Notation: z a centred row, c its leading coordinates in an orthonormal basis, e = z - V c what they leave out. For any
y the product <y, z> is at most <V^T y, c> plus, block by block, the norm of y times the norm of z (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from ..arrays import Float, Float64, Tensor
from .accuracy import UNIT_ROUNDOFF, WALK
from .rows import Rows, Span

# coordinates beyond those of a level are bounded in blocks of this many
BLOCK_WIDTH = 64

# bytes of rows that the basis is fitted to and that are projected at once
FIT_BYTES = 128 << 20
PROJECT_BYTES = 32 << 20

# norms are stored a little larger than they are: a few float32 roundings
UPWARD = 1.0 + 2.0**-21

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Screen:
    """Rows in `basis` at several levels of detail.

    basis: orthonormal columns, [D, M] float64, the directions of largest variance first.
    widths: coordinates each level keeps, rising; the last is M.
    features: for each level [N, w] float32: the coordinates, the norm of each block beyond them, the norm of
        everything beyond them, |z|^2 / 2, and log w_j where samples have weights.
    reach, known_reach: for each level the smallest alpha^2 / sigma^2 at which it is worth trying, for queries of which
        nothing is known and for those whose source is; infinite for never.
    """

    basis: Float64[Tensor, "D M"]
    widths: tuple[int, ...]
    features: tuple[Float[Tensor, "N _"], ...]
    reach: tuple[float, ...]
    known_reach: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.features[0])

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.basis.nbytes + sum(part.nbytes for part in self.features)

    def to(self, device: torch.device) -> Screen:
        """Return the screen on `device`."""
        return replace(self, basis=self.basis.to(device), features=tuple(part.to(device) for part in self.features))

    def extended(self, rows: Rows) -> Screen:
        """Return the screen of `rows`, whose first rows are those of this screen: only the others are projected.

        Any basis gives valid bounds; the centre has to be the same.
        """
        later = row_features(rows, self.basis, self.widths, Span(len(self), len(rows)))
        return replace(self, features=tuple(map(torch.cat, zip(self.features, later, strict=True))))


def default_widths(rows: Rows) -> tuple[int, ...]:
    """Return the widths of the levels: a 24th, a 6th and a third of the dimension, while they cost less than the data.

    Empty where rows are so short that no shorter vector would help.
    """
    wished = [2 ** round(math.log2(max(1.0, rows.dim / share))) for share in (24, 6, 3)]
    budget = rows.dim * rows.stored.dtype.itemsize / 4
    widths: list[int] = []
    for width in wished:
        cost = width + rows.dim / (3 * BLOCK_WIDTH) + 4
        if 8 <= width <= len(rows) // 2 and cost <= max(budget, rows.dim / 5):
            widths.append(width)
            budget -= cost
    return tuple(widths)


def build_screen(rows: Rows, widths: Sequence[int], seed: int = 0, progress: Progress | None = None) -> Screen:
    """Return the screen of `rows` with these widths; `progress` is called with the rows done and their number.

    Costs a randomised decomposition of a subset of the rows and one pass of 2 N D M operations; memory is the
    screen and blocks of at most 128 MB.
    """
    basis = principal_basis(rows, widths[-1], seed)
    features = row_features(rows, basis, widths, Span(0, len(rows)), progress)
    always = (0.0,) * len(widths)
    return Screen(basis, tuple(widths), features, always, always)


def principal_basis(rows: Rows, width: int, seed: int) -> Float64[Tensor, "D M"]:
    """Return directions of large variance, [D, width], orthonormal to float64, fitted to a random subset of the rows.

    Randomised decomposition of Halko, Martinsson and Tropp (2011) as torch has it; it draws from its own generator.
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
    rows: Rows, basis: Float64[Tensor, "D M"], widths: Sequence[int], span: Span, progress: Progress | None = None
) -> tuple[Float[Tensor, "n _"], ...]:
    """Return the features of the rows in `span` for each level, computed block by block."""
    edges = block_edges(widths)
    extra = 2 if rows.log_weights is None else 3
    sizes = [width + len(edges) - edges.index(width) + extra for width in widths]
    out = tuple(torch.empty(len(span), size, device=rows.device) for size in sizes)
    narrow = basis.float()
    step = max(1, PROJECT_BYTES // (4 * rows.dim))
    for start in range(span.start, span.stop, step):
        stop = min(start + step, span.stop)
        coordinates = rows.centred(rows.stored[start:stop]) @ narrow
        for width, part in zip(widths, out, strict=True):
            part[start - span.start : stop - span.start] = _features(rows, coordinates, width, edges, start, stop)
        if progress is not None:
            progress(stop - span.start, len(span))
    return out


def block_edges(widths: Sequence[int]) -> list[int]:
    """Return where the blocks beyond the first level begin; the last edge is M, where the rest begins."""
    return sorted({*widths, *range(widths[0], widths[-1], BLOCK_WIDTH)})


def block_norms(coordinates: Float[Tensor, "n M"], edges: Sequence[int]) -> Float[Tensor, "n e"]:
    """Return the norms of the coordinates between neighbouring edges."""
    norms = [torch.linalg.vector_norm(coordinates[:, first:last], dim=1) for first, last in pairwise(edges)]
    return torch.stack(norms, dim=1) if norms else coordinates.new_zeros(len(coordinates), 0)


def projection_error(width: int) -> float:
    """Return how far float32 coordinates may be from exact ones, relative to the norm of the row."""
    return WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(width) + 1.0)


def _features(
    rows: Rows, coordinates: Float[Tensor, "n M"], width: int, edges: list[int], start: int, stop: int
) -> Float[Tensor, "n _"]:
    beyond = edges[edges.index(width) :]
    half_norms = rows.half_norms[start:stop]
    error = projection_error(edges[-1])
    rest = _norm_beyond(half_norms, coordinates, error)
    parts = [
        coordinates[:, :width],
        block_norms(coordinates, beyond) * UPWARD,
        rest[:, None],
        _norm_beyond(half_norms, coordinates[:, :width], error)[:, None],
        half_norms.float()[:, None],
    ]
    if rows.log_weights is not None:
        # the log of no weight at all is finite here: infinities do not survive a matrix product
        parts.append(rows.log_weights[start:stop].clamp_min(-1e30).float()[:, None])
    return torch.cat(parts, dim=1)


def _norm_beyond(half_norms: Float64[Tensor, "n"], kept: Float[Tensor, "n m"], error: float) -> Float[Tensor, "n"]:
    # |z|^2 - |c|^2, and what rounding of c may hide
    square = 2.0 * half_norms * (1.0 + 4.0 * error) - kept.double().square().sum(1)
    return (square.clamp_min(0.0).sqrt() * UPWARD).float()
