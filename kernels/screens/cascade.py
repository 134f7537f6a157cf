"""From upper logits to the few rows that matter: a query passes through the levels of a screen, the cheapest first.

It goes on until so few rows can still matter that rescoring them is cheap. Those are scored again in float64; the
weight of all others is bounded by the sum of their upper weights exp(upper logit).
Upper logits, floors and bounds in here lack -|q|^2 / 2 sigma^2, which all rows of a query share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Bool, Float, Float64, Int64, Tensor
from ..common.matmul import ieee_products
from ..common.rescore import Pairs, product_error, product_logits
from ..common.rows import Query, Span
from ..common.state import PosteriorState, Wanted
from ..common.work import Work
from ..native.pairs import pairs_state
from .query_bounds import Knowledge, SideInformation
from .screen import Screen
from .shortlist import Allowance, FixedAllowance, Shortlist, query_term
from .upper_bounds import ROW_TILE, UpperLogits

# rows with the largest upper logits, rescored first: they bound the partition function from below
FIRST_ROWS = 8

# floor of queries without a row that counts: finite, so that differences of infinities do not arise
LOWEST_FLOOR = -1e38

# a deeper level gathers its rows where tiles that may matter are fewer than this share
GATHER_SHARE = 0.5

# where a scan is needed anyway, queries join it until alpha^2 / sigma^2 is so many times the SNR threshold of a level
JOIN_SCAN_FACTOR = 4.0

# what the parts of a search cost, measured on CPU. Rescoring one row for one query costs as much as this many entries
# of a dense product: measured 30 .. 50
RESCORE_COST = 40

# an upper logit costs, beside its product, as much as this many coordinates of a dense product: passes over it, and its
# part of the rows that are rescored
UPPER_LOGIT_COST = 700

# a scan costs as much as this many queries of it, before the first
SCAN_START_COST = 24


def screened(
    upper: UpperLogits,
    allowance: Allowance,
    *,
    limit: int | None = None,
    upper_logit_cost: int = UPPER_LOGIT_COST,
) -> Shortlist:
    """Return the shortlist of every query, from the level on that can help it.

    upper: upper logits of the batch. allowance: posterior mass that may be left out.
    limit: most rows to rescore for a query; None for as many as cost half of a dense scan. Queries that need more are
    pending. upper_logit_cost: cost of an upper logit, see UPPER_LOGIT_COST.
    Costs a product of each level it needs; memory is 28 MB of upper logits, or 128 n bytes where that is more.
    """
    search = _Search(upper, allowance, limit)
    entry = _entry_levels(upper, upper_logit_cost)
    parts: list[tuple[Int64[Tensor, "b"], Shortlist]] = []
    with ieee_products(upper.work.rows.device.type):
        for level in range(len(upper.screen.widths)):
            chunks = (entry == level).nonzero()[:, 0].split(upper.chunk)
            parts += [(index, _cascade(search.take(index), level)) for index in chunks if len(index)]
    return Shortlist.assembled(upper.work, parts)


def certified_share(upper: UpperLogits, level: int, mass: float) -> float:
    """Return the share of the queries of `upper` that this level alone certifies, in [0, 1].

    level: of the screen, the cheapest is 0. mass: posterior mass that may be left out. Costs a product of the level.
    """
    search, certified = _Search(upper, FixedAllowance(mass), None), 0
    with ieee_products(upper.work.rows.device.type):
        for index in torch.arange(len(upper), device=upper.work.rows.device).split(upper.chunk):
            found = _evaluate_level(search.take(index), level, _Remaining.everything(len(index), index.device))
            certified += int(found.few.sum())
    return certified / len(upper)


def below_thresholds(screen: Screen, query: Query, side: SideInformation) -> bool:
    """Return whether no level of `screen` is worth a try for any of the queries.

    query: the batch. side: what is known of it; sources may be known or not.
    """
    on_trajectory = side.shared_products is not None
    knowledge = (Knowledge.TRAJECTORY,) if on_trajectory else (Knowledge.NOTHING, Knowledge.SOURCE)
    least = min([math.inf, *(min(screen.thresholds[kind]) for kind in knowledge)])
    return not bool((_snr(query) >= least).any())


def _snr(query: Query) -> Float64[Tensor, "B"]:
    """Return alpha^2 / sigma^2, [B]."""
    return query.alpha.square() * query.inverse_variance


def _entry_levels(upper: UpperLogits, upper_logit_cost: int) -> Int64[Tensor, "B"]:
    """Return the first level that is worth trying for each query; the number of levels for those of a scan."""
    screen, snr = upper.screen, _snr(upper.work.query)[:, None]
    thresholds = torch.tensor(screen.thresholds, dtype=snr.dtype, device=snr.device)[upper.query_bound.knowledge]
    able = snr >= thresholds
    if not bool(able.any(1).all()):
        # those that must be scanned take others along for the price of their products alone
        able = snr >= JOIN_SCAN_FACTOR * thresholds
        able &= _saving(upper, able.sum(0), upper_logit_cost) > 0
    return torch.where(able.any(1), able.int().argmax(1), len(screen.widths))


def _saving(upper: UpperLogits, count: Int64[Tensor, "l"], upper_logit_cost: int) -> Int64[Tensor, "l"]:
    """Return what a scan saves, in entries of a dense product a row, where each level takes so many queries from it."""
    costs, dim = torch.tensor(upper.screen.costs, device=count.device), upper.work.rows.dim
    return count * (dim - costs - upper_logit_cost) - SCAN_START_COST * costs


@dataclass(frozen=True)
class _Search:
    """What is searched for: one batch of queries over one span, with the mass that may be left out of each.

    limit: most rows to rescore for a query, or None for what is cheap.
    """

    upper: UpperLogits
    allowance: Allowance
    limit: int | None

    def take(self, index: Int64[Tensor, "b"]) -> _Search:
        """Return the search for the queries in `index`, which rise."""
        if len(index) == len(self.upper):
            return self
        return replace(self, upper=self.upper.take(index), allowance=self.allowance.take(index))

    def most_rows(self, level: int, count: Int64[Tensor, "B"]) -> int:
        """Return how many rows of a query are rescored sooner than the next level, or half of a dense scan.

        count: rows that may matter to each query, at least. A scan left for few queries costs more for each of them.
        """
        if self.limit is not None:
            return self.limit
        costs, work = self.upper.screen.costs, self.upper.work
        if level + 1 < len(costs):
            return max(FIRST_ROWS, int(costs[level + 1] / work.rows.dim * len(work.span) / RESCORE_COST))
        base = max(FIRST_ROWS, int(0.5 * len(work.span) / RESCORE_COST))
        left = max(1, int((count > base).sum()))
        return int(base * (1.0 + SCAN_START_COST / left))


@dataclass(frozen=True)
class _Remaining:
    """The rows that earlier levels leave to a level, and what the rows they ruled out hold at most.

    rows: [n] int64, or None for the whole span. log_omitted: log of a bound on the sum of their weights, [B] float64.
    """

    rows: Int64[Tensor, "n"] | None
    log_omitted: Float64[Tensor, "B"]

    @classmethod
    def everything(cls, batch: int, device: torch.device) -> _Remaining:
        """Return the whole span."""
        return cls(None, torch.full((batch,), -torch.inf, dtype=torch.float64, device=device))

    def numbers(self, span: Span, position: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the rows of the data at positions among these; beyond the last, where nothing counts, any."""
        return position + span.start if self.rows is None else self.rows[position.clamp_max(len(self.rows) - 1)]


