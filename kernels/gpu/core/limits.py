"""How much memory a scan may hold at once, and how many samples of a query it rescores one by one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScanLimits:
    """Sizes that bound the blocks of a scan and its rescore lists.

    score_bytes: logits and weights of a block of rows, in bytes. block_unit: rows of a block are a multiple of this,
    which must be a multiple of the rows of every tile.
    logit_bytes: float64 logits of rescored samples held at once, in bytes. least_rescored, most_rescored: how many
    samples a rescore list has room for at least and at most; of a query whose list overflows every row is rescored.
    """

    # enough to fill a GPU, little beside its memory
    score_bytes: int = 1 << 30
    block_unit: int = 1024
    logit_bytes: int = 128 << 20
    least_rescored: int = 256
    most_rescored: int = 8192

    def block_rows(self, batch: int, pair_bytes: int, row_bytes: int = 0) -> int:
        """Return how many rows of a scan are held at once.

        batch: number of queries. pair_bytes, row_bytes: bytes held for each pair of a row and a query, and for each row
        beside its pairs.
        """
        size = self.score_bytes // (pair_bytes * (batch + 15) + row_bytes)
        # whole tiles, and row numbers within a block that fit into 32 bits
        return max(self.block_unit, min(size, 1 << 30) // self.block_unit * self.block_unit)

    def listed(self, count: int) -> int:
        """Return how many samples the rescore list of a query has room for, in a scan over `count` rows."""
        return min(max(self.least_rescored, count // 32), self.most_rescored)

    def logit_slots(self, batch: int, listed: int, count: int) -> int:
        """Return how many logits of every query are held at once.

        batch: number of queries. listed: rows that a full rescore list names. count: rows of the span.
        """
        return max(listed, min(count, self.logit_bytes // (8 * batch)))


DEFAULT_LIMITS = ScanLimits()
