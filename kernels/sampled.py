"""An estimate of a broad posterior from a sample of the rows, with its standard error; it proves nothing.

Rows are drawn by systematic sampling in proportion to their weight in the leading coordinates of a screen, weighed by
the ratio to their true weight, and corrected by the mean of the leading coordinates over all rows, which is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..arrays import Float, Float64, Int64, Tensor
from .matmul import ieee_products
from .probe import make_probe
from .rows import Query, Rows, Span
from .screen import Screen
from .shortlist import offset
from .state import PosteriorState, Wanted, concatenate
from .upper import CHUNK_VALUES

# interleaved parts of a sample whose spread tells its standard error
GROUPS = 8


@dataclass(frozen=True)
class Sampled:
    """Estimated states and the standard error of their means, a norm in row units, [B]."""

    state: PosteriorState
    standard_error: Float64[Tensor, "B"]


def sampled_state(
    rows: Rows, screen: Screen, query: Query, span: Span, wanted: Wanted, count: int, generator: torch.Generator
) -> Sampled:
    """Return estimates from `count` rows of `span` for each query, rounded up to a multiple of 8, repeats included.

    Costs a product with the widest level of the screen, and one row for each draw.
    """
    count = -(-count // GROUPS) * GROUPS
    chunk = max(1, CHUNK_VALUES // max(count * rows.dim // 16, len(span), 1))
    slices = torch.arange(len(query), device=rows.device).split(chunk)
    with ieee_products(rows.device.type):
        parts = [
            _sampled(rows, screen, query.take(part), span, wanted, count, generator) for part in slices if len(part)
        ]
    if not parts:
        return Sampled(PosteriorState.empty(0, rows.dim, wanted.top_k, rows.device), query.alpha)
    states = [part.state for part in parts]
    return Sampled(concatenate(states), torch.cat([part.standard_error for part in parts]))


def _sampled(
    rows: Rows, screen: Screen, query: Query, span: Span, wanted: Wanted, count: int, generator: torch.Generator
) -> Sampled:
    coarse = _coarse_logits(rows, screen, query, span)
    proposal = coarse.double().softmax(1)
    place = _systematic(proposal, count, generator)
    leading = screen.features[-1][span.start : span.stop, : screen.widths[-1]]
    expected = proposal.float() @ leading
    log_mass = coarse.double().logsumexp(1)
    row = place + span.start
    draws = [
        _Draw(rows, query.take(one), row[b], coarse[b, place[b]].double(), leading[place[b]], expected[b])
        for b, one in enumerate(torch.arange(len(query), device=rows.device).split(1))
    ]
    return _summary(rows, screen, query, wanted, draws, log_mass)


def _coarse_logits(rows: Rows, screen: Screen, query: Query, span: Span) -> Float[Tensor, "B n"]:
    """Return logits in the leading coordinates alone, -inf where a row does not count."""
    probe = make_probe(rows, screen, query)
    blind = replace(probe, blocks=torch.zeros_like(probe.blocks), spread=torch.zeros_like(probe.spread))
    level = len(screen.widths) - 1
    factors = blind.coefficients(screen, level, rows.log_weights is not None)
    logits = factors @ screen.features[level][span.start : span.stop].T
    position = torch.arange(span.start, span.stop, device=rows.device)
    for hole in query.holes.unbind(1):
        for one in (hole[:, 1] > hole[:, 0]).nonzero()[:, 0].tolist():
            logits[one].masked_fill_((position >= hole[one, 0]) & (position < hole[one, 1]), -torch.inf)
    return logits


def _systematic(proposal: Float64[Tensor, "B n"], count: int, generator: torch.Generator) -> Int64[Tensor, "B m"]:
    """Return `count` positions a query, as often as their probability asks for up to one; in rising order."""
    cumulative = proposal.cumsum(1)
    begin = torch.rand(len(proposal), 1, generator=generator, dtype=torch.float64, device=proposal.device)
    steps = torch.arange(count, dtype=torch.float64, device=proposal.device)
    place = torch.searchsorted(cumulative, (steps + begin) / count * cumulative[:, -1:], right=True)
    # the end of the sum may be passed by a rounding: the last row that has any weight
    last = (proposal > 0.0).long().cumsum(1).argmax(1, keepdim=True)
    return torch.minimum(place, last)


class _Draw:
    """The rows drawn for one query and what they say."""

    def __init__(
        self,
        rows: Rows,
        query: Query,
        row: Int64[Tensor, "m"],
        coarse: Float64[Tensor, "m"],
        leading: Float[Tensor, "m M"],
        expected: Float[Tensor, "M"],
    ) -> None:
        samples = rows.stored.index_select(0, row).float()
        if not rows.raw_operand:
            samples -= rows.centre.float()
        products = (samples @ query.point[0].float()).double() - query.point[0] @ rows.operand_centre
        self.row, self.half_norms = row, rows.half_norms[row]
        self.logits = query.gain * (products - query.alpha * self.half_norms)
        if rows.log_weights is not None:
            self.logits = self.logits + rows.log_weights[row]
        self.log_ratio = self.logits - coarse
        self.weights = self.log_ratio.softmax(0)
        # one row of weights for the whole sample, then one for each of its interleaved parts
        parts = self.log_ratio.unflatten(0, (-1, GROUPS)).softmax(0)
        spread = torch.zeros(len(row), GROUPS, dtype=torch.float64, device=row.device)
        group = torch.arange(len(row), device=row.device) % GROUPS
        spread.scatter_(1, group[:, None], parts.reshape(-1, 1))
        weights = torch.cat([self.weights[:, None], spread], dim=1).T.float()
        alone = torch.nn.functional.one_hot(group, GROUPS).T * (GROUPS / len(row))
        counted = torch.cat([torch.full_like(weights[:1], 1.0 / len(row)), alone])
        self.means = weights @ samples - rows.operand_centre.float()
        # the leading coordinates of the sample should average to what they do over all rows
        self.corrections = expected - counted @ leading


def _summary(
    rows: Rows, screen: Screen, query: Query, wanted: Wanted, draws: list[_Draw], log_mass: Float64[Tensor, "B"]
) -> Sampled:
    means = torch.stack([draw.means for draw in draws]).double()
    means = means + torch.stack([draw.corrections for draw in draws]).double() @ screen.basis.T
    mean, groups = means[:, 0], means[:, 1:]
    error = (groups - groups.mean(1, keepdim=True)).square().sum((1, 2)).div(GROUPS * (GROUPS - 1)).sqrt()
    weights = torch.stack([draw.weights for draw in draws])
    logits = torch.stack([draw.logits for draw in draws])
    count = weights.shape[1]
    lse = log_mass + torch.stack([draw.log_ratio for draw in draws]).logsumexp(1) - math.log(count)
    row = torch.stack([draw.row for draw in draws])
    second = (weights * torch.stack([draw.half_norms for draw in draws])).sum(1) * 2.0
    first = torch.ones_like(row, dtype=torch.bool)
    first[:, 1:] = row[:, 1:] != row[:, :-1]
    top = logits.masked_fill(~first, -torch.inf).topk(min(wanted.top_k, count), dim=1)
    state = PosteriorState.empty(len(draws), rows.dim, wanted.top_k, rows.device)
    state.top_logits[:, : top.values.shape[1]] = top.values + offset(query)[:, None]
    state.top_rows[:, : top.values.shape[1]] = row.gather(1, top.indices).masked_fill(top.values == -torch.inf, -1)
    state = replace(
        state,
        lse=lse + offset(query),
        mean=mean,
        concentration=(weights * (logits - lse[:, None]).exp()).sum(1).clamp(max=1.0),
        entropy=(weights * (lse[:, None] - logits)).sum(1).clamp_min(0.0),
        variance=(second - mean.square().sum(1)).clamp_min(0.0),
    )
    return Sampled(state, error)
