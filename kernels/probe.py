"""The query side of a screen: coefficients whose product with the features of a row is at least its logit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..arrays import Bool, Float, Float64, Int64, Tensor
from .accuracy import UNIT_ROUNDOFF, WALK
from .carry import Carry
from .rows import Query, Rows
from .screen import UPWARD, Knowledge, Screen, block_edges, block_norms

# rows whose average tells which of two bounds is the smaller
TYPICAL_ROWS = 1024


@dataclass(frozen=True)
class Source:
    """The row every query was made from, x = alpha X + noise with Gaussian noise independent of the data.

    row: [B], -1 for unknown. blur: norm of what rounding added to the query, [B]; it is not noise.
    failure: probability, over that noise, that any bound of a query fails.
    """

    row: Int64[Tensor, "B"]
    blur: Float64[Tensor, "B"]
    failure: float

    def take(self, index: Int64[Tensor, "b"]) -> Source:
        """Return the sources of the queries in `index`."""
        return Source(self.row[index], self.blur[index], self.failure)


@dataclass(frozen=True)
class Probe:
    """Coefficients of a batch of queries, in nats; upper logits lack the term -|q|^2 / 2 sigma^2 of every sample.

    head: gain times the coordinates of the query, [B, M].
    blocks: gain times what bounds the product of a unit vector of each block with the query, [B, e].
    spread: the same for a unit vector anywhere beyond the level, [B].
    fall, constant: minus the factor of |z|^2 / 2, and what rounding may hide, [B].
    shared: factor of the products of a carry, [B], or None.
    knowledge: what narrows the bounds, values of Knowledge, [B].
    """

    head: Float64[Tensor, "B M"]
    blocks: Float64[Tensor, "B e"]
    spread: Float64[Tensor, "B"]
    fall: Float64[Tensor, "B"]
    constant: Float64[Tensor, "B"]
    shared: Float64[Tensor, "B"] | None
    knowledge: Int64[Tensor, "B"]

    def take(self, index: Int64[Tensor, "b"] | Bool[Tensor, "B"]) -> Probe:
        """Return the coefficients of the queries in `index`."""
        return Probe(
            head=self.head[index],
            blocks=self.blocks[index],
            spread=self.spread[index],
            fall=self.fall[index],
            constant=self.constant[index],
            shared=None if self.shared is None else self.shared[index],
            knowledge=self.knowledge[index],
        )

    def coefficients(self, screen: Screen, level: int, weighted: bool) -> Float[Tensor, "B w"]:
        """Return the factors of the features of `level`, [B, w] float32, bounds rounded up."""
        width = screen.widths[level]
        skipped = block_edges(screen.widths).index(width)
        bounds = torch.cat([self.blocks[:, skipped:], self.spread[:, None]], dim=1) * UPWARD
        parts = [self.head[:, :width], bounds, -self.fall[:, None]]
        if weighted:
            parts.append(torch.ones_like(self.fall)[:, None])
        return torch.cat(parts, dim=1).float()


def make_probe(
    rows: Rows, screen: Screen, query: Query, source: Source | None = None, carry: Carry | None = None
) -> Probe:
    """Return the coefficients of a batch of queries.

    Without `source` the bounds hold always. Queries that know theirs replace |y_b| |z_b| by
    alpha |s_b| |z_b| + sigma |z| sqrt(2 ln(N / failure)), s the source: the noise is independent of every other row,
    so its product with a row is Gaussian, and the union bound covers all rows and levels. A `carry` adds exact
    products.
    """
    shared, point = (None, query.point) if carry is None else carry.split(query.point)
    head = point @ screen.basis
    edges = block_edges(screen.widths)
    rest = _rest_norm(point, head)
    blocks = torch.cat([block_norms(head, edges), rest[:, None]], dim=1)
    spread = torch.zeros_like(rest)
    knowledge = torch.full_like(rest, Knowledge.NOTHING if carry is None else Knowledge.CARRY, dtype=torch.int64)
    if source is not None and carry is None:
        tall = math.sqrt(2.0 * math.log(len(rows) * len(screen.widths) / source.failure))
        noise = query.inverse_variance.rsqrt() * tall + source.blur
        own = query.alpha[:, None] * _source_blocks(screen, source)
        known = (source.row >= 0) & _tighter(screen, own, noise, blocks)
        blocks = torch.where(known[:, None], own, blocks)
        spread = torch.where(known, noise, spread)
        knowledge = torch.where(known, Knowledge.SOURCE, knowledge)
    gain = query.gain
    return Probe(
        head=gain[:, None] * head,
        blocks=gain[:, None] * blocks,
        spread=gain * spread,
        fall=gain * query.alpha,
        constant=gain * _rounding(rows, screen, query, point, shared, carry) + _weight_rounding(rows),
        shared=None if shared is None else gain * shared,
        knowledge=knowledge,
    )


def _rest_norm(point: Float64[Tensor, "B D"], head: Float64[Tensor, "B M"]) -> Float64[Tensor, "B"]:
    # float64 products: what cancels here is lost below 1e-14 of |y|^2, which is added
    square: Tensor = point.square().sum(1) * (1.0 + 1e-13) - head.square().sum(1)
    return square.clamp_min(0.0).sqrt()


def _source_blocks(screen: Screen, source: Source) -> Float64[Tensor, "B e"]:
    # the first level has the norms of all blocks: they stand before the last columns
    first = screen.features[0].index_select(0, source.row.clamp_min(0))
    count = len(block_edges(screen.widths))
    return first[:, screen.widths[0] : screen.widths[0] + count].double()


def _tighter(
    screen: Screen, own: Float64[Tensor, "B e"], noise: Float64[Tensor, "B"], blocks: Float64[Tensor, "B e"]
) -> Bool[Tensor, "B"]:
    """Return where the bound from the source is the smaller one for a typical row: for short rows the other may be."""
    first, count = screen.widths[0], blocks.shape[1]
    typical = screen.features[0][:TYPICAL_ROWS].double().mean(0)
    norms, rest = typical[first : first + count], typical[first + count]
    return own @ norms + noise * rest < blocks @ norms


def _rounding(
    rows: Rows,
    screen: Screen,
    query: Query,
    point: Float64[Tensor, "B D"],
    shared: Float64[Tensor, "B"] | None,
    carry: Carry | None,
) -> Float64[Tensor, "B"]:
    """Return what float32 may hide of <y, z> - alpha |z|^2 / 2, [B]: coordinates, their product, and the carry's."""
    terms = max(part.shape[1] for part in screen.features) + 4 * screen.widths[-1]
    norm = torch.linalg.vector_norm(point, dim=1)
    size = 2.0 * norm * rows.radius + query.alpha * rows.radius**2
    error: Tensor = WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(terms) + 2.0) * size
    if carry is not None and shared is not None:
        known = torch.linalg.vector_norm(carry.point, dim=1) * rows.operand_radius
        error = error + WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(rows.dim) + 2.0) * shared.abs() * known
    return error


def _weight_rounding(rows: Rows) -> float:
    if rows.log_weights is None:
        return 0.0
    return WALK * UNIT_ROUNDOFF[torch.float32] * float(rows.log_weights[rows.log_weights > -torch.inf].abs().max())
