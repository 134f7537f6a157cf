"""What a screen tells of a posterior: the likeliest rows, and the weights by which others are drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...arrays import Float, Float64, Int64, Tensor
from ..rescore import Pairs
from ..rows import Query, Rows, Span
from .principal import PrincipalScreen


@dataclass(frozen=True)
class Proposal:
    """What a screen says of every row of a span, [b, n]: -inf where a row does not count.

    logits: as if the query had nothing beyond the leading coordinates. own: of the leading coordinates alone, which do
    not hold what lies beyond them against the row that a query was made from.
    """

    query: Query
    span: Span
    logits: Float[Tensor, "b n"]
    own: Float[Tensor, "b n"]
    leading: Float[Tensor, "n M"]
    half_norms: Float[Tensor, "n"]
    basis: Float64[Tensor, "D M"]

    @classmethod
    def of(cls, rows: Rows, screen: PrincipalScreen, query: Query, span: Span) -> Proposal:
        """Return what the widest level of `screen` says of the rows in `span`. Costs one product with its features."""
        probe = screen.probe(rows, query)
        blind = replace(probe, blocks=torch.zeros_like(probe.blocks), spread=torch.zeros_like(probe.spread))
        level, width = len(screen.widths) - 1, screen.widths[-1]
        weighted = rows.log_weights is not None
        features = screen.features[level][span.start : span.stop]
        logits = screen.factors(blind, level, weighted) @ features.T
        _cut_holes(logits, query, span)
        beyond = features[:, width + 1]
        own = torch.addr(logits, (0.5 * query.gain * query.alpha).float(), beyond.square())
        return cls(query, span, logits, own, features[:, :width], features[:, width + 2], screen.basis)

    def parted(self, count: int) -> tuple[Pairs, Rest]:
        """Return the `count` rows of each query that are most likely, and what there is to draw the others from."""
        best = self.own.topk(count, dim=1)
        real = best.values > -torch.inf
        which = torch.arange(len(self.query), device=real.device)[:, None].expand_as(real)
        head = Pairs(which[real], best.indices[real] + self.span.start, best.values[real].double())
        return head, Rest.of(self, self.logits.scatter(1, best.indices, -torch.inf))


@dataclass(frozen=True)
class Rest:
    """The rows of a span that are not weighed exactly, with the weight a screen gives them.

    logits, shares: in the screen and as shares of their sum, [b, n]. log_mass: log of the sum of the weights, [b].
    expected, half_norm: means over these shares of the leading coordinates, [b, M], and of the half norms, [b].
    """

    query: Query
    span: Span
    logits: Float[Tensor, "b n"]
    shares: Float[Tensor, "b n"]
    log_mass: Float64[Tensor, "b"]
    expected: Float[Tensor, "b M"]
    half_norm: Float64[Tensor, "b"]
    leading: Float[Tensor, "n M"]
    basis: Float64[Tensor, "D M"]

    @classmethod
    def of(cls, proposal: Proposal, logits: Float[Tensor, "b n"]) -> Rest:
        """Return the rows whose `logits` are finite, as a proposal to draw from. Costs a product as large as its."""
        log_mass = logits.logsumexp(1, keepdim=True)
        shares = (logits - log_mass).exp_().nan_to_num_(0.0)
        expected = shares @ proposal.leading
        half_norm = (shares @ proposal.half_norms).double()
        query, span, leading, basis = proposal.query, proposal.span, proposal.leading, proposal.basis
        return cls(query, span, logits, shares, log_mass[:, 0].double(), expected, half_norm, leading, basis)

    def take(self, index: Int64[Tensor, "b"]) -> Rest:
        """Return the part of the queries in `index`."""
        own = ("logits", "shares", "log_mass", "expected", "half_norm")
        return replace(self, query=self.query.take(index), **{name: getattr(self, name)[index] for name in own})


def _cut_holes(logits: Float[Tensor, "b n"], query: Query, span: Span) -> None:
    position = torch.arange(span.start, span.stop, device=logits.device)
    for hole in query.holes.unbind(1):
        for one in (hole[:, 1] > hole[:, 0]).nonzero()[:, 0].tolist():
            logits[one].masked_fill_((position >= hole[one, 0]) & (position < hole[one, 1]), -torch.inf)


def systematic(weights: Float[Tensor, "B n"], count: int, generator: torch.Generator) -> Int64[Tensor, "B m"]:
    """Return `count` positions a query, each as often as its share of the weights asks for up to one; in rising order.

    Positions are arbitrary where there is no weight at all.
    """
    cumulative = weights.cumsum(1, dtype=torch.float64)
    begin = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64, device=weights.device)
    steps = torch.arange(count, dtype=torch.float64, device=weights.device)
    place = torch.searchsorted(cumulative, (steps + begin) / count * cumulative[:, -1:], right=True)
    # the end of the sum may be passed by a rounding: the last row that has any weight
    last = (weights > 0.0).long().cumsum(1).argmax(1, keepdim=True)
    return torch.minimum(place, last)
