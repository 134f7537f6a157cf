"""An estimate of a broad posterior from a sample of the rows, with its standard error; it proves nothing.

The rows that the leading coordinates of a screen make most likely are weighed exactly. Of the others some are drawn
by systematic sampling in proportion to their weight in the screen, weighed by the ratio to their true weight, and
corrected by the mean of the leading coordinates over all rows, which is known. The standard error is that of the draws
and of what may not have been drawn, see :mod:`.unseen`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ....base.arrays import Bool, Float, Float64, Int64, Tensor
from ...common.matmul import ieee_products
from ...common.rows import Query, Rows
from ...common.state import PosteriorState, concatenate, merge
from ...common.work import Work
from ...pairs import pairs_state
from ..bounds.upper_bounds import CHUNK_VALUES
from ..kinds.pca import PrincipalScreen
from .proposal import Proposal, Rest
from .shortlist import query_term
from .unseen import unseen_error

# interleaved parts of a sample whose spread tells its standard error
GROUPS = 8

# rows weighed exactly, at least and at most: late they hold everything, and early they cost little beside the draws
LEAST_EXACT, MOST_EXACT = 8, 64


@dataclass(frozen=True)
class Sampled:
    """Estimates from a sample of the rows.

    state: estimated posterior of each query. standard_error: of the mean, a norm in row units, [B] float64.
    count: how many rows were read for each query.
    """

    state: PosteriorState
    standard_error: Float64[Tensor, "B"]
    count: int


def sampled_state(screen: PrincipalScreen, work: Work, *, count: int, generator: torch.Generator) -> Sampled:
    """Return estimates from some rows of the span for each query, exact where the span has no more rows.

    screen: of the rows. work: the queries, the rows and their span, and what is wanted.
    count: rows for each query, repeats included; at least 16 and a multiple of 8 are read. generator: of the draws.
    Costs a product with the widest level of the screen, and one row for each draw.
    """
    count = max(LEAST_EXACT + GROUPS, -(-count // GROUPS) * GROUPS)
    exact, draws = (len(work.span), 0) if count >= len(work.span) else _split(count)
    chunk = max(1, CHUNK_VALUES // max(1, len(work.span)))
    none = PosteriorState.empty(0, work.rows.dim, work.wanted.top_k, work.rows.device)
    states, errors = [none], [work.query.alpha[:0]]
    with ieee_products(work.rows.device.type):
        for part in torch.arange(len(work.query), device=work.rows.device).split(chunk):
            if len(part) == 0:
                continue
            pairs, rest = Proposal.of(screen, work.take(part)).parted(exact)
            state = pairs_state(work.rows, rest.work.query, pairs, work.wanted)
            found = _completed(rest, state, draws, generator) if draws else [(state, state.lse * 0.0)]
            states += [state for state, _ in found]
            errors += [error for _, error in found]
    return Sampled(concatenate(states), torch.cat(errors), exact + draws)


def _completed(
    rest: Rest, exact: PosteriorState, draws: int, generator: torch.Generator
) -> list[tuple[PosteriorState, Float64[Tensor, "b"]]]:
    """Return the states of `exact` and of what is drawn from the rest, and their standard errors, part by part."""
    found, rows = [], rest.work.rows
    size = max(1, CHUNK_VALUES // (draws * rows.dim))
    for part in torch.arange(len(rest.work.query), device=rows.device).split(size):
        some, own = rest.take(part), exact.take(part)
        drawn = _Drawn.of(some, draws, generator)
        state = merge(own, drawn.state())
        found.append((state, torch.hypot(drawn.standard_error(own), unseen_error(some, state, draws))))
    return found


def _split(count: int) -> tuple[int, int]:
    exact = min(MOST_EXACT, max(LEAST_EXACT, count // 4 // GROUPS * GROUPS))
    return exact, count - exact


@dataclass(frozen=True)
class _Drawn:
    """The rows drawn for each query, and what all of them and each of their parts say of the rows they stand for.

    work: the queries and the rows. logits, row: of the draws, [b, m].
    ratio: log of how many rows of its own logit each draw stands for, [b, m].
    surplus: of the mean half norm of the rows they stand for over that of the draws, [b].
    lse, mean: of the whole sample and of each of its parts, [b, 1 + GROUPS] and [b, 1 + GROUPS, D].
    """

    work: Work
    row: Int64[Tensor, "b m"]
    logits: Float64[Tensor, "b m"]
    ratio: Float64[Tensor, "b m"]
    surplus: Float64[Tensor, "b"]
    lse: Float64[Tensor, "b g"]
    mean: Float64[Tensor, "b g D"]

    @classmethod
    def of(cls, rest: Rest, count: int, generator: torch.Generator) -> _Drawn:
        """Draw `count` rows of each query from `rest`, and weigh them by how many each of them stands for."""
        work, rows = rest.work, rest.work.rows
        place = systematic(rest.shares, count, generator)
        row = place + work.span.start
        stored = rows.stored.index_select(0, row.reshape(-1))
        samples = (stored.float() if rows.raw_operand else rows.centred(stored)).reshape(*row.shape, rows.dim)
        logits = _logits(rows, work.query, row, samples)
        log_mass = rest.log_mass[:, None]
        ratio = log_mass - rest.logits.gather(1, place) - math.log(count)
        within = _parts(count, rows.device)
        each = torch.where(log_mass > -torch.inf, logits + ratio, -torch.inf)[:, None] + within.log()
        mean = torch.bmm(each.softmax(2).nan_to_num(0.0).float(), samples).double() - rows.operand_centre
        # the leading coordinates of the sample should average to what they do over all the rows it stands for
        found = torch.matmul((within / count).float(), rest.leading[place])
        mean = mean + (rest.expected[:, None] - found).double() @ rest.basis.T
        surplus = rest.half_norm - rows.half_norms[row].mean(1)
        return cls(work, row, logits, ratio, surplus, each.logsumexp(2), mean)

    def standard_error(self, exact: PosteriorState) -> Float64[Tensor, "b"]:
        """Return the standard error of the mean of these rows and those of `exact`, from the spread of the parts."""
        lse = self.lse[:, 1:] + query_term(self.work.query)[:, None]
        share = torch.sigmoid(lse - exact.lse[:, None]).nan_to_num(0.0)
        parts = share[:, :, None] * (self.mean[:, 1:] - exact.mean[:, None])
        squares = (parts - parts.mean(1, keepdim=True)).square().sum((1, 2))
        return squares.div(GROUPS * (GROUPS - 1)).sqrt()

    def state(self) -> PosteriorState:
        """Return the estimated state of the rows that the draws stand for."""
        lse, mean, shift = self.lse[:, 0], self.mean[:, 0], query_term(self.work.query)
        relative = (self.logits - lse[:, None]).nan_to_num(-torch.inf)
        weights = (relative + self.ratio).exp().nan_to_num(0.0)
        norms = 2.0 * ((weights * self.work.rows.half_norms[self.row]).sum(1) + self.surplus)
        top_logits, top_rows = self._top(weights > 0.0, self.work.wanted.top_k)
        return PosteriorState(
            lse=lse + shift,
            mean=mean,
            concentration=(weights * relative.exp()).sum(1).clamp(max=1.0),
            entropy=-(weights * relative.clamp_min(-1e30)).sum(1).clamp(max=0.0),
            variance=(norms - mean.square().sum(1)).clamp_min(0.0),
            top_logits=top_logits + shift[:, None],
            top_rows=top_rows,
            lse_rest=torch.zeros_like(lse),
            top_rest=torch.zeros_like(top_logits),
        )

    def _top(self, counts: Bool[Tensor, "b m"], top_k: int) -> tuple[Float64[Tensor, "b k"], Int64[Tensor, "b k"]]:
        """Return the heaviest draws, every row once, with -inf and -1 where there are fewer."""
        # draws are in rising order: repeats stand side by side
        first = torch.ones_like(counts)
        first[:, 1:] = self.row[:, 1:] != self.row[:, :-1]
        named = self.logits.masked_fill(~(first & counts), -torch.inf)
        padding = (0, max(0, top_k - named.shape[1]))
        top = torch.nn.functional.pad(named, padding, value=-torch.inf).topk(top_k, dim=1)
        rows = torch.nn.functional.pad(self.row, padding, value=-1).gather(1, top.indices)
        return top.values, rows.masked_fill(top.values == -torch.inf, -1)


def _logits(
    rows: Rows, query: Query, row: Int64[Tensor, "b m"], samples: Float[Tensor, "b m D"]
) -> Float64[Tensor, "b m"]:
    """Return the logits of `row`, whose operands are `samples`, up to -|q|^2 / 2 sigma^2, from float32 products."""
    products = torch.bmm(samples, query.point.float()[:, :, None])[:, :, 0].double()
    shift = (query.point @ rows.operand_centre)[:, None]
    logits = query.gain[:, None] * (products - shift - query.alpha[:, None] * rows.half_norms[row])
    return logits if rows.log_weights is None else logits + rows.log_weights[row]


def _parts(count: int, device: torch.device) -> Float64[Tensor, "g m"]:
    """Return the factor of each draw in the whole sample, and in each of its interleaved parts."""
    group = torch.arange(count, device=device) % GROUPS
    alone = torch.nn.functional.one_hot(group, GROUPS).T.double() * GROUPS
    return torch.cat([torch.ones_like(alone[:1]), alone])


def systematic(weights: Float[Tensor, "B n"], count: int, generator: torch.Generator) -> Int64[Tensor, "B m"]:
    """Return positions of each query, each as often as its share of the weights asks for up to one, [B, count] int64.

    weights: [B, n], not negative. count: how many positions. generator: of the draws.
    Positions rise; they are arbitrary where there is no weight at all.
    """
    cumulative = weights.cumsum(1, dtype=torch.float64)
    begin = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64, device=weights.device)
    steps = torch.arange(count, dtype=torch.float64, device=weights.device)
    place = torch.searchsorted(cumulative, (steps + begin) / count * cumulative[:, -1:], right=True)
    # the end of the sum may be passed by a rounding: the last row that has any weight
    last = (weights > 0.0).long().cumsum(1).argmax(1, keepdim=True)
    return torch.minimum(place, last)
