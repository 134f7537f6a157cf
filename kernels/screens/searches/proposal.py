"""How likely the leading coordinates of a screen make rows, and what is left when the likeliest ones are weighed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ....base.arrays import Bool, Float, Float64, Int64, Tensor
from ...common.rescore import Pairs, product_logits
from ...common.rows import Query, Span
from ...common.work import Work
from ..bounds.query_bounds import SideInformation
from ..kinds.pca import PrincipalScreen

# the median of |g|, g Gaussian
MEDIAN = 0.6745


@dataclass(frozen=True)
class Proposal:
    """What a screen says of every row of a span; logits are -inf where a row does not count.

    work: the queries, the rows and their span.
    logits: as if the query had nothing beyond the leading coordinates, [b, n] float32.
    leading_logits: of the leading coordinates alone, [b, n] float32; they do not hold what lies beyond them against the
        row that a query was made from.
    leading: leading coordinates of the rows, [n, M] float32. half_norms: of the rows, [n] float32.
    residual: norms of the rows beyond the leading coordinates, [n] float32. reach: alpha / sigma^2 times those of the
        queries, [b] float64.
    basis: of the leading coordinates, [D, M] float64.
    """

    work: Work
    logits: Float[Tensor, "b n"]
    leading_logits: Float[Tensor, "b n"]
    leading: Float[Tensor, "n M"]
    half_norms: Float[Tensor, "n"]
    residual: Float[Tensor, "n"]
    reach: Float64[Tensor, "b"]
    basis: Float64[Tensor, "D M"]

    @classmethod
    def of(cls, screen: PrincipalScreen, work: Work) -> Proposal:
        """Return what the widest level of `screen` says of the rows of `work`. Costs one product with its features."""
        rows, query, span = work.rows, work.query, work.span
        query_bound = screen.query_bound(rows, query, SideInformation())
        # an estimate of each logit in place of a bound: residuals count for nothing
        estimate = replace(query_bound, residual_gain=torch.zeros_like(query_bound.residual_gain))
        level, width = len(screen.widths) - 1, screen.widths[-1]
        features = screen.features[level][span.start : span.stop]
        logits = screen.factors(estimate, level, weighted=rows.log_weights is not None) @ features.T
        _mask_excluded(logits, query, span)
        residual = features[:, width + 1]
        leading_logits = torch.addr(logits, (0.5 * query.gain * query.alpha).float(), residual.square())
        return cls(
            work=work,
            logits=logits,
            leading_logits=leading_logits,
            leading=features[:, :width],
            half_norms=features[:, width + 2],
            residual=residual,
            reach=query_bound.residual_gain[:, -1],
            basis=screen.basis,
        )

    def parted(self, count: int) -> tuple[Pairs, Rest]:
        """Return the `count` rows of each query that are most likely, and what there is to draw the others from."""
        best = self.leading_logits.topk(count, dim=1)
        real = best.values > -torch.inf
        which = torch.arange(len(self.work.query), device=real.device)[:, None].expand_as(real)
        pairs = Pairs(which[real], best.indices[real] + self.work.span.start, best.values[real].double())
        rest = self.logits.scatter(1, best.indices, -torch.inf)
        return pairs, Rest.of(self, rest, self._cosine(pairs, real))

    def _cosine(self, pairs: Pairs, real: Bool[Tensor, "b k"]) -> Float64[Tensor, "b"]:
        """Return the deviation of the cosine between query and row beyond the leading coordinates, [b], at most 1.

        pairs: rows of each query, in their order in `real`; 1 where there are none. A median: the row that a query was
        made from, or a neighbour of it, is no typical one. Costs one read of these rows.
        """
        query, place = pairs.query, pairs.row - self.work.span.start
        beyond = product_logits(self.work.rows, self.work.query, pairs) - self.logits[query, place].double()
        largest = self.reach[query] * self.residual[place].double()
        cosine = torch.full_like(real, torch.nan, dtype=torch.float64)
        # rows without weight have no logit
        cosine[real] = torch.where(beyond.isfinite(), beyond.abs() / largest.clamp_min(1e-300), torch.nan)
        found: Tensor = cosine.nanmedian(1).values / MEDIAN
        return found.nan_to_num(1.0).clamp_max(1.0)


@dataclass(frozen=True)
class Rest:
    """The rows of a span that are not weighed exactly, with the weight a screen gives them.

    work: the queries, the rows and their span.
    logits, shares: in the screen and as shares of their sum, [b, n] float32.
    log_mass: log of the sum of the weights, [b] float64.
    expected, half_norm: means over these shares of the leading coordinates, [b, M], and of the half norms, [b].
    leading, residual, basis: those of the :class:`Proposal`.
    spread: deviation of a true logit from that in the screen, for rows of residual 1, [b] float64.
    """

    work: Work
    logits: Float[Tensor, "b n"]
    shares: Float[Tensor, "b n"]
    log_mass: Float64[Tensor, "b"]
    expected: Float[Tensor, "b M"]
    half_norm: Float64[Tensor, "b"]
    leading: Float[Tensor, "n M"]
    residual: Float[Tensor, "n"]
    basis: Float64[Tensor, "D M"]
    spread: Float64[Tensor, "b"]

    @classmethod
    def of(cls, proposal: Proposal, logits: Float[Tensor, "b n"], cosine: Float64[Tensor, "b"]) -> Rest:
        """Return the rows of `proposal` whose `logits`, [b, n], are finite. Costs a product as large as its.

        cosine: deviation of the cosines between query and row beyond the leading coordinates, [b].
        """
        log_mass = logits.logsumexp(1, keepdim=True)
        shares = (logits - log_mass).exp_().nan_to_num_(0.0)
        return cls(
            work=proposal.work,
            logits=logits,
            shares=shares,
            log_mass=log_mass[:, 0].double(),
            expected=shares @ proposal.leading,
            half_norm=(shares @ proposal.half_norms).double(),
            leading=proposal.leading,
            residual=proposal.residual,
            basis=proposal.basis,
            spread=cosine * proposal.reach,
        )

    def take(self, index: Int64[Tensor, "b"]) -> Rest:
        """Return the part of the queries in `index`, [b] int64."""
        own = ("logits", "shares", "log_mass", "expected", "half_norm", "spread")
        return replace(self, work=self.work.take(index), **{name: getattr(self, name)[index] for name in own})


def _mask_excluded(logits: Float[Tensor, "b n"], query: Query, span: Span) -> None:
    position = torch.arange(span.start, span.stop, device=logits.device)
    for one_range in query.excluded.unbind(1):
        for one in (one_range[:, 1] > one_range[:, 0]).nonzero()[:, 0].tolist():
            logits[one].masked_fill_((position >= one_range[one, 0]) & (position < one_range[one, 1]), -torch.inf)