@dataclass(frozen=True)
class _Candidates:
    """The rows that can matter to each query, and what all other rows hold at most.

    pairs: of a query and such a row with its upper logit; only of queries that have few of them.
    floor: upper logit below which a row is left out, [B] float64.
    log_partition: log of the weights of the first rows, [B] float64, which bounds that of all rows from below.
    log_omitted: log of a bound on the sum of the weights of the rows in no pair, [B] float64.
    count: rows in pairs, [B]; for queries without pairs no more than what may matter to them.
    """

    pairs: Pairs
    floor: Float64[Tensor, "B"]
    log_partition: Float64[Tensor, "B"]
    log_omitted: Float64[Tensor, "B"]
    count: Int64[Tensor, "B"]

    def take(self, index: Int64[Tensor, "b"]) -> _Candidates:
        """Return those of the queries in `index`, [b] int64."""
        place = torch.full_like(self.count, -1).index_copy_(0, index, torch.arange(len(index), device=index.device))
        pairs = self.pairs.where(place[self.pairs.query] >= 0)
        pairs = replace(pairs, query=place[pairs.query])
        return _Candidates(
            pairs, self.floor[index], self.log_partition[index], self.log_omitted[index], self.count[index]
        )


@dataclass(frozen=True)
class _Level:
    """What one level tells of a batch of queries.

    remaining: the rows that it bounded. tiles: their upper logits in tiles of rows, [T, s, B] float32.
    floor: upper logit below which a row is left out, [B] float32.
    open_tiles: which tiles hold a row at or above it, [T, B].
    candidates: the rows at or above it. few: which queries have few enough of them to rescore them all, [B].
    """

    remaining: _Remaining
    tiles: Float[Tensor, "T s B"]
    floor: Float[Tensor, "B"]
    open_tiles: Bool[Tensor, "T B"]
    candidates: _Candidates
    few: Bool[Tensor, "B"]


