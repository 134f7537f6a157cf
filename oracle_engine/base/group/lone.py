"""A rank that meets no other: somebody else asks for its part and merges it with those of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import OracleError
from .ranks import Asked, Ranks


class LoneRank(Ranks):
    """The rank `rank` of `size`, which has no process group: it compares nothing and exchanges nothing."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def __reduce__(self) -> Any:
        """Return how a copy is made: it belongs to no process."""
        return LoneRank, (self.rank, self.size)

    def compare(self, operation: str, asked: Sequence[Asked], sizes: Sequence[int] = ()) -> list[list[int]]:
        """Return `sizes`, those of this rank alone."""
        return [list(sizes)]

    def refuse(self, error: OracleError) -> None:
        """Tell nobody of `error`."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Tell nobody that this rank works."""
        yield
