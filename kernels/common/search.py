"""What a search in one call is told and what it finds, whichever kernels do it."""

from __future__ import annotations

from dataclasses import dataclass

from ...base.arrays import Float64, Int64, Shaped, Tensor
from .combine import Combination
from .screen_terms import Shared, Terms
from .state import PosteriorState

# most tiles or rows where there is no limit
UNLIMITED = 2**62


@dataclass(frozen=True)
class Mass:
    """The posterior mass that may be left out of each query: `largest`, [B] float64, or less where an answer is small.

    answer: what is made of a posterior mean, or None where only `largest` counts. change: factor from a change of the
    mean, in units of the answer, to that of the answer, [B] float64. Of an answer of norm v no more than largest v /
    (change d) is left out, d the distance of any row to the mean at most.
    """

    largest: Float64[Tensor, "B"]
    answer: Combination | None = None
    change: Float64[Tensor, "B"] | None = None


@dataclass(frozen=True)
class SearchLimits:
    """How many tiles a query may have open, and how many rows may be scored, before it is left to what comes next."""

    tiles: int = UNLIMITED
    rows: int = UNLIMITED


@dataclass(frozen=True)
class SearchLevel:
    """A level of a screen as a search passes it.

    terms, shared: of the upper logits of all queries, up to |q|^2 / 2 sigma^2. limits: from which on a query goes on to
    the next level.
    """

    terms: Terms
    shared: Shared | None
    limits: SearchLimits


@dataclass(frozen=True)
class Searched:
    """What a search finds.

    state: of the rows that were kept. log_omitted: log of a bound on the weights of all others, [B] float64. survivors,
    opened, scored: how many rows were kept, tiles were open and rows were scored whole, [B] int64. found: which queries
    have a state, [B], zero for those that have none.
    """

    state: PosteriorState
    log_omitted: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    opened: Int64[Tensor, "B"]
    scored: Int64[Tensor, "B"]
    found: Shaped[Tensor, "B"]