def _cascade(search: _Search, level: int) -> Shortlist:
    """Return the shortlist of queries that enter at `level` and go on to the next while too many rows may matter."""
    work, last = search.upper.work, len(search.upper.screen.widths) - 1
    index = torch.arange(len(work.query), device=work.rows.device)
    remaining, parts = _Remaining.everything(len(index), index.device), []
    while True:
        found = _evaluate_level(search, level, remaining)
        few, many = found.few.nonzero()[:, 0], (~found.few).nonzero()[:, 0]
        if len(few):
            parts.append((index[few], _rescored(search.upper.work, found.candidates, few)))
        if len(many) == 0 or level == last:
            return Shortlist.assembled(work, parts)
        remaining = _remaining_after(found, many, work.span)
        search, index, level = search.take(many), index[many], level + 1


def _evaluate_level(search: _Search, level: int, remaining: _Remaining) -> _Level:
    """Return what this level tells of the queries of `search` from the rows in `remaining`."""
    upper, work = search.upper, search.upper.work
    tiles = upper.at(level, remaining.rows).unflatten(0, (-1, ROW_TILE))
    largest = tiles.amax(1)
    first = _first_rows_state(work, tiles, largest, remaining)
    log_partition = first.lse - query_term(work.query)
    floor = log_partition + (search.allowance(first).clamp_min(1e-300) / len(work.span)).log()
    # rounded down: comparisons and exponentials are in float32
    floor = (floor - 2.0**-22 * floor.abs()).clamp_min(LOWEST_FLOOR).float()
    # an open tile holds a row that may matter: these are at least so many rows
    open_tiles = largest >= floor
    count = open_tiles.sum(0)
    limit = search.most_rows(level, count)
    few = (count <= limit).nonzero()[:, 0]
    pairs, log_below = _rows_above(tiles, largest, floor, few)
    pairs = replace(pairs, row=remaining.numbers(work.span, pairs.row))
    count[few] = torch.bincount(pairs.query, minlength=len(count))[few]
    log_omitted = torch.logaddexp(remaining.log_omitted, log_below)
    candidates = _Candidates(pairs, floor.double(), log_partition, log_omitted, count)
    return _Level(remaining, tiles, floor, open_tiles, candidates, count <= limit)


def _first_rows_state(
    work: Work, tiles: Float[Tensor, "T s B"], largest: Float[Tensor, "T B"], remaining: _Remaining
) -> PosteriorState:
    """Return the state of the rows with the largest upper logits of each query, one a tile."""
    tile = largest.topk(min(FIRST_ROWS, len(largest)), dim=0).indices.T
    column = torch.arange(largest.shape[1], device=tile.device)[:, None].expand_as(tile)
    upper, offset = tiles[tile, :, column].max(2)
    row = remaining.numbers(work.span, tile * ROW_TILE + offset)
    counts = upper > -torch.inf
    pairs = Pairs(column[counts], row[counts], upper[counts].double())
    return pairs_state(work.rows, work.query, pairs, Wanted())


