"""Running sums of a scan: one softmax over all blocks, whose reference moves only when it must."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from .matmul import mean_product
from .rows import Query, Rows
from .state import PosteriorState, Wanted

# weights may exceed one by e^20 before the sums are rescaled: harmless in float32, and rescaling costs a pass
SLACK = 20.0

# single-precision sums of at most this many blocks are added before they move to float64
FLUSH_EVERY = 32


class Accumulator:
    """Sums of p, p^2, p l, p |r|^2/2 and p r with p = exp(l - reference), over the blocks of one scan.

    `seen` is the weight of everything met so far, `mass` of what was added here and not set aside for re-scoring.
    The mean is summed in the dtype of the products and flushed to float64; everything else is float64.
    """

    def __init__(self, batch: int, dim: int, dtype: torch.dtype, wanted: Wanted, device: torch.device) -> None:
        self.wanted = wanted
        self.reference = torch.full((batch,), -torch.inf, dtype=dtype, device=device)
        sums = torch.zeros(5, batch, dtype=torch.float64, device=device)
        self.seen, self.mass, self.squares, self.first_logit, self.half_norm = sums
        width = dim if wanted.mean else 0
        self.recent = torch.zeros(batch, width, dtype=dtype, device=device)
        self.total = torch.zeros(batch, width, dtype=torch.float64, device=device)
        self.unflushed = 0

    def partition(self) -> Float64[Tensor, "B"]:
        """Log of the sum of the weights met so far: a lower bound of the final one, -inf before the first."""
        return torch.where(self.seen > 0, self.reference.double() + self.seen.log(), -torch.inf)

    def raise_reference(self, top: Float[Tensor, "B"]) -> None:
        """Move the reference of the queries whose largest logit `top` has left it behind."""
        behind = top > self.reference + SLACK
        if not bool(behind.any()):
            return
        # asked before rescaling: a factor that underflows must still clear the mean
        started = bool((self.mass > 0).any())
        raised = torch.where(behind, top, self.reference)
        step = torch.where(self.seen > 0, (self.reference - raised).double(), 0.0)
        factor = step.exp()
        self.first_logit = factor * (self.first_logit + step * self.mass)
        self.seen, self.mass, self.half_norm = factor * self.seen, factor * self.mass, factor * self.half_norm
        self.squares = factor.square() * self.squares
        if started:
            self.recent.mul_(factor.to(self.recent.dtype)[:, None])
            self.total.mul_(factor[:, None])
        self.reference = raised

    def weigh(self, query: Int64[Tensor, "b"], logits: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Turn logits into weights, in place."""
        reference = self.reference[query]
        return logits.sub_(reference if logits.ndim == 1 else reference[:, None]).exp_()

    def logit(self, query: Int64[Tensor, "P"], weight: Float64[Tensor, "P"]) -> Float64[Tensor, "P"]:
        """Return the logits that :meth:`weigh` made these weights of."""
        logit: Tensor = self.reference[query].double() + weight.log()
        return logit

    def meet(self, query: Int64[Tensor, "P"], weights: Float[Tensor, "P"]) -> None:
        """Count weights as met, whether they are added here or set aside."""
        self._add(self.seen, query, weights)

    def add_dense(
        self,
        query: Int64[Tensor, "b"],
        weights: Float[Tensor, "b n"],
        mass: Float[Tensor, "b"],
        block: Float[Tensor, "n D"],
        half_norms: Float[Tensor, "n"],
    ) -> None:
        """Add every row of a block for the queries in `query`; `mass` is the sum of their weights."""
        self._add(self.mass, query, mass)
        if self.wanted.moments:
            self._add(self.squares, query, torch.linalg.vecdot(weights, weights))
            self._add(self.first_logit, query, torch.xlogy(weights, weights).sum(1))
            self._add(self.half_norm, query, weights @ half_norms)
        if self.wanted.mean and len(query) == len(self.recent):
            self.recent += mean_product(weights, block)
        elif self.wanted.mean:
            self.recent.index_add_(0, query, mean_product(weights, block))
        self._count_block()

    def add_sparse(
        self,
        query: Int64[Tensor, "P"],
        weights: Float[Tensor, "P"],
        column: Int64[Tensor, "P"],
        block: Float[Tensor, "n D"],
        half_norms: Float[Tensor, "n"],
    ) -> None:
        """Add single pairs of a query and a row of a block, sorted by query."""
        self._add(self.mass, query, weights)
        if self.wanted.moments:
            self._add(self.squares, query, weights.square())
            self._add(self.first_logit, query, torch.xlogy(weights, weights))
            self._add(self.half_norm, query, weights * half_norms[column])
        if self.wanted.mean:
            which, counts = query.unique_consecutive(return_counts=True)
            offsets = counts.cumsum(0) - counts
            bags = torch.nn.functional.embedding_bag(column, block, offsets, mode="sum", per_sample_weights=weights)
            self.recent.index_add_(0, which, bags)
        self._count_block()

    def state(self, rows: Rows, query: Query) -> PosteriorState:
        """Return the sums as a state, its top-k left empty."""
        self._flush()
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
        return replace(PosteriorState.empty(len(mass), rows.dim, self.wanted.top_k, rows.device), **changes)

    @staticmethod
    def _add(total: Float64[Tensor, "B"], query: Int64[Tensor, "P"], values: Float[Tensor, "P"]) -> None:
        total += torch.bincount(query, values.double(), minlength=len(total))

    def _count_block(self) -> None:
        self.unflushed += 1
        if self.unflushed >= FLUSH_EVERY:
            self._flush()

    def _flush(self) -> None:
        self.total += self.recent
        self.recent.zero_()
        self.unflushed = 0


def dropped_constant(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return what a coarse logit has too much, [B]: the query's own norm, and the centre that a raw operand carries."""
    own = 0.5 * query.inverse_variance * query.norm.square()
    return own + query.gain * (query.point @ rows.operand_centre)


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
