"""What kernels are told of a level of a screen: the terms that upper logits are sums of, and which tiles are open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from .rescore import Pairs

# norms are stored a little larger than they are: a few float32 roundings
UPWARD = 1.0 + 2.0**-21

# rows of a tile whose largest upper logit kernels of a card keep, one bit of an int64 for each
CARD_ROWS = 64

# sums of products of codes with a digit, less those with a centre, stay within 32 bits up to so many coordinates
CARD_CODES = (2**31 - 1) // (2 * 127 * 255)

# sums of float32 terms, and below which they would vanish
SUM_ERROR, LEAST_SUM = 1.0 + 1e-4, 1e-300


@dataclass(frozen=True)
class Terms:
    """What the upper logits of a level are sums of, beside slack and shared products.

    rows: [N, w] float32, or 8-bit codes. factors: what they are multiplied with, [B, w]; float64 values beside codes,
        which are multiplied with two digits of them.
    slack: what rounding may hide, [B] float64.
    features, gains: float32 terms beside codes, [N, e] and [B, e], or None.
    centre: what is taken off the codes, whole numbers, [D] float64, or None.
    radius: norm of the longest row, less its centre, beside codes: what is left of factors is bounded by it.
    norm_gain: factor of the half norms of the data, whose weights are added too, [B] float64, or None where both are
        among the features.
    unit: what factors are multiplied with, [B] float64, or None for one. common: what all rows of a query share, [B]
        float64, or None for nothing. digits: how many of each factor all codes are multiplied with, 1 or 2.
    """

    rows: Shaped[Tensor, "N w"]
    factors: Shaped[Tensor, "B w"]
    slack: Float64[Tensor, "B"]
    features: Float[Tensor, "N e"] | None = None
    gains: Float[Tensor, "B e"] | None = None
    centre: Float64[Tensor, "D"] | None = None
    radius: float = 0.0
    norm_gain: Float64[Tensor, "B"] | None = None
    unit: Float64[Tensor, "B"] | None = None
    common: Float64[Tensor, "B"] | None = None
    digits: int = 2


@dataclass(frozen=True)
class Shared:
    """Products of trajectories with all rows, [N, P] float32; which of them is a query's, and its factor, [B] each."""

    products: Float[Tensor, "N P"]
    column: Int64[Tensor, "B"]
    gain: Float64[Tensor, "B"]


@dataclass(frozen=True)
class OpenTiles:
    """What a level knew of its tiles: their largest upper logits, [T, B] float32, and the floors, [B].

    Native kernels have a few lanes more than queries, which nothing reaches.
    """

    largest: Float[Tensor, "T B"]
    floor: Float[Tensor, "B"]


@runtime_checkable
class ScreenLevel(Protocol):
    """A level of a screen as kernels bound it; `largest`: upper logit of each tile, [T, B] or a few columns more."""

    largest: Float[Tensor, "T l"]

    @property
    def pair_error(self) -> Float64[Tensor, "B"] | None:
        """How far the logits of rows that :meth:`above` finds are above true ones, [B], or None where unknown."""
        ...

    def promising(self, count: int) -> Pairs:
        """Return the rows with the largest upper logits of each query, one a tile, `count` at most."""
        ...

    def against(self, floor: Float[Tensor, "B"]) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return how many tiles reach the `floor` of each query, and the weights of all others relative to it, [B]."""
        ...

    def above(
        self,
        floor: Float[Tensor, "B"],
        against: tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]],
        few: Int64[Tensor, "f"],
    ) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows of the queries `few` that reach the `floor`, and the log of what their others hold, [B].

        against: what :meth:`against` said of this floor. The log is -inf for queries not in `few`.
        """
        ...

    def open(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> OpenTiles:
        """Return what the next level needs to know of the tiles that reach the `floor`, of the queries in `index`."""
        ...


def log_of_sum(below: Float64[Tensor, "B"], floor: Float[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the log of sums of float32 weights that are relative to a `floor`, no less than it is, [B]."""
    return floor.double() + (below * SUM_ERROR + LEAST_SUM).log()
