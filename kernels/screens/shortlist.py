"""From upper logits to an exact posterior over the few samples that matter and a bound on all the others.

A query passes through the levels of a screen until so few rows can still matter that looking at them is cheap. Those
are scored again in float64; everything else is bounded by its upper logits (the sum rule).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Bool, Float, Float64, Int64, Tensor
from ..common.matmul import QUERY_MULTIPLE, ieee_products
from ..common.rescore import Pairs, pairs_state, product_error, product_logits
from ..common.rows import Query
from ..common.state import PosteriorState, Wanted, merge
from .query_bounds import Knowledge
from .screen import Screen
from .upper_bounds import ROW_TILE, UpperLogits

# rows with the largest upper logits, looked at first: they bound the partition function from below
LEADERS = 8

# floor of queries without a row that counts: finite, so that differences of infinities do not arise
LOWEST = -1e38

# a deeper level picks its rows where tiles that may matter are fewer than this share
PICK_SHARE = 0.5

# looking at one row for one query costs as much as this many entries of a dense product: measured 30 .. 50 on CPU
PAIR_COST = 40

# a scan costs as much as this many queries of it, before the first
READ_QUERIES = 24

# an upper logit costs, beside its product, as much as this many coordinates of a dense product: passes over it, and its
# part of the rows looked at; measured on CPU
TOUCH_COST = 700

# where a scan is needed anyway, queries join it until alpha^2 / sigma^2 is so many times what makes a level worth it
JOIN_SCAN_FACTOR = 4.0

# fraction of the mass a caller allows to omit, given what is known of the queries in `index` so far
Allowance = Callable[[Int64[Tensor, "b"], PosteriorState], Float64[Tensor, "b"]]


@dataclass(frozen=True)
class Shortlist:
    """What a search leaves of a batch: states of the rows looked at, and what the others hold at most.

    state: posterior over the rows looked at.
    log_omitted: log of a bound on the sum of the weights of all other rows, [B], on the scale of `state.lse`.
    survivors: rows looked at, [B]. certified: queries that were decided; the state of the others is empty.
    """

    state: PosteriorState
    log_omitted: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    certified: Bool[Tensor, "B"]

    def put(self, index: Int64[Tensor, "b"], part: Shortlist) -> Shortlist:
        """Return this with the queries in `index` replaced by `part`."""
        return Shortlist(
            self.state.put(index, part.state),
            self.log_omitted.index_copy(0, index, part.log_omitted),
            self.survivors.index_copy(0, index, part.survivors),
            self.certified.index_copy(0, index, part.certified),
        )

    def take(self, index: Int64[Tensor, "b"]) -> Shortlist:
        """Return the part of the queries in `index`."""
        return Shortlist(self.state.take(index), self.log_omitted[index], self.survivors[index], self.certified[index])

    def joined(self, other: Shortlist) -> Shortlist:
        """Return the shortlist of two disjoint sets of rows."""
        return Shortlist(
            merge(self.state, other.state),
            torch.logaddexp(self.log_omitted, other.log_omitted),
            self.survivors + other.survivors,
            self.certified & other.certified,
        )

    @classmethod
    def nothing(cls, batch: int, dim: int, top_k: int, device: torch.device) -> Shortlist:
        """Return the shortlist of no rows at all, the neutral element of :meth:`joined`."""
        state = PosteriorState.empty(batch, dim, top_k, device)
        none = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(state, torch.full_like(state.lse, -torch.inf), none, ~none.bool())

    @classmethod
    def pending(cls, batch: int, dim: int, top_k: int, device: torch.device) -> Shortlist:
        """Return the shortlist of queries that are not settled."""
        state = PosteriorState.empty(batch, dim, top_k, device)
        none = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(state, torch.full_like(state.lse, torch.inf), none, none.bool())


def screened(upper: UpperLogits, wanted: Wanted, allowance: Allowance, limit: int | None = None) -> Shortlist:
    """Return the shortlist of every query, from the level on that can help it.

    allowance: fraction of the mass that may be left out. limit: most rows to look at for a query; None for as many
    as cost half of a dense scan. Queries that need more stay unsettled.
    Costs a product of each level it needs; memory is 16 MB of upper logits, or 64 n bytes.
    """
    search = _Search(upper, wanted, allowance, limit)
    result = Shortlist.pending(len(upper.query), upper.rows.dim, wanted.top_k, upper.rows.device)
    entry = _entry_level(upper)
    with ieee_products(upper.rows.device.type):
        for level in range(len(upper.screen.widths)):
            for index in (entry == level).nonzero()[:, 0].split(upper.chunk):
                result = result.put(index, search.cascade(index, level)) if len(index) else result
    return result


def strongest(upper: UpperLogits, wanted: Wanted, count: int) -> Shortlist:
    """Return the `count` rows with the largest upper logits of every query, and what the others hold at most.

    Costs one product at the widest level; memory as in :func:`screened`.
    """
    level, rows = len(upper.screen.widths) - 1, upper.rows
    result = Shortlist.pending(len(upper.query), rows.dim, wanted.top_k, rows.device)
    with ieee_products(rows.device.type):
        for index in torch.arange(len(upper.query), device=rows.device).split(upper.chunk):
            values = upper.at(level, index)
            best = values.topk(min(count, len(upper.span)), dim=0)
            values.scatter_(0, best.indices, -torch.inf)
            query = torch.arange(len(index), device=rows.device).expand_as(best.indices)
            real = best.values > -torch.inf
            row = best.indices[real] + upper.span.start
            found = upper.query.take(index)
            state = pairs_state(rows, found, Pairs(query[real], row, best.values[real].double()), wanted)
            # sums of float32 terms
            omitted = values.logsumexp(0).double() + 1e-4 + offset(found)
            part = Shortlist(state, omitted, real.sum(0), torch.ones_like(index, dtype=torch.bool))
            result = result.put(index, part)
    return result


def certified_share(upper: UpperLogits, level: int, mass: float) -> float:
    """Return the share of the queries that this level alone would settle with so much mass left out."""

    def allowance(index: Int64[Tensor, "b"], state: PosteriorState) -> Float64[Tensor, "b"]:
        return torch.full_like(state.lse, mass)

    search, certified = _Search(upper, Wanted(), allowance, None), 0
    with ieee_products(upper.rows.device.type):
        for index in torch.arange(len(upper.query), device=upper.rows.device).split(upper.chunk):
            nothing = torch.full((len(index),), -torch.inf, dtype=torch.float64, device=index.device)
            step = _Level(search, index, level, None, nothing)
            certified += int((step.count <= step.limit).sum())
    return certified / len(upper.query)


def offset(query: Query) -> Float64[Tensor, "B"]:
    """Return -|q|^2 / 2 sigma^2 [B]: what all logits of a query have in common and upper logits leave out."""
    return -0.5 * query.inverse_variance * query.norm.square()


def below_thresholds(screen: Screen, query: Query, with_shared: bool) -> bool:
    """Return whether no level is worth a try for any of the queries, whether or not their sources are known."""
    rows = (Knowledge.TRAJECTORY,) if with_shared else (Knowledge.NOTHING, Knowledge.SOURCE)
    least = min((value for row in rows for value in screen.thresholds[row]), default=math.inf)
    return not bool((_ratio(query) >= least).any())


def _ratio(query: Query) -> Float64[Tensor, "B"]:
    """Return alpha^2 / sigma^2, [B]: what the reach of a level is a bound on."""
    return query.alpha.square() * query.inverse_variance


def _entry_level(upper: UpperLogits) -> Int64[Tensor, "B"]:
    query, screen = upper.query, upper.screen
    ratio = _ratio(query)[:, None]
    thresholds = torch.tensor(screen.thresholds, dtype=ratio.dtype, device=ratio.device)
    least = thresholds[upper.query_bound.knowledge]
    able = ratio >= least
    if not bool(able.any(1).all()):
        # those that must be scanned take others along for the price of their products alone
        able = ratio >= JOIN_SCAN_FACTOR * least
        able &= _saving(upper, able.sum(0)) > 0
    return torch.where(able.any(1), able.int().argmax(1), len(screen.widths))


def _saving(upper: UpperLogits, count: Int64[Tensor, "l"]) -> Int64[Tensor, "l"]:
    """Return what a scan saves, in entries of a dense product a row, where each level takes so many queries from it."""
    costs, dim = torch.tensor(upper.screen.costs, device=count.device), upper.rows.dim
    # scans take a few queries more for nothing
    return count * (dim - costs - TOUCH_COST) - READ_QUERIES * costs - QUERY_MULTIPLE * dim


@dataclass(frozen=True)
class _Search:
    """What is searched for: one batch of queries over one span."""

    upper: UpperLogits
    wanted: Wanted
    allowance: Allowance
    most: int | None

    def limit(self, level: int, count: Int64[Tensor, "b"]) -> int:
        """Return how many rows of a query are looked at sooner than the next level, or half of a dense scan.

        count: rows that may matter to each query, at least. A scan left for few queries costs more for each of them.
        """
        if self.most is not None:
            return self.most
        costs, rows = self.upper.screen.costs, self.upper.rows
        if level + 1 < len(costs):
            return max(LEADERS, int(costs[level + 1] / rows.dim * len(self.upper.span) / PAIR_COST))
        base = max(LEADERS, int(0.5 * len(self.upper.span) / PAIR_COST))
        left = max(1, int((count > base).sum()))
        return int(base * (1.0 + READ_QUERIES / left))

    def cascade(self, index: Int64[Tensor, "b"], level: int) -> Shortlist:
        """Return the shortlist of the queries in `index`, which enter at `level`."""
        rows = self.upper.rows
        result = Shortlist.pending(len(index), rows.dim, self.wanted.top_k, rows.device)
        place = torch.arange(len(index), device=index.device)
        nothing = torch.full((len(index),), -torch.inf, dtype=torch.float64, device=index.device)
        step = _Level(self, index, level, None, nothing)
        while True:
            done = step.count <= step.limit
            if bool(done.any()):
                result = result.put(place[done], step.settle(done))
            place = place[~done]
            if len(place) == 0 or step.level + 1 == len(self.upper.screen.widths):
                return result
            step = step.deeper(~done)


class _Level:
    """Upper logits of some queries and some rows at one level."""

    def __init__(
        self,
        search: _Search,
        index: Int64[Tensor, "b"],
        level: int,
        chosen: Int64[Tensor, "n"] | None,
        log_omitted: Float64[Tensor, "b"],
    ) -> None:
        self.search, self.index, self.level, self.chosen = search, index, level, chosen
        self.query = search.upper.query.take(index)
        self.offset = offset(self.query)
        self.upper = search.upper.at(level, index, chosen)
        tiles = self.upper.unflatten(0, (-1, ROW_TILE))
        self.largest = tiles.amax(1)
        leaders = _leaders(tiles, self.largest)
        self.lead = self._lead(leaders)
        allowed = search.allowance(index, self.lead).clamp_min(1e-300)
        floor = self.lead.lse - self.offset + (allowed / len(search.upper.span)).log()
        # rounded down: comparisons and exponentials are in float32
        self.floor = (floor - 2.0**-22 * floor.abs()).clamp_min(LOWEST).float()
        self.log_omitted = log_omitted
        # a tile that may matter holds a row that may: these are at least so many rows
        self.hot = self.largest >= self.floor
        self.count = self.hot.sum(0)
        self.limit = search.limit(level, self.count)
        few = (self.count <= self.limit).nonzero()[:, 0]
        self.pairs, self.missed = self._open(few)
        self.count[few] = torch.bincount(self.pairs.query, minlength=len(index))[few]

    def _rows(self, position: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the rows of the data at positions of this level."""
        span = self.search.upper.span
        return position + span.start if self.chosen is None else self.chosen[position.clamp_max(len(self.chosen) - 1)]

    def _lead(self, leaders: Int64[Tensor, "b k"]) -> PosteriorState:
        which = torch.arange(len(self.query), device=leaders.device)[:, None].expand_as(leaders).reshape(-1)
        position = leaders.reshape(-1)
        finite = self.upper[position, which] > -torch.inf
        pairs = Pairs(which[finite], self._rows(position[finite]), torch.zeros_like(position[finite]).double())
        return pairs_state(self.search.upper.rows, self.query, pairs, Wanted())

    def _open(self, few: Int64[Tensor, "f"]) -> tuple[Pairs, Float64[Tensor, "b"]]:
        """Return the pairs of the queries `few` that may matter, and the log of what their other rows hold at most."""
        tiles = self.upper.unflatten(0, (-1, ROW_TILE))
        hot, floor = self.hot[:, few], self.floor[few]
        # relative to the floor, below which all of these are: nothing overflows
        cold = ROW_TILE * _exp(self.largest[:, few] - floor).masked_fill_(hot, 0.0).sum(0)
        place, column = hot.T.nonzero().unbind(1)
        values = tiles[column, :, few[place]] - floor[place, None]
        alive = values >= 0.0
        pair, offset = alive.nonzero().unbind(1)
        row, logit = self._rows(column[pair] * ROW_TILE + offset), values[pair, offset].double() + floor[place[pair]]
        rest = cold.index_add_(0, place, _exp(values).masked_fill_(alive, 0.0).sum(1))
        missed = torch.full_like(self.lead.lse, -torch.inf)
        # sums of float32 terms
        missed[few] = floor + (rest.double() * (1.0 + 1e-4) + 1e-300).log()
        return Pairs(few[place[pair]], row, logit), missed

    def settle(self, done: Bool[Tensor, "b"]) -> Shortlist:
        """Return the exact states of the pairs of the queries in `done`, and the bound on everything else."""
        index = done.nonzero()[:, 0]
        place = torch.full_like(self.count, -1).index_copy_(0, index, torch.arange(len(index), device=index.device))
        pairs = self.pairs.where(done[self.pairs.query])
        pairs = replace(pairs, query=place[pairs.query])
        search, query, shift = self.search, self.query.take(index), self.offset[index]
        omitted = torch.logaddexp(self.log_omitted[index], self.missed[index])
        pairs, dropped = self._sift(query, pairs, self.floor[index].double(), self.lead.lse[index] - shift)
        state = pairs_state(search.upper.rows, query, pairs, search.wanted)
        omitted = torch.logaddexp(omitted, dropped) + shift
        return Shortlist(state, omitted, self.count[index], torch.ones_like(index, dtype=torch.bool))

    def _sift(
        self, query: Query, pairs: Pairs, floor: Float64[Tensor, "b"], lead: Float64[Tensor, "b"]
    ) -> tuple[Pairs, Float64[Tensor, "b"]]:
        """Return the pairs that matter after a look at the whole rows in float32, and what the others hold."""
        logit = product_logits(self.search.upper.rows, query, pairs)
        error = product_error(self.search.upper.rows, query)
        best = torch.full_like(lead, -torch.inf).scatter_reduce_(0, pairs.query, logit, "amax") - error
        # the best of them often proves far more than the leaders did, and the allowance is shared by few rows now
        sharing = torch.bincount(pairs.query, minlength=len(query)).clamp_min(1)
        raised = floor + (best - lead).clamp_min(0.0) + (len(self.search.upper.span) / sharing).log()
        upper = (logit + error[pairs.query]) - raised[pairs.query]
        keep = upper >= 0.0
        rest = torch.zeros_like(lead).index_add_(0, pairs.query[~keep], upper[~keep].exp())
        return pairs.where(keep), raised + rest.log()

    def deeper(self, remain: Bool[Tensor, "b"]) -> _Level:
        """Return the next level, of the remaining queries and the rows that may matter to any of them."""
        column = remain.nonzero()[:, 0]
        omitted, chosen = self.log_omitted[column], self.chosen
        tile = self.hot[:, column].any(1).nonzero()[:, 0]
        # picking rows costs a copy of their features: not worth it for most of them
        if len(tile) < PICK_SHARE * len(self.hot):
            alive = (self.upper.unflatten(0, (-1, ROW_TILE))[tile][:, :, column] >= self.floor[column]).any(2)
            position = (tile[:, None] * ROW_TILE + torch.arange(ROW_TILE, device=tile.device))[alive]
            total = len(self.search.upper.span) if self.chosen is None else len(self.chosen)
            left_out = math.log(total - len(position)) if len(position) < total else -math.inf
            omitted = torch.logaddexp(omitted, self.floor[column].double() + left_out)
            chosen = self._rows(position)
        return _Level(self.search, self.index[column], self.level + 1, chosen, omitted)


def _exp(difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    # in place and never below e^-80: results that underflow take many times as long
    return difference.clamp_(min=-80.0, max=80.0).exp_()


def _leaders(tiles: Float[Tensor, "T s b"], largest: Float[Tensor, "T b"]) -> Int64[Tensor, "b k"]:
    """Return the positions of the rows with the largest upper logits of each query, one a tile."""
    best = largest.topk(min(LEADERS, len(largest)), dim=0).indices.T
    column = torch.arange(largest.shape[1], device=best.device)[:, None].expand_as(best)
    offset = tiles[best, :, column].argmax(2)
    return best * tiles.shape[1] + offset
