"""How many rows nearly equal each other: rounding errors of such rows agree instead of averaging out."""

from __future__ import annotations

import torch

from ...base.arrays import Float, Float64, Tensor

# rows nearer to each other than this share of the radius count as copies: measured on pairs of clusters, errors of
# their logits agree to a tenth or more
CLOSENESS = 3e-3

# random directions that tell rows apart: two rows of a large set agree in so many of them by chance only rarely
DIRECTIONS = 4

# rows whose cells are found together: N may be large beside the memory
HASHED_ROWS = 1 << 16

# factors of the hash of a cell, any large odd numbers
HASH = (0x9E3779B97F4A7C15 - (1 << 64), 0x94D049BB133111EB - (1 << 64), 0x2545F4914F6CDD1D, 0x5851F42D4C957F2D)


def random_directions(dim: int, device: torch.device) -> Float64[Tensor, "D 4"]:
    """Return Gaussian directions in `dim` dimensions, [D, DIRECTIONS], the same each time, on `device`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(dim, DIRECTIONS, generator=generator, dtype=torch.float64).to(device)


def most_copies(projected: Float[Tensor, "N 4"], radius: float) -> int:
    """Return about how many rows, at most, nearly equal each other: 1 where no two do.

    projected: the rows along :func:`random_directions`. radius: norm of the largest row. Counts rows in the cells of
    two grids, which may part copies, so that what is found is doubled. Costs two sorts of N numbers.
    """
    if radius == 0.0:
        return len(projected)
    most = max(_fullest(projected, 4.0 * CLOSENESS * radius, shift) for shift in (0.0, 0.5))
    return 1 if most == 1 else min(2 * most, len(projected))


def _fullest(projected: Float[Tensor, "N 4"], width: float, shift: float) -> int:
    factors = torch.tensor(HASH, dtype=torch.int64, device=projected.device)
    cells = ((part.double() / width + shift).floor().long() for part in projected.split(HASHED_ROWS))
    return int(torch.cat([(part * factors).sum(1) for part in cells]).unique(return_counts=True)[1].max())
