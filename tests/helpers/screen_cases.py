"""Upper logits of a screen beside the logits they bound, and queries that know what they were made from."""

from __future__ import annotations

from dataclasses import replace

import torch
from closed_form import normal
from row_cases import centred, make_query, whole
from torch import Tensor

from oracle_engine.kernels import Query, Rows, Span, Work
from oracle_engine.kernels.screens.query_bounds import SideInformation, Source
from oracle_engine.kernels.screens.screen import Screen
from oracle_engine.kernels.screens.upper_bounds import ROW_TILE, UpperLogits

TIMES = (0.0, 1e-6, 0.05, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4)

UNKNOWN = SideInformation()


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
