"""The costs of a search and of a scan, timed on the rows themselves where a screen is prepared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from ....base.arrays import Float, Int64, Tensor
from ...common.matmul import ieee_products
from ...common.rescore import Pairs
from ...common.rows import Rows, Span
from ...common.search import Searched, SearchLimits
from ...common.state import Wanted
from ...common.work import Work
from ...native.scan import native_state
from ...pairs import pairs_state
from ..bounds.costs import FIRST_ROWS, SearchCosts
from ..bounds.query_bounds import Knowledge, SideInformation
from ..bounds.screen import Screen
from ..bounds.upper_bounds import UpperLogits
from ..searches.card_call import card_call_applies, searched_on_card
from ..searches.cascade import LOWEST_FLOOR, screened
from ..searches.one_call import one_call_applies, searched
from ..searches.shortlist import FixedAllowance
from ..searches.tiles import Remaining, TileBounds, tile_bounds
from .trials import TRIALS, Trials

# runs something and returns how many nanoseconds it takes
Stopwatch = Callable[[Callable[[], object]], float]

# how often something is run: the quickest counts, which a busy machine cannot make quicker
STOPWATCH_RUNS = 5

# values of the rows that are timed, and how many rows at least: 128 MB in float32
TIMED_VALUES, LEAST_ROWS = 1 << 25, 2048

# queries of a small batch, beside which a large one tells what each query costs: a query alone reads all rows
FEW = 1

# alpha^2 / sigma^2 of the queries in units of the variance: late, where few rows have weight
LATE = 100.0

# the same where many tiles are open, and where so many rows have to be scored that these take most of the time
MIDDLE, EARLY = 1.5, 0.1

# share of the rows whose tiles are open where these are timed, and the least that a cost may turn out to be
OPEN_SHARE, LEAST_COST = 1.0 / 64.0, 1e-3


def stopwatch(device: torch.device) -> Stopwatch:
    """Return what times work on `device`, the quickest of a few runs."""
    # what other processes take of a processor does not count for a single thread
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time_ns if alone else time.perf_counter_ns

    def nanoseconds(run: Callable[[], object]) -> float:
        """Return how long `run` takes, the quickest of STOPWATCH_RUNS."""
        taken = []
        for _ in range(STOPWATCH_RUNS):
            began = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(float(clock() - began))
        return min(taken)

    return nanoseconds


def timed_costs(rows: Rows, screen: Screen, watch: Stopwatch | None = None) -> SearchCosts:
    """Return what a search of `screen` and a scan of `rows` cost here, in nanoseconds.

    watch: times them; None for a clock. Costs some scans and searches of TRIALS queries.
    """
    bench = _Bench.of(rows, screen, watch or stopwatch(rows.device))
    with ieee_products(rows.device.type):
        count = len(bench.upper.work.span)
        scan_start, scan = bench.line(bench.scan)
        searches = [bench.line(partial(bench.search, level)) for level in range(len(screen.widths))]
        levels = [bench.level(level) for level in range(len(screen.widths))]
        together = one_call_applies(bench.upper) or card_call_applies(bench.upper)
        tile, row = bench.in_one_call() if together else (bench.tile(), bench.row())
        return SearchCosts(
            scan_start=scan_start / count,
            scan=max(scan / count, LEAST_COST),
            starts=tuple(start for start, _ in levels),
            levels=tuple(max(each, LEAST_COST) for _, each in levels),
            call=min(call for call, _ in searches),
            queries=tuple(query for _, query in searches),
            tile=max(tile, LEAST_COST),
            row=max(row, LEAST_COST),
        )


@dataclass(frozen=True)
class _Bench:
    """What is timed: `upper`, of late `trials` over some rows; `few`, of the first of them; `watch`, which times."""

    upper: UpperLogits
    few: UpperLogits
    watch: Stopwatch
    trials: Trials

    @classmethod
    def of(cls, rows: Rows, screen: Screen, watch: Stopwatch) -> _Bench:
        """Return what is timed of `screen` over the first of `rows`."""
        trials = Trials.drawn(rows, Knowledge.NOTHING, seed=0)
        span = Span(0, min(len(rows), max(LEAST_ROWS, TIMED_VALUES // rows.dim)))
        upper = UpperLogits.of(trials.work(LATE, span), screen, trials.side)
        return cls(upper, upper.take(torch.arange(FEW, device=rows.device)), watch, trials)

    def line(self, run: Callable[[UpperLogits], object]) -> tuple[float, float]:
        """Return what `run` costs for any batch, at least 0, and for each query."""
        many, few = (self.watch(partial(run, upper)) for upper in (self.upper, self.few))
        each = max(many - few, 0.0) / (TRIALS - FEW)
        return max(few - FEW * each, 0.0), each

    def scan(self, upper: UpperLogits) -> object:
        """Scan the rows for the queries of `upper`."""
        return native_state(upper.work)

    @property
    def short(self) -> Span:
        """So few rows that only what a batch costs beside them counts."""
        span = self.upper.work.span
        return Span(span.start, min(span.stop, span.start + FIRST_ROWS))

    def search(self, level: int, upper: UpperLogits) -> object:
        """Search a few rows for the queries of `upper` from this level on."""
        work = Work(upper.work.rows, upper.work.query, self.short)
        entry = torch.full_like(work.query.alpha, level, dtype=torch.int64)
        part = UpperLogits.of(work, upper.screen, SideInformation(), level)
        return screened(part, FixedAllowance(1e-6), entry=entry, limit=FIRST_ROWS)

    def level(self, level: int) -> tuple[float, float]:
        """Return what it costs to bound a row by this level: for any batch, at least 0, and for each query.

        The coefficients of the queries are known before.
        """
        many, few = (self._level_rows(upper.for_level(level), level) for upper in (self.upper, self.few))
        each = (many - few) / (TRIALS - FEW)
        return max(few - FEW * max(each, LEAST_COST), 0.0), each

    def _level_rows(self, upper: UpperLogits, level: int) -> float:
        """Return what it costs to bound a row by this level for the queries of `upper`."""
        bound, everything = upper.query_bound, Remaining.everything(len(upper), upper.work.rows.device)
        taken = []
        for span in (upper.work.span, self.short):
            looked = replace(upper, work=replace(upper.work, span=span))
            vars(looked)["query_bound"] = bound
            on_card = partial(_searched, looked, level, SearchLimits(0, 0))
            run = on_card if card_call_applies(looked) else partial(tile_bounds, looked, level, everything)
            taken.append(self.watch(run))
        return (taken[0] - taken[1]) / max(1, len(upper.work.span) - len(self.short))

    def tile(self) -> float:
        """Return what it costs to look into a tile that is open, where many queries have some."""
        upper, device = self.upper.for_level(0), self.upper.work.rows.device
        values = upper.at(0)[: len(upper.work.span)]
        tiles = tile_bounds(upper, 0, Remaining.everything(len(upper), device))
        floor = values.topk(max(1, int(OPEN_SHARE * len(values))), dim=0).values[-1].clamp_min(LOWEST_FLOOR)
        none, index = torch.full_like(floor, torch.inf), torch.arange(len(upper), device=device)
        count = max(1, int(tiles.open_tiles(floor).sum()))
        some, least = (self.watch(partial(_looked, tiles, at, index)) for at in (floor, none))
        return (some - least) / count

    def row(self) -> float:
        """Return what it costs to score a row again for a query."""
        lists = [self._pairs(each) for each in (FIRST_ROWS, 1)]
        many, one = (self.watch(partial(self._score, pairs)) for pairs in lists)
        return (many - one) / (TRIALS * (FIRST_ROWS - 1))

    def in_one_call(self) -> tuple[float, float]:
        """Return what an open tile and a row that is scored cost where one call does all."""
        found: list[Searched] = []
        taken: list[float] = []
        for scaled in (LATE, MIDDLE, EARLY):
            upper = UpperLogits.of(self.trials.work(scaled, self.upper.work.span), self.upper.screen, self.trials.side)
            run = partial(_searched, upper, 0, SearchLimits())
            taken.append(self.watch(run))
            found.append(run())
        opened = [max(1, int(one.opened.sum())) for one in found]
        scored = [max(1, int(one.scored.sum())) for one in found]
        tile = max((taken[1] - taken[0]) / opened[1], LEAST_COST)
        return tile, (taken[2] - taken[0] - tile * opened[2]) / scored[2]

    def _pairs(self, each: int) -> Pairs:
        """Return so many rows for every query, `each`, spread over all of them."""
        work = self.upper.work
        query = torch.arange(TRIALS, device=work.rows.device).repeat_interleave(each)
        row = torch.arange(len(query), device=query.device) * 7919 % len(work.span)
        return Pairs(query, row, torch.zeros(len(query), dtype=torch.float64, device=query.device))

    def _score(self, pairs: Pairs) -> object:
        work = self.upper.work
        return pairs_state(work.rows, work.query, pairs, Wanted())


def _searched(upper: UpperLogits, level: int, limits: SearchLimits) -> Searched:
    """Return what one call finds from this level on, at this level alone on a card."""
    allowance = FixedAllowance(1e-6)
    if card_call_applies(upper):
        return searched_on_card(upper, allowance, {level: limits})
    return searched(upper, level, allowance, limits)


def _looked(tiles: TileBounds, floor: Float[Tensor, "B"], index: Int64[Tensor, "B"]) -> object:
    """Look into the tiles of queries that reach their floors."""
    tiles.open_tiles(floor)
    return tiles.above(floor, index)
