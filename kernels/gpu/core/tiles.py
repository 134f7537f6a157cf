"""Tiles of the Triton kernels: what a program computes at once, and how much shared memory that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

# a limit on B, or D, that no batch reaches
ANY = 1 << 30

# values of D after which a sum of digits times 8-bit differences might exceed an int32: 128 255 D < 2^31, rounded down
# to a multiple of every tile
DIGIT_DEPTH = 1 << 16


@dataclass(frozen=True)
class Tile:
    """Size of the tile that a program computes at once, and what the program is given.

    block_n, block_b, block_d: rows, queries and values of D. warps, stages: warps and pipeline stages of the program.
    every: steps after which the sums in the matrix unit are emptied, at least 2: sums of a single step would be
    folded into those of all steps by the compiler.
    """

    block_n: int
    block_b: int
    block_d: int
    warps: int
    stages: int
    every: int = 2


@dataclass(frozen=True)
class ScoreTile(Tile):
    """Tile of the score: products of rows and queries, summed over D a tile at a time."""

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` of queries."""
        tile = self.block_n * row_bytes + self.block_b * part_bytes
        return self.stages * self.block_d * tile + 8192

    def least_slices(self, dim: int) -> int:
        """Return into how many slices the sum over `dim` values must be cut so that it does not overflow."""
        return 1


@dataclass(frozen=True)
class ScoreConfig(ScoreTile):
    """Tile of the score with queries in floating point numbers."""


@dataclass(frozen=True)
class DigitConfig(ScoreTile):
    """Tile of the score with queries in base-256 digits, through the int8 matrix unit."""

    def least_slices(self, dim: int) -> int:
        """Return into how many slices the sum over `dim` values must be cut so that no int32 overflows."""
        return ceil_div(dim, DIGIT_DEPTH)


@dataclass(frozen=True)
class WeighConfig(Tile):
    """Tile of the weighted sum: a slice of D for some queries, summed over the rows a tile at a time."""

    def listed(self, row_bytes: int) -> WeighConfig:
        """Return the tile for rows that are reached through a list, of `row_bytes` a value.

        Rows that are converted pass through the registers, which then hold no more than half of a wide tile.
        """
        if row_bytes == 2:
            return self
        warps = self.warps if self.block_b <= 16 else 8
        return replace(self, block_n=min(self.block_n, 64), block_d=min(self.block_d, 128), warps=warps)

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` a weight."""
        tile = self.block_d * max(row_bytes, 2) + self.block_b * part_bytes
        return self.stages * self.block_n * tile + 8192


@dataclass(frozen=True)
class FusedConfig(Tile):
    """Tile of the fused kernel, where `block_d` is all of D, rounded up."""

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` of queries."""
        # stages of rows, the queries, and a tile of weights
        rows = self.stages * self.block_n * max(row_bytes, 2) * self.block_d
        return rows + self.block_b * (self.block_d + 2 * self.block_n) * part_bytes + 8192


AnyConfig = ScoreConfig | DigitConfig | WeighConfig | FusedConfig


@dataclass(frozen=True)
class TileChoice:
    """A configuration and the largest work it is for.

    config: the tile. batch: the largest number of queries. dim: the largest D.
    """

    config: AnyConfig
    batch: int = ANY
    dim: int = ANY


def ceil_div(count: int, size: int) -> int:
    """Return how many parts of `size` hold `count`."""
    return -(-count // size)
