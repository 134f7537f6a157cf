"""What every query needs to know of the rows, computed once, in one pass, in blocks, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...base.errors import InputError, invalid
from ...base.outside.blocks import blocks
from ...base.outside.rows import OutsideRows
from .copies import DIRECTIONS, most_copies, random_directions
from .rows import Rows

# values looked at together: 32 MB in float64
PREPARE_VALUES = 4_000_000

# rows whose mean is the centre, spread over all of them: it is off the mean of all by a 64th of their spread
CENTRE_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Measures:
    """What is known of some rows r_j = stored_j - centre.

    half_norms: |r_j|^2 / 2, [n]. projected: along the directions, [n, 4], or none. total: the sum of the rows, [D].
    largest_square: of |stored_j|^2. low, high: the ends of the stored values.
    """

    half_norms: Float64[Tensor, "n"]
    projected: Float[Tensor, "m 4"]
    total: Float64[Tensor, "D"]
    largest_square: float
    low: float
    high: float

    def and_more(self, before: Measures | None) -> Measures:
        """Return the measures of these rows and of those `before` together, without those of each row."""
        alone = replace(self, half_norms=self.half_norms[:0], projected=self.projected[:0])
        if before is None:
            return alone
        return replace(
            alone,
            total=before.total + self.total,
            largest_square=max(before.largest_square, self.largest_square),
            low=min(before.low, self.low),
            high=max(before.high, self.high),
        )


# what measures stored rows, [n, D], around a centre, [D], along directions, [D, 4]
Measure = Callable[[Shaped[Tensor, "n D"], Float64[Tensor, "D"], Float64[Tensor, "D 4"]], Measures]


def measured(
    stored: Shaped[Tensor, "n D"], centre: Float64[Tensor, "D"], directions: Float64[Tensor, "D 4"]
) -> Measures:
    """Return the measures of some rows; reads them once, 32 MB at a time.

    stored: [n, D]. centre: what is taken off, [D]. directions: [D, 4].
    """
    half_norms = torch.empty(len(stored), dtype=torch.float64, device=stored.device)
    projected, total = half_norms.new_empty(len(stored), DIRECTIONS), torch.zeros_like(centre)
    largest, low, high = 0.0, torch.inf, -torch.inf
    for start, block in _blocks(stored):
        part = slice(start, start + len(block))
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        largest = max(largest, float(block.square().sum(1).max()))
        torch.mm(block.sub_(centre), directions, out=projected[part])
        total += block.sum(0)
        half_norms[part] = 0.5 * block.square_().sum(1)
    return Measures(half_norms, projected, total, largest, low, high)


def prepare_rows(
    stored: Shaped[Tensor, "N D"], weights: Float64[Tensor, "N"] | None, *, measure: Measure = measured
) -> Rows:
    """Return rows around a centre, with their norms; `stored` is kept, not copied.

    measure: what measures a block of rows. The centre is that of :func:`centre_of`. Raises InputError that names the
    first non-finite sample. Reads the data once.
    """
    centre, directions = centre_of(stored), random_directions(stored.shape[1], stored.device)
    half_norms = torch.empty(len(stored), dtype=torch.float64, device=stored.device)
    # four bytes are enough to tell rows apart
    projected, whole = torch.empty(len(stored), DIRECTIONS, device=stored.device), None
    for index, block in _read_once(stored):
        part = measure(block, centre, directions)
        half_norms[index], projected[index] = part.half_norms, part.projected.float()
        whole = part.and_more(whole)
    if whole is None:
        raise invalid("points", "must hold at least one sample", 0, "pass [N, D]")
    if not bool(half_norms.isfinite().all()) and _first_bad(stored) is not None:
        raise _not_finite(stored)
    radius = float((2 * half_norms.max()).sqrt())
    rows = Rows(
        stored=stored,
        centre=centre,
        half_norms=half_norms,
        log_weights=None if weights is None else (weights / weights.sum()).log(),
        radius=radius,
        stored_radius=whole.largest_square**0.5,
        copies=most_copies(projected, radius),
    )
    rows.derived("range", lambda _: (whole.low, whole.high))
    rows.derived("total", lambda _: whole.total)
    return rows


def centre_of(stored: Shaped[Tensor, "N D"]) -> Float64[Tensor, "D"]:
    """Return the mean of CENTRE_ROWS rows spread over all, [D], as exact as the rows: a float32, or for integers whole.

    stored: [N, D]. Reads these rows. Raises InputError where it is not finite.
    """
    count = min(len(stored), CENTRE_ROWS)
    place = torch.arange(count, device=stored.device) * len(stored) // count
    parts = place.split(max(1, PREPARE_VALUES // stored.shape[1]))
    total = torch.stack([stored.index_select(0, some).double().sum(0) for some in parts]).sum(0)
    if not bool(total.isfinite().all()):
        raise _not_finite(stored)
    mean = total / count
    return (mean.float() if stored.is_floating_point() else mean.round()).double()


def counted_copies(rows: Rows) -> Rows:
    """Return `rows` with their copies counted, for rows prepared before these were kept; reads the data once."""
    directions = random_directions(rows.dim, rows.device)
    projected = torch.cat([block.sub_(rows.centre) @ directions for _, block in _blocks(rows.stored)])
    return replace(rows, copies=most_copies(projected, rows.radius))


def recentred(rows: Rows, centre: Float64[Tensor, "D"]) -> Rows:
    """Return the same rows with another centre, one that :func:`centre_of` may give; reads the data once."""
    half_norms = torch.empty_like(rows.half_norms)
    for index, stored in _read_once(rows.stored):
        norms = [0.5 * block.sub_(centre).square_().sum(1) for _, block in _blocks(stored)]
        half_norms[index] = torch.cat(norms)
    return replace(rows, centre=centre, half_norms=half_norms, radius=float((2 * half_norms.max()).sqrt()))


def stored_range(rows: Rows) -> tuple[float, float]:
    """Return the smallest and the largest stored value; reads the data where they were not prepared here."""
    found: tuple[float, float] = rows.derived(
        "range", lambda rows: (float(rows.stored.min()), float(rows.stored.max()))
    )
    return found


def total_variance(rows: Rows) -> float:
    """Return the trace of the (weighted) covariance of the rows, in squared row units.

    Reads the data once where there are weights, or where they were not prepared here.
    """
    if rows.log_weights is None:
        mean = rows.derived("total", _total) / len(rows)
        return 2.0 * float(rows.half_norms.mean()) - float(mean.square().sum())
    shares = rows.log_weights.softmax(0)
    mean = torch.zeros_like(rows.centre)
    for index, stored in _read_once(rows.stored):
        part = shares[index]
        for start, block in _blocks(stored):
            mean += part[start : start + len(block)] @ block.sub_(rows.centre)
    return 2.0 * float(shares @ rows.half_norms) - float(mean.square().sum())


def _total(rows: Rows) -> Float64[Tensor, "D"]:
    """Return the sum of all rows about their centre."""
    total = torch.zeros_like(rows.centre)
    for _, stored in _read_once(rows.stored):
        for _, block in _blocks(stored):
            total += block.sub_(rows.centre).sum(0)
    return total


def _read_once(stored: Tensor) -> Iterator[tuple[slice | Int64[Tensor, "n"], Tensor]]:
    """Yield rows and which they are, so that all are read once: those in files in the order of the files."""
    if isinstance(stored, OutsideRows):
        yield from ((block.index, block.values) for block in blocks(stored))
    else:
        yield slice(0, len(stored)), stored


def _blocks(stored: Tensor) -> Iterator[tuple[int, Float64[Tensor, "n D"]]]:
    size = max(1, PREPARE_VALUES // stored.shape[1])
    for start in range(0, len(stored), size):
        yield start, stored[start : start + size].to(torch.float64, copy=True)


def _not_finite(stored: Tensor) -> InputError:
    bad = _first_bad(stored)
    found = "values whose sum overflows float64" if bad is None else f"a NaN or an infinity in sample {bad}"
    return invalid("points", "must be finite", found, "remove or repair these samples")


def _first_bad(stored: Tensor) -> int | None:
    """Return the first row with a NaN or an infinity, or None."""
    for start, block in _blocks(stored):
        bad = (~block.isfinite().all(1)).nonzero()
        if len(bad):
            return start + int(bad[0])
    return None
