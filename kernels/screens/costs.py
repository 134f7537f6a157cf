"""What the parts of a search and of a scan cost: from these it is decided which queries are worth a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# where nothing was measured, in coordinates of a row: scoring a row again, and looking into an open tile
ROW_OPERATIONS, TILE_OPERATIONS = 10.0, 7.0


@dataclass(frozen=True)
class SearchCosts:
    """Nanoseconds, or whatever unit all of them share.

    A scan of b queries over n rows costs n (scan_start + b scan). A search of them costs call + b query beside its
    rows, n b levels[l] at each level it takes, `tile` for each tile that turns out to be open, and `row` for each row
    that is scored again.
    """

    scan_start: float
    scan: float
    levels: tuple[float, ...]
    call: float
    query: float
    tile: float
    row: float

    @classmethod
    def by_operations(cls, dim: int, levels: Sequence[int]) -> SearchCosts:
        """Return costs in coordinates of a float32 product, where nothing was measured.

        dim: values of a row. levels: coordinates that cost as much as the product with each level.
        """
        return cls(0.0, float(dim), tuple(map(float, levels)), 0.0, 0.0, TILE_OPERATIONS * dim, ROW_OPERATIONS * dim)

    def saved(self, entering: Sequence[int], rows: int, *, everyone: bool) -> float:
        """Return what a search saves of a scan where its queries are certified at the level that they enter at.

        entering: how many queries enter at each level. rows: how many are searched. everyone: whether no query is left
        for a scan.
        """
        products = sum(count * (self.scan - level) for count, level in zip(entering, self.levels, strict=True))
        start = self.scan_start if everyone else 0.0
        return rows * (products + start) - sum(entering) * self.query - self.call

    def share(self, level: int, rows: int, beside: float, batch: int) -> float:
        """Return what a search of `batch` queries costs at a level, relative to a scan of them.

        level: of the screen, the cheapest is 0. rows: how many are searched. beside: what open tiles and rows cost, for
        each query and row.
        """
        whole = self.query + self.call / batch
        return (self.levels[level] + beside + whole / rows) / (self.scan + self.scan_start / batch)

    def __str__(self) -> str:
        levels = ", ".join(f"{level:.3g}" for level in self.levels)
        return (
            f"{self.scan:.3g} ns a row and query to scan, {levels} at the levels, {self.row:.3g} to score a row again; "
            f"{self.query / 1e3:.3g} us a query and {self.call / 1e3:.3g} us a call beside"
        )
