"""Upper logits of a screen beside the logits they bound, and queries that know what they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from closed_form import near_duplicates, normal, stored_as
from row_cases import centred, make_query, whole
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    Work,
    prepare_rows,
    reference_logits,
    reference_state,
)
from oracle_engine.kernels.common.search import Mass
from oracle_engine.kernels.reference import state_from_logits
from oracle_engine.kernels.screens import FixedAllowance, Shortlist, screened
from oracle_engine.kernels.screens.bounds.query_bounds import SideInformation, Source
from oracle_engine.kernels.screens.bounds.screen import Screen, no_thresholds
from oracle_engine.kernels.screens.bounds.upper_bounds import ROW_TILE, UpperLogits
from oracle_engine.kernels.screens.kinds.exact8 import stored_screen
from oracle_engine.kernels.screens.kinds.int8 import code_screen
from oracle_engine.kernels.screens.kinds.pca import PrincipalScreen, principal_screen
from oracle_engine.kernels.screens.kinds.pca8 import leading_code_screen
from oracle_engine.kernels.screens.kinds.principal_coordinates import row_features
from oracle_engine.kernels.screens.searches.tiles import KernelTiles, Remaining, tile_bounds

TIMES = (0.0, 1e-6, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)

UNKNOWN = SideInformation()

Find = Callable[[UpperLogits], Shortlist]


def whole_logits(rows: Rows, query: Query) -> Tensor:
    """Return the logits [N, B] in float64, up to -|q|^2 / 2 sigma^2; -inf inside excluded ranges."""
    logits = query.gain * (centred(rows) @ query.point.T - query.alpha * rows.half_norms[:, None])
    if rows.log_weights is not None:
        logits = logits + rows.log_weights[:, None]
    row = torch.arange(len(rows))[:, None, None]
    inside = ((row >= query.excluded[:, :, 0]) & (row < query.excluded[:, :, 1])).any(2)
    return logits.masked_fill(inside, -torch.inf)


def slack(
    rows: Rows, screen: Screen, query: Query, side: SideInformation = UNKNOWN, *, span: Span | None = None
) -> list[Tensor]:
    """Return upper logit minus logit [n, B] of every level, after a check of its shape and of what does not count."""
    span = span or whole(rows)
    logits = whole_logits(rows, query)[span.start : span.stop]
    upper, found = UpperLogits.of(Work(rows, query, span), screen, side), []
    for level in range(len(screen.widths)):
        values = upper.for_level(level).at(level).double()
        assert len(values) % ROW_TILE == 0
        assert bool((values[len(span) :] == -torch.inf).all())
        values = values[: len(span)]
        counts = torch.isin(logits, torch.tensor(-torch.inf, dtype=torch.float64), invert=True)
        if rows.log_weights is None:
            assert torch.equal(values > -torch.inf, counts)
        found.append(torch.where(counts, values - logits, 0.0))
    return found


def assert_bounded(
    rows: Rows, screen: Screen, query: Query, side: SideInformation = UNKNOWN, *, span: Span | None = None
) -> None:
    for level, above in enumerate(slack(rows, screen, query, side, span=span)):
        assert bool((above >= 0.0).all()), f"level {level}: a logit is {-float(above.min()):.3g} above its bound"


def noised(
    rows: Rows, t: float, draws: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Query, Source, Tensor]:
    """Return queries x = t X + (1 - t) noise rounded to `dtype`, their sources, and norms of the rounding."""
    row = torch.randint(len(rows), (draws,), generator=generator)
    times = torch.full((draws,), t, dtype=torch.float64)
    x = (t * centred(rows)[row] + (1 - t) * normal(draws, rows.dim, generator)).to(dtype).double()
    query = Query(x, times, (1 - times).pow(-2), torch.zeros(draws, 0, 2).long())
    blur = 0.5 * torch.finfo(dtype).eps * x.norm(dim=1)
    return query, Source(row, torch.zeros_like(blur), 1e-6), blur


def assert_bounded_everywhere(rows: Rows, screen: Screen, generator: torch.Generator) -> None:
    """Check bounds for queries on the path, over a part of the rows, on rows, and far from all of them."""
    count, query = len(rows), make_query(rows, generator, batch=16, times=TIMES, excluded=2)
    assert_bounded(rows, screen, query)
    if count > 2:
        assert_bounded(rows, screen, query, span=Span(count // 3, count - 1))
    on_a_row = replace(query, point=query.alpha[:, None] * centred(rows)[torch.arange(16) % count])
    assert_bounded(rows, screen, on_a_row)
    # as far from all rows as queries get, and noise that no row has made
    assert_bounded(rows, screen, replace(query, point=100 * normal(16, rows.dim, generator)))


def made(kind: str, rows: Rows) -> Screen:
    """Return a screen of this kind; of codes where the rows cannot be their own."""
    if kind == "pca8" and min(len(rows), rows.dim) >= 40:
        return leading_code_screen(rows, (24, 40), product_cost=0.5)
    if kind.startswith("pca"):
        most = min(len(rows), rows.dim, 16)
        return principal_screen(rows, sorted({max(1, most // 4), most}))
    eight = rows.stored.dtype in (torch.uint8, torch.int8)
    # integers are asked for whatever they cost here
    return stored_screen(rows, 0.5) if kind == "exact8" and eight else code_screen(rows, product_cost=0.5)


def assert_tiles_bounded(tiles: KernelTiles, upper: UpperLogits, floor: Tensor, height: int) -> None:
    """Compare what a level says of tiles, of rows above a floor and of all others with the logits in float64.

    height: rows of a tile.
    """
    span = upper.work.span
    logits = whole_logits(upper.work.rows, upper.work.query)[span.start : span.stop]
    largest = tiles.level.largest[:, : len(upper)].double()
    padded = torch.nn.functional.pad(logits, (0, 0, 0, -len(span) % height), value=-torch.inf)
    assert bool((largest >= padded.unflatten(0, (-1, height)).amax(1)).all())
    reached = tiles.open_tiles(floor)
    assert torch.equal(reached, (largest >= floor).sum(0))
    pairs, log_below = tiles.above(floor, torch.arange(len(upper)))
    found = torch.zeros_like(logits, dtype=torch.bool)
    found[pairs.row - span.start, pairs.query] = True
    assert bool(found[logits >= floor].all())
    assert bool((logits.masked_fill(found, -torch.inf).logsumexp(0) <= log_below).all())
    if tiles.pair_error is not None:
        true = logits[pairs.row - span.start, pairs.query]
        assert bool((pairs.logit >= true).all())
        assert bool((pairs.logit - tiles.pair_error[pairs.query] <= true).all())


def kernel_tiles(upper: UpperLogits, level: int, remaining: Remaining | None = None) -> KernelTiles:
    """Return what kernels tell of a level: of all rows, or of what `remaining` leaves."""
    everything = Remaining.everything(len(upper), torch.device("cpu"))
    found = tile_bounds(upper.for_level(level), level, remaining or everything)
    assert isinstance(found, KernelTiles)
    return found


def assert_deeper_levels_look_at_open_tiles(
    tiles_of: Callable[..., KernelTiles], generator: torch.Generator, *, below: float, height: int
) -> None:
    """Close tiles at a floor so far `below` the best logit: the next level leaves them out, and they are bounded.

    tiles_of: as :func:`kernel_tiles`. height: rows of a tile.
    """
    rows = prepare_rows(normal(600, 48, generator).float(), None)
    query = make_query(rows, generator, 20, (0.8,))
    upper, logits = (
        UpperLogits.of(Work(rows, query, whole(rows)), made("pca", rows), UNKNOWN),
        whole_logits(rows, query),
    )
    first, floor, index = tiles_of(upper, 0), (logits.amax(0) - below).float(), torch.tensor([0, 3, 4, 19])
    first.open_tiles(floor)
    left = first.left(floor, index)
    deeper = tiles_of(upper.take(index), 1, left).level.largest[:, : len(index)]
    closed = first.level.largest[:, index] < floor[index]
    assert 0.1 < float(closed.double().mean()) < 1.0
    assert bool((deeper[closed] == -torch.inf).all())
    padded = torch.nn.functional.pad(logits[:, index], (0, 0, 0, -len(rows) % height), value=-torch.inf)
    held = padded.unflatten(0, (-1, height)).masked_fill(~closed[:, None], -torch.inf)
    assert bool((held.flatten(0, 1).logsumexp(0) <= left.log_omitted).all())


def assert_shortlists_follow_the_formula(kind: str, dtype: torch.dtype, batch: int, generator: torch.Generator) -> None:
    """Compare the shortlists of a screen of `kind`, over samples of which many nearly equal others, with float64."""
    rows = prepare_rows(stored_as(near_duplicates(200, 48, generator), dtype), None)
    query = make_query(rows, generator, batch, (0.6, 0.9, 0.99))
    work = Work(rows, query, whole(rows), Wanted(moments=True))
    found = screened(UpperLogits.of(work, made(kind, rows), UNKNOWN), FixedAllowance(1e-9), limit=100)
    some = found.certified
    assert float(some.double().mean()) > 0.5
    truth = reference_state(work)
    assert_close(found.state.lse[some], truth.lse[some], "moment")
    assert_rows_close(found.state.mean[some], truth.mean[some], "mean", rows.radius)
    assert bool((found.log_omitted[some] <= truth.lse[some]).all())


def wanting(upper: UpperLogits, top_k: int) -> UpperLogits:
    """Return the upper logits for a search that names so many rows of each query."""
    return replace(upper, work=replace(upper.work, wanted=Wanted(top_k=top_k)))


def assert_honest(upper: UpperLogits, find: Find) -> Shortlist:
    """Return the shortlist, after a comparison of what it says of certified queries with the truth in float64."""
    rows, span = upper.work.rows, upper.work.span
    # as many names as rows: every row that was rescored is named
    found = find(wanting(upper, len(span)))
    logits = reference_logits(rows, upper.work.query, span)
    samples = rows.gather(torch.arange(span.start, span.stop)) - rows.centre
    truth = state_from_logits(logits, samples, span, Wanted())
    named = found.state.top_rows
    kept = torch.zeros(len(logits), len(span) + 1, dtype=torch.bool)
    kept = kept.scatter_(1, torch.where(named < 0, len(span), named - span.start), value=True)[:, :-1]
    some = found.certified
    left_out = logits.masked_fill(kept, -torch.inf).logsumexp(1)
    assert bool((left_out <= found.log_omitted)[some].all())
    assert_close(found.state.lse[some], logits.masked_fill(~kept, -torch.inf).logsumexp(1)[some], "moment")
    assert bool((kept.sum(1) <= found.survivors)[some].all())
    omitted = torch.sigmoid(found.log_omitted - found.state.lse)
    error = (found.state.mean - truth.mean).norm(dim=1)
    allowed = omitted * (rows.radius + found.state.mean.norm(dim=1)) + 1e-9 * rows.stored_radius
    assert bool((error <= allowed)[some].all())
    assert_untouched(found, ~some)
    return found


def assert_untouched(found: Shortlist, which: Tensor) -> None:
    """What is pending says so: nothing rescored, everything left out."""
    assert bool((found.log_omitted[which] == torch.inf).all())
    assert bool((found.state.lse[which] == -torch.inf).all())
    assert bool((found.survivors[which] == 0).all())


@dataclass(frozen=True)
class Masses:
    """A mass of its own for each query."""

    mass: Tensor

    def take(self, index: Tensor) -> Masses:
        return Masses(self.mass[index])

    def __call__(self, state: PosteriorState) -> Tensor:
        assert len(state.lse) == len(self.mass)
        return self.mass

    def allowed(self, batch: int, device: torch.device) -> Mass:
        assert batch == len(self.mass)
        return Mass(self.mass)


def ruled_out_by_the_first_level() -> UpperLogits:
    """Return the upper logits of a query to which 64 rows are left by the first level, which rules out all others."""
    # a query at 3 e_20, 40 rows there, 24 rows that only the second level tells from them (shorter, so that a row at
    # the query leads), and 576 rows that the first level rules out: each weighs little, together they are nearly all
    # that is left out
    axes = torch.eye(48, dtype=torch.float64)
    stored = torch.cat([3.0 * axes[[20] * 40], 2.9 * axes[[30] * 24], 2.4 * axes[[1] * 576]]).float()
    half_norms = 0.5 * stored.double().square().sum(1)
    rows = Rows(stored, torch.zeros(48, dtype=torch.float64), half_norms, None, 3.0, 3.0)
    ones = torch.ones(1, dtype=torch.float64)
    query = Query(3.0 * axes[20:21], ones, ones, torch.zeros(1, 0, 2).long())
    features = row_features(rows, axes, (8, 48), whole(rows))
    screen = PrincipalScreen(thresholds=no_thresholds(2), dim=48, basis=axes, widths=(8, 48), features=features)
    return UpperLogits.of(Work(rows, query, whole(rows)), screen, UNKNOWN)
