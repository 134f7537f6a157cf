"""What every query needs to know of the rows, computed once, in blocks, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ...base.arrays import Float64, Shaped, Tensor
from ...base.errors import invalid
from .copies import DIRECTIONS, most_copies, random_directions
from .rows import Rows

# values looked at together: 32 MB in float64
PREPARE_VALUES = 4_000_000


def prepare_rows(stored: Shaped[Tensor, "N D"], weights: Float64[Tensor, "N"] | None) -> Rows:
    """Centre the rows at their mean and compute their norms; `stored` is kept, not copied.

    The centre is rounded to float32, for integer storage to integers, so that centred rows stay exact.
    Raises InputError that names the first non-finite sample. Reads the data twice, 32 MB at a time.
    """
    total = sum((block.sum(0) for _, block in _blocks(stored)), torch.zeros((), dtype=torch.float64))
    if not bool(total.isfinite().all()):
        raise invalid("points", "must be finite", f"{_first_bad(stored)}", "remove or repair these samples")
    mean = total / len(stored)
    centre = (mean.float() if stored.is_floating_point() else mean.round()).double()
    half_norms = torch.empty(len(stored), dtype=torch.float64, device=stored.device)
    directions = random_directions(stored.shape[1], stored.device)
    projected = half_norms.new_empty(len(stored), DIRECTIONS)
    stored_square = 0.0
    for start, block in _blocks(stored):
        part = slice(start, start + len(block))
        stored_square = max(stored_square, float(block.square().sum(1).max()))
        torch.mm(block.sub_(centre), directions, out=projected[part])
        half_norms[part] = 0.5 * block.square_().sum(1)
    radius = float((2 * half_norms.max()).sqrt())
    return Rows(
        stored=stored,
        centre=centre,
        half_norms=half_norms,
        log_weights=None if weights is None else (weights / weights.sum()).log(),
        radius=radius,
        stored_radius=stored_square**0.5,
        copies=most_copies(projected, radius),
    )


def counted_copies(rows: Rows) -> Rows:
    """Return `rows` with their copies counted, for rows prepared before these were kept; reads the data once."""
    directions = random_directions(rows.dim, rows.device)
    projected = torch.cat([block.sub_(rows.centre) @ directions for _, block in _blocks(rows.stored)])
    return replace(rows, copies=most_copies(projected, rows.radius))


def recentred(rows: Rows, centre: Float64[Tensor, "D"]) -> Rows:
    """Return the same rows with another centre, one that :func:`prepare_rows` may give; reads the data once."""
    half_norms = torch.empty_like(rows.half_norms)
    for start, block in _blocks(rows.stored):
        half_norms[start : start + len(block)] = 0.5 * block.sub_(centre).square_().sum(1)
    return replace(rows, centre=centre, half_norms=half_norms, radius=float((2 * half_norms.max()).sqrt()))


def total_variance(rows: Rows) -> float:
    """Return the trace of the (weighted) covariance of the rows, in squared row units; reads the data once."""
    uniform = torch.zeros_like(rows.half_norms) if rows.log_weights is None else rows.log_weights
    shares = uniform.softmax(0)
    blocks = ((shares[start : start + len(block)], block) for start, block in _blocks(rows.stored))
    mean = sum((share @ block.sub_(rows.centre) for share, block in blocks), torch.zeros_like(rows.centre))
    return 2.0 * float(shares @ rows.half_norms) - float(mean.square().sum())


def _blocks(stored: Tensor) -> Iterator[tuple[int, Float64[Tensor, "n D"]]]:
    size = max(1, PREPARE_VALUES // stored.shape[1])
    for start in range(0, len(stored), size):
        yield start, stored[start : start + size].to(torch.float64, copy=True)


def _first_bad(stored: Tensor) -> str:
    for start, block in _blocks(stored):
        bad = (~block.isfinite().all(1)).nonzero()
        if len(bad):
            return f"a NaN or an infinity in sample {start + int(bad[0])}"
    return "values whose sum overflows float64"
