"""Sums over the blocks of a scan whose kernels hand back whole blocks, relative to the log-partition met so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..arrays import Float, Float64, Tensor
from .accumulate import Accumulator
from .rows import Query, Rows
from .state import PosteriorState, Wanted


@dataclass(frozen=True)
class BlockSums:
    """Sums over the samples of a block that are not set aside, with weights p = exp(l - origin).

    origin: [B] float32, finite. sums: [4, B], of p, p^2, p (l - origin) and p |r|^2 / 2. total: of p r, [B, D], or
    [B, 0] where the mean is not wanted.
    """

    origin: Float[Tensor, "B"]
    sums: Float64[Tensor, "4 B"]
    total: Float64[Tensor, "B E"]


class RunningSums:
    """The log-partition of everything met, and the sums of what was not set aside; waits for no device."""

    def __init__(self, batch: int, dim: int, wanted: Wanted, device: torch.device) -> None:
        self.partition = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
        self._sums = Accumulator(batch, dim, torch.float32, wanted, device)

    def meet(self, partition: Float64[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Count samples whose weights sum to exp(partition) as met; return the origin that weights should have."""
        self.partition = torch.logaddexp(self.partition, partition)
        origin = torch.where(self.partition == -torch.inf, 0.0, self.partition).float()
        sums = self._sums
        # the old origin is -inf where nothing was added yet
        step = torch.where(sums.mass > 0, (sums.reference - origin).double(), 0.0)
        factor = step.exp()
        sums.first_logit = factor * (sums.first_logit + step * sums.mass)
        sums.mass, sums.half_norm = factor * sums.mass, factor * sums.half_norm
        sums.squares = factor.square() * sums.squares
        sums.total *= factor[:, None]
        sums.reference = origin
        return origin

    def add(self, block: BlockSums) -> None:
        """Add the sums of a block that was met before."""
        mass, squares, first_logit, half_norm = block.sums
        sums = self._sums
        # a block of nothing but set aside samples may lie far above what is left
        step = torch.where(mass > 0, (block.origin - sums.reference).double(), 0.0)
        factor = step.exp()
        sums.mass = sums.mass + factor * mass
        sums.squares = sums.squares + factor.square() * squares
        sums.first_logit = sums.first_logit + factor * (first_logit + step * mass)
        sums.half_norm = sums.half_norm + factor * half_norm
        if sums.wanted.mean:
            sums.total.addcmul_(factor[:, None].expand_as(block.total), block.total)

    def state(self, rows: Rows, query: Query) -> PosteriorState:
        """Return the sums as a state, its top-k left empty."""
        return self._sums.state(rows, query)
