"""Running sums of a scan: one softmax over all blocks, whose reference moves only when it must."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from .rows import Query, Rows
from .state import PosteriorState
from .work import Work

# weights may exceed one by e^20 before the sums are rescaled: harmless in float32, and rescaling costs a pass
SLACK = 20.0

# queries of a batch: all of them, or those with these numbers
Index = slice | Int64[Tensor, "b"]
EVERYONE = slice(None)


@dataclass(frozen=True)
class BlockSums:
    """Sums over some samples of a block, with weights p = exp(l - origin) of their coarse logits l.

    origin: reference of the weights, [B], finite wherever a weight is. sums: [4, B] float64, of p, p^2, p (l - origin)
    and p |r|^2 / 2. total: of p r, [B, D], or [B, 0] where the mean is not wanted.
    """

    origin: Float[Tensor, "B"]
    sums: Float64[Tensor, "4 B"]
    total: Float[Tensor, "B E"]


class RunningSums:
    """The log-partition of every sample met, and the sums over those that were added and not left to rescoring.

    partition: log of the sum of the weights of all samples met, [B] float64, -inf before the first.
    reference: logit that has weight one in the sums, [B], in the dtype of the coarse logits.
    wanted: which sums are kept.
    Only `raise_reference` waits for a device.
    """

    def __init__(self, work: Work, dtype: torch.dtype = torch.float32) -> None:
        """Start from nothing for the queries of `work`; `dtype` is that of the coarse logits."""
        alpha, self.wanted = work.query.alpha, work.wanted
        self.partition = torch.full_like(alpha, -torch.inf)
        self.reference = self.partition.to(dtype)
        self.mass, self.squares, self.first_logit, self.half_norm = alpha.new_zeros(4, len(alpha))
        self.total = alpha.new_zeros(len(alpha), work.rows.dim if work.wanted.mean else 0)

    def raise_reference(self, top: Float[Tensor, "B"]) -> None:
        """Move the reference of the queries whose largest logit `top`, [B], has left it behind."""
        behind = top > self.reference + SLACK
        if bool(behind.any()):
            self._rescale(torch.where(behind, top, self.reference))

    def meet(self, partition: Float64[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Count samples whose weights sum to exp(partition), [B], as met, and move the reference to the log-partition.

        Returns the reference, [B]: the origin that the weights of these samples should have.
        """
        self.partition = torch.logaddexp(self.partition, partition)
        self._rescale(torch.where(self.partition == -torch.inf, 0.0, self.partition).to(self.reference.dtype))
        return self.reference

    def meet_at(self, index: Index, mass: Float[Tensor, "b"]) -> None:
        """Count samples of the queries at `index`, whose weights sum to `mass`, [b], as met; the reference stays."""
        met = self.reference[index].double() + mass.double().log()
        self.partition[index] = torch.logaddexp(self.partition[index], met)

    def add(self, block: BlockSums, index: Index = EVERYONE) -> None:
        """Add the sums of a block for the queries at `index`, at which every query stands once at most."""
        mass, squares, first_logit, half_norm = block.sums
        # what rescoring leaves of a block may lie far below the reference
        step = torch.where(mass > 0, (block.origin - self.reference[index]).double(), 0.0)
        factor = step.exp()
        self.mass[index] += factor * mass
        self.squares[index] += factor.square() * squares
        self.first_logit[index] += factor * (first_logit + step * mass)
        self.half_norm[index] += factor * half_norm
        if isinstance(index, Tensor) and self.wanted.mean:
            self.total.index_add_(0, index, block.total * factor[:, None])
        elif self.wanted.mean:
            self.total.addcmul_(factor[:, None].expand_as(block.total), block.total)

    def state(self, rows: Rows, query: Query) -> PosteriorState:
        """Return the sums as the states of the queries over the samples added, [B], without their top-k.

        rows, query: those that were scanned.
        """
        some = self.mass > 0
        mass = torch.where(some, self.mass, 1.0)
        lse = self.reference.double() + mass.log() - dropped_constant(rows, query)
        changes = {"lse": torch.where(some, lse, -torch.inf)}
        if self.wanted.mean:
            changes["mean"] = torch.where(some[:, None], self.total / mass[:, None] - rows.operand_centre, 0.0)
        if self.wanted.moments:
            changes["concentration"] = self.squares / mass / mass
            changes["entropy"] = mass.log() - self.first_logit / mass
        if self.wanted.moments and self.wanted.mean:
            variance = 2 * self.half_norm / mass - changes["mean"].square().sum(1)
            changes["variance"] = variance.clamp_min(0.0)
        return replace(PosteriorState.empty(len(query), rows.dim, 0, rows.device), **changes)

    def _rescale(self, reference: Float[Tensor, "B"]) -> None:
        """Make `reference` the origin of all sums."""
        # the old reference is -inf where nothing was added yet
        step = torch.where(self.mass > 0, (self.reference - reference).double(), 0.0)
        factor = step.exp()
        self.first_logit = factor * (self.first_logit + step * self.mass)
        self.mass, self.half_norm = factor * self.mass, factor * self.half_norm
        self.squares = factor.square() * self.squares
        self.total *= factor[:, None]
        self.reference = reference


def dropped_constant(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return by how much coarse logits are too large, [B] nats: the query's norm, and the centre of a raw operand.

    rows: the samples that products read. query: B queries. It is |q|^2 / 2 sigma^2 + (alpha / sigma^2) <q, centre>.
    """
    own: Tensor = 0.5 * query.inverse_variance * query.norm.square()
    return own + query.gain * (query.point @ rows.operand_centre) if rows.raw_operand else own