def _rows_above(
    tiles: Float[Tensor, "T s B"], largest: Float[Tensor, "T B"], floor: Float[Tensor, "B"], few: Int64[Tensor, "f"]
) -> tuple[Pairs, Float64[Tensor, "B"]]:
    """Return the pairs of the queries `few` with positions at or above the floor, and the log of what others hold.

    largest: of each tile. The log of the sum of the upper weights below the floor is -inf for queries not in `few`.
    """
    own = floor[few]
    is_open = largest[:, few] >= own
    # relative to the floor, below which all of these are: nothing overflows
    closed = ROW_TILE * _exp(largest[:, few] - own).masked_fill_(is_open, 0.0).sum(0)
    place, tile = is_open.T.nonzero().unbind(1)
    values = tiles[tile, :, few[place]] - own[place, None]
    above = values >= 0.0
    pair, offset = above.nonzero().unbind(1)
    logit = values[pair, offset].double() + own[place[pair]]
    below = closed.index_add_(0, place, _exp(values).masked_fill_(above, 0.0).sum(1))
    log_below = torch.full_like(floor, -torch.inf, dtype=torch.float64)
    # sums of float32 terms
    log_below[few] = own + (below.double() * (1.0 + 1e-4) + 1e-300).log()
    return Pairs(few[place[pair]], tile[pair] * ROW_TILE + offset, logit), log_below


def _remaining_after(level: _Level, index: Int64[Tensor, "b"], span: Span) -> _Remaining:
    """Return the rows that may matter to any of the queries in `index`, which the next level bounds."""
    remaining, log_omitted = level.remaining, level.remaining.log_omitted[index]
    tile = level.open_tiles[:, index].any(1).nonzero()[:, 0]
    # gathering rows costs a copy of their features: not worth it for most of them
    if len(tile) >= GATHER_SHARE * len(level.open_tiles):
        return _Remaining(remaining.rows, log_omitted)
    above = (level.tiles[tile][:, :, index] >= level.floor[index]).any(2)
    position = (tile[:, None] * ROW_TILE + torch.arange(ROW_TILE, device=tile.device))[above]
    total = len(span) if remaining.rows is None else len(remaining.rows)
    left_out = math.log(total - len(position)) if len(position) < total else -math.inf
    log_omitted = torch.logaddexp(log_omitted, level.floor[index].double() + left_out)
    return _Remaining(remaining.numbers(span, position), log_omitted)


def _rescored(work: Work, candidates: _Candidates, index: Int64[Tensor, "b"]) -> Shortlist:
    """Return the exact states of the candidates of the queries in `index`, which rise, and what all others hold."""
    if len(index) < len(work.query):
        work, candidates = work.take(index), candidates.take(index)
    pairs, log_dropped = _without_light_rows(work, candidates)
    state = pairs_state(work.rows, work.query, pairs, work.wanted)
    omitted = torch.logaddexp(candidates.log_omitted, log_dropped) + query_term(work.query)
    return Shortlist(state, omitted, candidates.count, torch.ones_like(omitted, dtype=torch.bool))


def _without_light_rows(work: Work, candidates: _Candidates) -> tuple[Pairs, Float64[Tensor, "B"]]:
    """Return the pairs that matter by float32 products of whole rows, and the log of what the others hold at most."""
    pairs, log_partition = candidates.pairs, candidates.log_partition
    logit = product_logits(work.rows, work.query, pairs)
    error = product_error(work.rows, work.query)
    best = torch.full_like(log_partition, -torch.inf).scatter_reduce_(0, pairs.query, logit, "amax") - error
    # the best of them often proves far more than the first rows did, and the allowance is shared by few rows
    sharing = torch.bincount(pairs.query, minlength=len(error)).clamp_min(1)
    raised = candidates.floor + (best - log_partition).clamp_min(0.0) + (len(work.span) / sharing).log()
    upper = (logit + error[pairs.query]) - raised[pairs.query]
    keep = upper >= 0.0
    rest = torch.zeros_like(raised).index_add_(0, pairs.query[~keep], upper[~keep].exp())
    return pairs.where(keep), raised + rest.log()


def _exp(difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    # in place and never below e^-80: results that underflow take many times as long
    return difference.clamp_(min=-80.0, max=80.0).exp_()
