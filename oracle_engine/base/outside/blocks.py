"""Rows that stay outside, block after block, in the order of the files: one pass reads each byte once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..arrays import Int64, Tensor
from .lanes import OutsideBlock
from .passes import Pass, passes_of
from .rows import OutsideRows


def blocks(
    rows: OutsideRows, spans: Int64[Tensor, "S 2"] | None = None, *, block_bytes: int | None = None
) -> Iterator[OutsideBlock]:
    """Yield the rows in the order of their files, block after block, while a thread reads the next one.

    rows: where they are. spans: ranges [start, stop) of rows, [S, 2]; others are left out. None takes all.
    block_bytes: of a block; None takes that of the rows.

    Costs one read of the files, and memory of three blocks; of a block from which little is asked for only that is
    read. Raises DataFileError where a file is not what it was when it was opened.
    """
    alone = Pass(rows, block_bytes)
    seat = alone.seat(spans)
    try:
        alone.begin()
        yield from seat.blocks()
    finally:
        alone.leave(seat)
        alone.end()


@contextmanager
def shared_blocks(rows: OutsideRows, spans: Int64[Tensor, "S 2"]) -> Iterator[Iterator[OutsideBlock]]:
    """Give what :func:`blocks` yields, of a pass that is shared with other threads that wait for one.

    Its blocks hold the rows in `spans`, and those that others asked for. A pass that runs already is waited for.
    """
    with passes_of(rows).next_blocks(rows, spans) as found:
        yield found
