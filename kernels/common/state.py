"""The partial result over a subset of the samples, and the associative merge that combines two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from ...base.arrays import Bool, Float64, Int64, Tensor
from .compensated import DoubleDouble, largest


@dataclass(frozen=True)
class Wanted:
    """What a caller needs beyond the log-partition function; the rest is not computed.

    mean: the weighted mean, one more matrix product per block of rows.
    moments: entropy, concentration and (with the mean) variance.
    top_k: how many of the heaviest samples to name, 0 for none.
    mergeable: states will be merged with those of samples that may compete with these, so that late their lse needs
    more
        digits than float64 has.
    """

    mean: bool = True
    moments: bool = False
    top_k: int = 0
    mergeable: bool = False

    @property
    def compared(self) -> bool:
        """Whether logits are held against those of other samples than the ones that they were found with."""
        return self.mergeable or self.top_k > 0

    @property
    def variance(self) -> bool:
        """Whether the variance is computed."""
        return self.moments and self.mean


@dataclass(frozen=True)
class PosteriorState:
    """Posterior of each query restricted to some of the samples; what was not wanted is zero.

    lse: log of the sum of the weights exp(-|q - alpha r_j|^2 / 2 s^2 + log w_j), -inf where the subset is empty.
    mean: posterior mean in the coordinates of the centred rows.
    concentration: sum of squared normalised weights, so that ESS = 1 / concentration.
    entropy: of the normalised weights, in nats.
    variance: trace of the posterior covariance, in squared row units.
    top_logits, top_rows: the heaviest samples in falling order; -inf and -1 where there are fewer.
    lse_rest, top_rest: what float64 cut off `lse` and `top_logits`, where it was kept: far from all samples the
        difference of two logits has digits that neither of them has room for.
    """

    lse: Float64[Tensor, "B"]
    mean: Float64[Tensor, "B D"]
    concentration: Float64[Tensor, "B"]
    entropy: Float64[Tensor, "B"]
    variance: Float64[Tensor, "B"]
    top_logits: Float64[Tensor, "B K"]
    top_rows: Int64[Tensor, "B K"]
    lse_rest: Float64[Tensor, "B"]
    top_rest: Float64[Tensor, "B K"]

    @classmethod
    def empty(cls, batch: int, dim: int, top_k: int, device: torch.device) -> PosteriorState:
        """Return the neutral element of :func:`merge`.

        batch: number of queries. dim: values of a mean. top_k: samples that there is room for. device: where it is.
        """
        zeros = torch.zeros(batch, dtype=torch.float64, device=device)
        return cls(
            lse=torch.full_like(zeros, -torch.inf),
            mean=zeros.new_zeros(batch, dim),
            concentration=zeros,
            entropy=zeros,
            variance=zeros,
            top_logits=zeros.new_full((batch, top_k), -torch.inf),
            top_rows=torch.full((batch, top_k), -1, dtype=torch.int64, device=device),
            lse_rest=zeros,
            top_rest=zeros.new_zeros(batch, top_k),
        )

    def take(self, index: Int64[Tensor, "b"]) -> PosteriorState:
        """Return the states of the queries in `index`."""
        return PosteriorState(*[getattr(self, name)[index] for name in FIELDS])

    def put(self, index: Int64[Tensor, "b"], part: PosteriorState) -> PosteriorState:
        """Return these states with those of the queries in `index` replaced by `part`."""
        return PosteriorState(*[getattr(self, name).index_copy(0, index, getattr(part, name)) for name in FIELDS])

    def without(self, gone: Bool[Tensor, "B"]) -> PosteriorState:
        """Return these states, empty for the queries in `gone`."""
        return replace(
            self,
            lse=self.lse.masked_fill(gone, -torch.inf),
            top_logits=self.top_logits.masked_fill(gone[:, None], -torch.inf),
            top_rows=self.top_rows.masked_fill(gone[:, None], -1),
        )


FIELDS = tuple(field.name for field in fields(PosteriorState))


def merge(first: PosteriorState, second: PosteriorState, wanted: Wanted | None = None) -> PosteriorState:
    """Return the states over two disjoint subsets of the samples as one; associative and commutative up to rounding.

    first, second: the states of the same B queries over either subset. wanted: what was wanted of both, where that is
    known, so that nothing else is merged.
    The shares are w_i = exp(lse_i - lse). Means and variances combine as in Chan, Golub and LeVeque (1979),
    entropies by the chain rule H = sum_i w_i (H_i - log w_i). Costs a few float64 passes over [B, D].
    """
    # from the difference of the two, not from their sum: shares add up to one however large the logs are
    gap = (first.lse - second.lse) + (first.lse_rest - second.lse_rest)
    w1, w2 = _share(first, gap), _share(second, -gap)
    lse, lse_rest = _joined_lse(first, second, gap)
    # not first + w2 (second - first): that would leave a rounding of `first` where its share is zero
    mean = w1[:, None] * first.mean + w2[:, None] * second.mean
    if wanted is not None and not wanted.moments and not wanted.top_k:
        return replace(first, lse=lse, lse_rest=lse_rest, mean=mean)
    between = (second.mean - first.mean).square().sum(1)
    logits = torch.cat([first.top_logits, second.top_logits], dim=1)
    rows = torch.cat([first.top_rows, second.top_rows], dim=1)
    rest = torch.cat([first.top_rest, second.top_rest], dim=1)
    top, column = largest(DoubleDouble(logits, rest), max(first.top_logits.shape[1], second.top_logits.shape[1]))
    return PosteriorState(
        lse=lse,
        mean=mean,
        concentration=w1.square() * first.concentration + w2.square() * second.concentration,
        entropy=w1 * first.entropy + w2 * second.entropy - torch.xlogy(w1, w1) - torch.xlogy(w2, w2),
        variance=w1 * first.variance + w2 * second.variance + w1 * w2 * between,
        top_logits=top.high,
        top_rows=rows.gather(1, column),
        lse_rest=lse_rest,
        top_rest=top.low,
    )


def merged_means(first: PosteriorState, second: PosteriorState) -> PosteriorState:
    """Return the means and log-partitions of :func:`merge`; all else is that of the first."""
    return merge(first, second, Wanted())


def without_top(state: PosteriorState, rows: Int64[Tensor, "B K"]) -> PosteriorState:
    """Return `state` with `rows` no longer named among its heaviest samples: another state names them."""
    named = (state.top_rows[:, :, None] == rows[:, None, :]).any(2)
    return replace(
        state,
        top_logits=state.top_logits.masked_fill(named, -torch.inf),
        top_rows=state.top_rows.masked_fill(named, -1),
    )


def concatenate(states: Sequence[PosteriorState]) -> PosteriorState:
    """Return the states of several batches of queries as one batch."""
    return PosteriorState(*[torch.cat([getattr(state, name) for state in states]) for name in FIELDS])


def _share(own: PosteriorState, gap: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    # both are -inf where neither subset has a sample: that share is zero, not NaN
    return torch.where(own.lse == -torch.inf, 0.0, torch.sigmoid(gap))


def _joined_lse(
    first: PosteriorState, second: PosteriorState, gap: Float64[Tensor, "B"]
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the log of the sum of both partitions, and what float64 cuts off it; gap: the difference of both logs."""
    above = first.lse >= second.lse
    high, low = torch.where(above, first.lse, second.lse), torch.where(above, first.lse_rest, second.lse_rest)
    gap = torch.where(above, gap, -gap)
    # NaN where neither has a sample
    more = low + torch.log1p((-gap).exp()).nan_to_num(0.0)
    lse = high + more
    return lse, torch.where(lse == -torch.inf, 0.0, more - (lse - high))
