"""What the parts of a search and of a scan cost: from these it is decided which queries are worth a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...common.search import SearchLimits

# where nothing was measured, in coordinates of a row: scoring a row again, and looking into an open tile
ROW_OPERATIONS, TILE_OPERATIONS = 10.0, 7.0


# rows and tiles of a query that are looked at whatever that costs
FIRST_ROWS = 4


@dataclass(frozen=True)
class SearchCosts:
    """Nanoseconds, or whatever unit all of them share.

    A scan of b queries over n rows costs n (scan_start + b scan). A search of them costs at each level l that it takes
    call + b queries[l] beside its rows, n (starts[l] + b levels[l]) for these, `tile` for each tile that turns out to
    be open, and `row` for each row that is scored again. The starts are what a query alone costs more than one of many:
    kernels compute with several at once.
    """

    scan_start: float
    scan: float
    starts: tuple[float, ...]
    levels: tuple[float, ...]
    call: float
    queries: tuple[float, ...]
    tile: float
    row: float

    @classmethod
    def by_operations(cls, dim: int, levels: Sequence[int]) -> SearchCosts:
        """Return costs in coordinates of a float32 product, where nothing was measured.

        dim: values of a row. levels: coordinates that cost as much as the product with each level.
        """
        free = (0.0,) * len(levels)
        each = tuple(map(float, levels))
        return cls(0.0, float(dim), free, each, 0.0, free, TILE_OPERATIONS * dim, ROW_OPERATIONS * dim)

    def saved(self, entering: Sequence[int], rows: int, *, everyone: bool) -> float:
        """Return what a search saves of a scan where its queries are certified at the level that they enter at.

        entering: how many queries enter at each level. rows: how many are searched. everyone: whether no query is left
        for a scan.
        """
        scans = rows * (sum(entering) * self.scan + (self.scan_start if everyone else 0.0))
        return scans - sum(self.searched(level, rows, count) for level, count in enumerate(entering) if count)

    def searched(self, level: int, rows: int, batch: int) -> float:
        """Return what a level costs for `batch` queries over so many `rows`, but for open tiles and what follows."""
        beside_rows = self.call + batch * self.queries[level]
        return beside_rows + rows * (self.starts[level] + batch * self.levels[level])

    def share(self, level: int, rows: int, beside: float, batch: int) -> float:
        """Return what a search of `batch` queries costs at a level, relative to a scan of them.

        level: of the screen, the cheapest is 0. rows: how many are searched. beside: what open tiles and rows cost, for
        each query and row.
        """
        return (self.searched(level, rows, batch) / (rows * batch) + beside) / (self.scan + self.scan_start / batch)

    def beyond(self, level: int, rows: int) -> tuple[float, float]:
        """Return what follows a level costs for each query, and beside that: the next level, or half of a dense scan.

        level: of the screen, the cheapest is 0. rows: how many are searched.
        """
        if level + 1 < len(self.levels):
            return self.queries[level + 1] + rows * self.levels[level + 1], self.call + rows * self.starts[level + 1]
        return 0.5 * rows * self.scan, 0.5 * rows * self.scan_start

    def level_limits(self, level: int, rows: int, batch: int) -> SearchLimits:
        """Return how many tiles and rows of a query cost less than what follows a level.

        level, rows: as for :meth:`beyond`. batch: how many queries share what that costs beside each of them.
        """
        each, beside = self.beyond(level, rows)
        budget = each + beside / batch
        return SearchLimits(max(FIRST_ROWS, int(budget / self.tile)), max(FIRST_ROWS, int(budget / self.row)))

    def in_order(self) -> list[float]:
        """Return all but what tiles and rows cost, in the order in which kernels of a card read them."""
        levels = zip(self.starts, self.levels, self.queries, strict=True)
        return [self.scan_start, self.scan, self.call, *(cost for level in levels for cost in level)]

    def limits(self, rows: int) -> SearchLimits:
        """Return how many rows of a query are scored for what a scan of so many `rows` costs."""
        return SearchLimits(rows=max(FIRST_ROWS, int(rows * (self.scan + self.scan_start) / self.row)))

    def __str__(self) -> str:
        levels, queries = (", ".join(f"{one:.3g}" for one in part) for part in (self.levels, self.queries))
        return (
            f"{self.scan:.3g} ns a row and query to scan, {levels} at the levels; beside that {queries} ns a query, "
            f"{self.call:.3g} ns a call, {self.row:.3g} ns to score a row again"
        )
