"""From upper logits to the few rows that matter: a query passes through the levels of a screen, the cheapest first.

It goes on until so few rows can still matter that rescoring them is cheap. Those are scored again in float64; the
weight of all others is bounded by the sum of their upper weights exp(upper logit).
Upper logits, floors and bounds in here lack -|q|^2 / 2 sigma^2, which all rows of a query share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ....base.arrays import Bool, Float, Float64, Int64, Shaped, Tensor
from ...common.matmul import ieee_products
from ...common.rescore import Pairs, product_error, product_logits
from ...common.rows import Query
from ...common.search import Searched, SearchLimits
from ...common.state import Wanted
from ...common.work import Work
from ...gpu import gpu_proven
from ...native.screens import TILE
from ...pairs import pairs_state
from ..bounds.costs import FIRST_ROWS
from ..bounds.screen import Screen
from ..bounds.upper_bounds import UpperLogits, chunk_of
from .card_call import card_call_applies, card_chunk, searched_on_card
from .one_call import one_call_applies, searched
from .shortlist import Allowance, FixedAllowance, Shortlist, common_term, query_term
from .tiles import Remaining, TileBounds, tile_bounds

# floor of queries without a row that counts: finite, so that differences of infinities do not arise
LOWEST_FLOOR = -1e38


def screened(
    upper: UpperLogits,
    allowance: Allowance,
    *,
    entry: Shaped[Tensor, "B"] | None = None,
    limit: int | None = None,
) -> Shortlist:
    """Return the shortlist of every query, from the level on that can help it.

    upper: upper logits of the batch. allowance: posterior mass that may be left out.
    entry: the level that each query enters at, [B], see :func:`entry_levels`, or None for the cheapest.
    limit: most rows to rescore for a query; None for as many as cost half of a dense scan. Queries that need more are
    pending.
    Costs a product of each level it needs; memory is 28 MB of upper logits, or 128 n bytes where that is more.
    """
    search, one_call = _Search(upper, allowance, limit), one_call_applies(upper)
    if card_call_applies(upper):
        return _on_card(search, entry)
    found, chunk = (_one_call, chunk_of(len(upper.work.span) // TILE)) if one_call else (_cascade, upper.chunk)
    if entry is None:
        entry = torch.zeros(len(upper), dtype=torch.int64, device=upper.work.rows.device)
    parts: list[tuple[Int64[Tensor, "b"], Shortlist]] = []
    with ieee_products(upper.work.rows.device.type):
        for level in range(len(upper.screen.widths)):
            chunks = (entry == level).nonzero()[:, 0].split(chunk)
            parts += [(index, found(search.take(index), level)) for index in chunks if len(index)]
    return Shortlist.assembled(upper.work, parts)


@dataclass(frozen=True)
class Tried:
    """What a level did for some queries: the share of them that it certified, in [0, 1], and what that cost.

    cost: of the tiles and rows that it looked at, for each query and row, in the unit of the costs of the screen.
    complete: whether one call does all that deeper levels do, too.
    """

    share: float
    cost: float
    complete: bool = False


def tried(upper: UpperLogits, level: int, mass: float) -> Tried:
    """Return what a level alone does for the queries of `upper`.

    level: of the screen, the cheapest is 0. mass: posterior mass that may be left out. Costs a product of the level.
    """
    search, certified, spent = _Search(upper, FixedAllowance(mass), None), 0, 0.0
    on_card = card_call_applies(upper)
    one_call = not on_card and one_call_applies(upper)
    with ieee_products(upper.work.rows.device.type):
        chunk = chunk_of(len(upper.work.span) // TILE) if one_call or on_card else upper.chunk
        for index in torch.arange(len(upper), device=upper.work.rows.device).split(chunk):
            part = search.take(index)
            if one_call or on_card:
                share, cost = part.in_one_call(level)
            else:
                found = _evaluate_level(part, level, Remaining.everything(len(index), index.device))
                share, cost = int(found.few.sum()), found.cost
            certified, spent = certified + share, spent + cost
    return Tried(certified / len(upper), spent / (len(upper) * max(1, len(upper.work.span))), one_call)


def entry_levels(screen: Screen, query: Query, knowledge: Int64[Tensor, "B"], rows: int) -> Int64[Tensor, "B"]:
    """Return the first level that is worth trying for each query, [B]; the number of levels for those of a scan.

    screen: with its thresholds and costs. query: the batch. knowledge: what is known of each query, values of
    Knowledge, [B]. rows: how many are searched. Where so few queries reach a threshold that a scan of them is cheaper
    than a search, all are for a scan.
    """
    levels, snr = len(screen.widths), query.alpha.square() * query.inverse_variance
    thresholds = torch.tensor(screen.thresholds, dtype=snr.dtype, device=snr.device)[knowledge]
    able = snr[:, None] >= thresholds
    entry = torch.where(able.any(1), able.int().argmax(1), levels)
    *entering, scanned = torch.bincount(entry, minlength=levels + 1).tolist()
    worthwhile = screen.costs.saved(entering, rows, everyone=scanned == 0) > 0.0
    return entry if worthwhile else torch.full_like(entry, levels)


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

    def most(self, level: int, count: Int64[Tensor, "B"]) -> tuple[int, int]:
        """Return how many tiles and how many rows of a query may be looked at: the limit, where there is one.

        Else as many as cost less than the next level, or half of a dense scan. count: tiles that may matter to each
        query. Either costs more for each query where it is left for few of them.
        """
        if self.limit is not None:
            return self.limit, self.limit
        costs, rows = self.upper.screen.costs, len(self.upper.work.span)
        each, _ = costs.beyond(level, rows)
        limits = costs.level_limits(level, rows, max(1, int((count > max(FIRST_ROWS, each / costs.tile)).sum())))
        return limits.tiles, limits.rows

    def searched(self, level: int) -> Searched:
        """Return what one call finds from this level on, at this level alone on a card."""
        costs, rows = self.upper.screen.costs, len(self.upper.work.span)
        if card_call_applies(self.upper):
            return searched_on_card(self.upper, self.allowance, self.card_limits([level]))
        limits = SearchLimits(self.limit, self.limit) if self.limit is not None else costs.limits(rows)
        return searched(self.upper, level, self.allowance, limits)

    def card_limits(self, levels: Iterable[int]) -> dict[int, SearchLimits]:
        """Return from how many tiles and rows on a card leaves a query to what follows each of the `levels`."""
        costs, rows = self.upper.screen.costs, len(self.upper.work.span)
        if self.limit is not None:
            return dict.fromkeys(levels, SearchLimits(self.limit, self.limit))
        return {level: costs.level_limits(level, rows, len(self.upper)) for level in levels}

    def in_one_call(self, level: int) -> tuple[int, float]:
        """Return how many queries one call certifies from this level on, and what that costs beside its product."""
        found, costs = self.searched(level), self.upper.screen.costs
        cost = costs.tile * float(found.opened.sum()) + costs.row * float(found.scored.sum())
        return int(found.found.sum()), cost


def _one_call(search: _Search, level: int) -> Shortlist:
    """Return the shortlist of queries that enter at `level` by one call of the native library."""
    found = search.searched(level)
    return Shortlist(found.state, found.log_omitted, found.survivors, found.found.bool())


def _on_card(search: _Search, entry: Shaped[Tensor, "B"] | None) -> Shortlist:
    """Return the shortlist of all queries by one search on a card, or by one for each of some chunks of them."""
    upper, chunk = search.upper, card_chunk(search.upper)
    with ieee_products(upper.work.rows.device.type):
        if len(upper) <= chunk:
            limits = search.card_limits(range(upper.level, len(upper.screen.widths)))
            found = searched_on_card(upper, search.allowance, limits, entry)
            return Shortlist(found.state, found.log_omitted, found.survivors, found.found.bool(), found.pending)
        chunks = torch.arange(len(upper), device=upper.work.rows.device).split(chunk)
        parts = [(index, _on_card(search.take(index), None if entry is None else entry[index])) for index in chunks]
    return Shortlist.assembled(upper.work, parts)


@dataclass(frozen=True)
class _Candidates:
    """The rows that can matter to each query, and what all other rows hold at most.

    pairs: of a query and such a row with its upper logit; only of queries that have few of them.
    floor: upper logit below which a row is left out, [B] float64.
    log_partition: log of the weights of the first rows, [B] float64, which bounds that of all rows from below.
    log_omitted: log of a bound on the sum of the weights of the rows in no pair, [B] float64.
    count: rows in pairs, [B]; for queries without pairs no more than what may matter to them.
    error: how far the logits of pairs are above true ones at most, [B] float64, or None where that is not known.
    """

    pairs: Pairs
    floor: Float64[Tensor, "B"]
    log_partition: Float64[Tensor, "B"]
    log_omitted: Float64[Tensor, "B"]
    count: Int64[Tensor, "B"]
    error: Float64[Tensor, "B"] | None

    def take(self, index: Int64[Tensor, "b"]) -> _Candidates:
        """Return those of the queries in `index`, [b] int64."""
        place = torch.full_like(self.count, -1).index_copy_(0, index, torch.arange(len(index), device=index.device))
        pairs = self.pairs.where(place[self.pairs.query] >= 0)
        pairs = replace(pairs, query=place[pairs.query])
        error = None if self.error is None else self.error[index]
        floor, log_partition, log_omitted = self.floor[index], self.log_partition[index], self.log_omitted[index]
        return _Candidates(pairs, floor, log_partition, log_omitted, self.count[index], error)


@dataclass(frozen=True)
class _Level:
    """What one level tells of a batch of queries.

    bounds: of the rows that were left to it. floor: upper logit below which a row is left out, [B] float32.
    candidates: the rows at or above it. few: which queries have few enough of them to rescore them all, [B].
    cost: beside the product, in the unit of the costs of the screen.
    """

    bounds: TileBounds
    floor: Float[Tensor, "B"]
    candidates: _Candidates
    few: Bool[Tensor, "B"]
    cost: float


def _cascade(search: _Search, level: int) -> Shortlist:
    """Return the shortlist of queries that enter at `level` and go on to the next while too many rows may matter."""
    work, last = search.upper.work, len(search.upper.screen.widths) - 1
    index = torch.arange(len(work.query), device=work.rows.device)
    remaining, parts = Remaining.everything(len(index), index.device), []
    while True:
        found = _evaluate_level(search, level, remaining)
        few, many = found.few.nonzero()[:, 0], (~found.few).nonzero()[:, 0]
        if len(few):
            parts.append((index[few], _rescored(search.upper.work, found.candidates, few)))
        if len(many) == 0 or level == last:
            return Shortlist.assembled(work, parts)
        remaining = found.bounds.left(found.floor, many)
        search, index, level = search.take(many), index[many], level + 1


def _evaluate_level(search: _Search, level: int, remaining: Remaining) -> _Level:
    """Return what this level tells of the queries of `search` from the rows in `remaining`."""
    work = search.upper.work
    bounds = tile_bounds(search.upper.for_level(level), level, remaining)
    first = pairs_state(work.rows, work.query, bounds.promising(FIRST_ROWS), Wanted())
    log_partition = first.lse - query_term(work.query)
    floor = log_partition + (search.allowance(first).clamp_min(1e-300) / len(work.span)).log()
    # rounded down: comparisons and exponentials are in float32
    floor = (floor - 2.0**-22 * floor.abs()).clamp_min(LOWEST_FLOOR).float()
    # an open tile holds a row that may matter: these are at least so many rows
    count = bounds.open_tiles(floor)
    tiles, rows = search.most(level, count)
    few = (count <= tiles).nonzero()[:, 0]
    cost = search.upper.screen.costs.tile * float(count[few].sum())
    pairs, log_below = bounds.above(floor, few)
    count[few] = torch.bincount(pairs.query, minlength=len(count))[few]
    log_omitted = torch.logaddexp(remaining.log_omitted, log_below)
    candidates = _Candidates(pairs, floor.double(), log_partition, log_omitted, count, bounds.pair_error)
    if bounds.pair_error is not None:
        candidates = _without_light_rows(work, candidates)
        count[few] = candidates.count[few]
    enough = torch.zeros_like(count, dtype=torch.bool).index_fill_(0, few, value=True) & (count <= rows)
    cost += search.upper.screen.costs.row * float(count[enough].sum())
    return _Level(bounds, floor, candidates, enough, cost)


def _rescored(work: Work, candidates: _Candidates, index: Int64[Tensor, "b"]) -> Shortlist:
    """Return the exact states of the candidates of the queries in `index`, which rise, and what all others hold."""
    if len(index) < len(work.query):
        work, candidates = work.take(index), candidates.take(index)
    # a card scores all of them in float64 as soon as it would find the light ones in float32
    if candidates.error is None and not gpu_proven(work.rows, "late"):
        candidates = _without_light_rows(work, candidates)
    state = pairs_state(work.rows, work.query, candidates.pairs, work.wanted)
    omitted = candidates.log_omitted + common_term(work.rows, work.query)
    return Shortlist(state, omitted, candidates.count, torch.ones_like(omitted, dtype=torch.bool))


def _without_light_rows(work: Work, candidates: _Candidates) -> _Candidates:
    """Return the pairs that matter by products of whole rows; what the others hold at most is omitted."""
    pairs, log_partition, error = candidates.pairs, candidates.log_partition, candidates.error
    if error is None:
        error = product_error(work.rows, work.query)
        logit = product_logits(work.rows, work.query, pairs)
        upper = logit + error[pairs.query]
        best = torch.full_like(log_partition, -torch.inf).scatter_reduce_(0, pairs.query, logit, "amax") - error
    else:
        upper = pairs.logit
        best = torch.full_like(log_partition, -torch.inf).scatter_reduce_(0, pairs.query, upper, "amax") - error
    # the best of them often proves far more than the first rows did, and the allowance is shared by few rows
    sharing = torch.bincount(pairs.query, minlength=len(error)).clamp_min(1)
    raised = candidates.floor + (best - log_partition).clamp_min(0.0) + (len(work.span) / sharing).log()
    above = upper - raised[pairs.query]
    keep = above >= 0.0
    rest = torch.zeros_like(raised).index_add_(0, pairs.query[~keep], above[~keep].exp())
    omitted = torch.logaddexp(candidates.log_omitted, raised + rest.log())
    count = candidates.count
    if candidates.error is not None:
        count = torch.bincount(pairs.query[keep], minlength=len(error))
    return replace(candidates, pairs=pairs.where(keep), log_omitted=omitted, count=count)
