"""What a search in one call is told and what it finds, whichever kernels do it."""

from __future__ import annotations

from dataclasses import dataclass

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from .combine import Combination
from .state import PosteriorState

# most tiles or rows where there is no limit
UNLIMITED = 2**62


@dataclass(frozen=True)
class Mass:
    """The posterior mass that may be left out of each query: `largest`, [B] float64, or less where an answer is small.

    answer: what is made of a posterior mean, or None where only `largest` counts. Of an answer of norm v no more than
    largest v / (change d) is left out, d the distance of any row to the mean at most. error: the largest relative error
    of the answer with which a query is found, [B] float64, or None where only the mass counts.
    """

    largest: Float64[Tensor, "B"]
    answer: Combination | None = None
    error: Float64[Tensor, "B"] | None = None


@dataclass(frozen=True)
class SearchLimits:
    """How many tiles a query may have open, and how many rows may be scored, before it is left to what comes next."""

    tiles: int = UNLIMITED
    rows: int = UNLIMITED


@dataclass(frozen=True)
class NoiseKnown:
    """The row every query was made from, -1 where unknown, [B], and what of its noise is known.

    blur: norm of what rounding added to it, [B] float64. deviations: that no Gaussian product with a row exceeds.
    """

    row: Int64[Tensor, "B"]
    blur: Float64[Tensor, "B"]
    deviations: float


@dataclass(frozen=True)
class LeadingLevel:
    """A level of coordinates of rows, for kernels that make of a query what its rows are multiplied with.

    features: [N, e] float32: coordinates as they are; norms of the residual in each of b blocks, in what no block holds
    if there is such, and in all of these; |r|^2 / 2; the log of the weight where rows have weights. None where there is
    no residual. edges: where the coordinates as they are end and the blocks begin, and where the last block ends,
    [b + 1] int32. blocks: their number. norms: how many parts of the residual have one, without that of all. typical:
    these norms of a typical row, [norms + 1] float64. codes: coordinates of the blocks in 8 bits, [N, K], or None;
    scale: of each, [K] float64; centre: whole numbers that are taken off them, [K] float64, or None; radius: norm of
    the longest row of codes less that; digits: that factors are multiplied with, 1 or 2.
    coordinate, upper, shared: what float32 may hide: of squares of norms beyond coordinates, relative to |q|^2; of
    upper logits, relative to `row_size` |q| + alpha `square_size`; of products of trajectories, relative to the norm of
    what is shared. weights: of logs of weights, in nats.
    """

    features: Float[Tensor, "N e"] | None
    edges: Shaped[Tensor, "E"]
    typical: Float64[Tensor, "T"]
    blocks: int
    norms: int
    coordinate: float
    upper: float
    row_size: float
    square_size: float
    shared: float
    weights: float
    codes: Shaped[Tensor, "N K"] | None = None
    scale: Float64[Tensor, "K"] | None = None
    centre: Float64[Tensor, "K"] | None = None
    radius: float = 0.0
    digits: int = 1


@dataclass(frozen=True)
class Projection:
    """A batch of queries in the coordinates of a screen.

    coordinates: [B, M] float32. facts: [3, B] float64: the squared norm of the point that these are of, and, where
    queries share points, how much of these is in each query and their norms.
    """

    coordinates: Float[Tensor, "B M"]
    facts: Float64[Tensor, "3 B"]


@dataclass(frozen=True)
class ProjectedTerms:
    """What the upper logits of a level are made of.

    level: of a screen. projection: of the queries on its coordinates. known: what is known of their noise, or None.
    products, column: of shared points with all rows, [N, P] float32, and which are a query's, [B], or None.
    """

    level: LeadingLevel
    projection: Projection
    known: NoiseKnown | None = None
    products: Float[Tensor, "N P"] | None = None
    column: Int64[Tensor, "B"] | None = None


@dataclass(frozen=True)
class SearchLevel:
    """A level of a screen as a search passes it.

    terms: of the upper logits of all queries, up to |q|^2 / 2 sigma^2. limits: from which on a query goes on to the
    next level.
    """

    terms: ProjectedTerms
    limits: SearchLimits


@dataclass(frozen=True)
class Searched:
    """What a search finds.

    state: of the rows that were kept. log_omitted: log of a bound on the weights of all others, [B] float64. survivors,
    opened, scored: how many rows were kept, tiles were open and rows were scored whole, [B] int64. found: which queries
    have a state, [B], zero for those that have none. pending: how many have none, or one whose error is larger than it
    may be, which are not found, [1] int32; None where errors were not looked at.
    """

    state: PosteriorState
    log_omitted: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    opened: Int64[Tensor, "B"]
    scored: Int64[Tensor, "B"]
    found: Shaped[Tensor, "B"]
    pending: Shaped[Tensor, "1"] | None = None
