"""Rows drawn at random: uniformly or by weight, one after the other or all different."""

from __future__ import annotations

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..data.dataset import OracleDataset
from ..kernels import Span


def uniforms(count: int, generator: torch.Generator | None, device: torch.device) -> Float64[Tensor, "n"]:
    """Return independent uniform numbers in [0, 1).

    count: how many, at least 0.
    generator: of the numbers, on any device: they are drawn there and moved. None for the global one of `device`.
    device: of the result.
    Returns [count] float64.
    """
    place = device if generator is None else generator.device
    return torch.rand(count, generator=generator, device=place, dtype=torch.float64).to(device)


def equally_weighted(data: OracleDataset, span: Span) -> bool:
    """Return whether all samples of a span count alike.

    data: the samples. span: some of their rows, at least one. Costs a pass over the weights, where there are any.
    """
    if data.rows.log_weights is None:
        return True
    weights = data.rows.log_weights[span.start : span.stop]
    return bool((weights == weights[0]).all())


def draw_references(
    data: OracleDataset, span: Span, count: int, generator: torch.Generator | None
) -> Int64[Tensor, "n"]:
    """Return rows of a span in random order: different ones where its samples count alike, else drawn by weight.

    data: the samples.
    span: the rows to draw from, such as those of a class.
    count: how many rows, at least 0; at most len(span) where the samples count alike.
    generator: of the draws, on any device; None for the global one.
    Returns [count] int64 in [span.start, span.stop). With equal weights every ordered choice of `count` different rows
    is equally likely; with others the rows are independent and may repeat. Costs count log(count) operations, and
    as many as the span has rows where there are weights or where half of them are drawn.
    """
    if equally_weighted(data, span):
        return span.start + _distinct(len(span), count, generator, data.device)
    weights = data.rows.log_weights
    assert weights is not None
    place = uniforms(count, generator, data.device)
    return span.start + inverted(weights[None, span.start : span.stop].exp(), place[None])[0]


def _distinct(size: int, count: int, generator: torch.Generator | None, device: torch.device) -> Int64[Tensor, "n"]:
    """Return `count` different numbers below `size` in random order, each ordered choice equally likely."""
    if 2 * count >= size:
        return uniforms(size, generator, device).argsort()[:count]
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while len(drawn) < count:
        more = (uniforms(count, generator, device) * size).long().clamp_max(size - 1)
        drawn = _first_occurrences(torch.cat([drawn, more]))
    return drawn[:count]


def _first_occurrences(values: Int64[Tensor, "n"]) -> Int64[Tensor, "k"]:
    """Return the different values in the order of their first occurrence."""
    ordered, place = values.sort(stable=True)
    again = torch.zeros_like(values, dtype=torch.bool)
    again[place[1:]] = ordered[1:] == ordered[:-1]
    return values[~again]


def inverted(weights: Float64[Tensor, "B n"], place: Float64[Tensor, "B k"]) -> Int64[Tensor, "B k"]:
    """Return where the cumulative weights pass `place` in [0, 1); rows without weight give their last index."""
    total = weights.cumsum(1)
    # strictly below the end, where rounding would otherwise reach past the last sample with weight
    last = torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:]))
    found = torch.searchsorted(total, (place * total[:, -1:]).minimum(last), right=True)
    return found.clamp_max(weights.shape[1] - 1)
