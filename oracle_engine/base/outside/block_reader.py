"""Reads rows that stay outside a block at a time, in the order of the files, into memory that is used again."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..arrays import Bool, Int64, Shaped, Tensor
from ..errors import bad_file
from .parts import FilePart, MemoryPart
from .rows import BLOCK_BYTES, OutsideRows

# what the system reads for a row that is asked for by itself, beside the row
PAGE_BYTES = 4096
# rows are read one by one where that is less than this share of their block
SINGLY = 0.25


@dataclass(frozen=True, eq=False)
class AskedRows:
    """The rows of a block that are asked for.

    start, stop: the places of the block. index: the numbers of the rows, rising, [n]. place: where they are, [n].
    """

    start: int
    stop: int
    index: Int64[Tensor, "n"]
    place: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.index)


class BlockReader:
    """The blocks of some rows, and memory of its own where they have to be put in another order.

    rows: where they are. spans: ranges [start, stop) of rows, [S, 2]; others are left out. None takes all.
    block_bytes: of a block; None takes that of the rows, or BLOCK_BYTES.
    """

    def __init__(self, rows: OutsideRows, spans: Int64[Tensor, "S 2"] | None, block_bytes: int | None = None) -> None:
        """Read nothing yet."""
        self.rows, self.spans = rows, spans
        self.row_bytes = max(1, rows.nbytes // len(rows))
        wished = block_bytes or rows.block_bytes or BLOCK_BYTES
        self.size = max(1, min(rows.starts[-1], wished // self.row_bytes))
        self._file: tuple[FilePart, int] | None = None
        self._unsorted: Tensor | None = None

    def asked(self) -> Iterator[AskedRows]:
        """Yield what is asked for of the blocks that hold something of it, in the order of the files."""
        places = self.rows.starts[-1]
        for start in range(0, places, self.size):
            found = self._asked(start, min(start + self.size, places))
            if len(found):
                yield found

    def in_place(self, asked: AskedRows) -> Shaped[Tensor, "n ..."] | None:
        """Return the rows that are asked for where they are in memory already, one after the other, else None."""
        number = bisect_right(self.rows.starts, asked.start) - 1
        part, first = self.rows.parts[number], self.rows.starts[number]
        whole = self.rows.order is None and len(asked) == asked.stop - asked.start
        if not whole or not isinstance(part, MemoryPart) or asked.stop > first + part.count:
            return None
        return part.rows[asked.start - first : asked.stop - first].reshape(len(asked), *self.rows.shape[1:])

    def read(self, asked: AskedRows, memory: Tensor) -> Shaped[Tensor, "n ..."]:
        """Return the rows that are asked for, read into `memory`, [size * row_bytes] uint8.

        Raises DataFileError where a file is not what it was when it was opened.
        """
        count = asked.stop - asked.start
        values = self._shaped(memory, len(asked))
        if len(asked) * (self.row_bytes + PAGE_BYTES) < SINGLY * count * self.row_bytes:
            return values.copy_(self.rows.at_places(asked.place))
        if len(asked) == count and self.rows.order is None:
            return self._filled(values, asked.start, asked.stop)
        if self._unsorted is None:
            self._unsorted = torch.empty(self.size * self.row_bytes, dtype=torch.uint8)
        whole = self._filled(self._shaped(self._unsorted, count), asked.start, asked.stop)
        return torch.index_select(whole, 0, asked.place - asked.start, out=values)

    def close(self) -> None:
        """Close the file that was read last."""
        if self._file is not None:
            os.close(self._file[1])
            self._file = None

    def _asked(self, start: int, stop: int) -> AskedRows:
        """Return which rows of the places in [start, stop) are asked for."""
        index = place = torch.arange(start, stop)
        if self.rows.places is not None:
            places, rows = self.rows.places
            here = slice(*torch.searchsorted(places, torch.tensor([start, stop])).tolist())
            index, order = rows[here].sort()
            place = places[here][order]
        if self.spans is None:
            return AskedRows(start, stop, index, place)
        asked = _inside(index, self.spans)
        return AskedRows(start, stop, index[asked], place[asked])

    def _shaped(self, memory: Tensor, count: int) -> Tensor:
        held = memory[: count * self.row_bytes].view(self.rows.dtype)
        return held.reshape(count, *self.rows.shape[1:])

    def _filled(self, block: Tensor, start: int, stop: int) -> Tensor:
        """Read the rows at the places [start, stop) into `block`."""
        rest, starts = block, self.rows.starts
        while start < stop:
            number = bisect_right(starts, start) - 1
            last = min(stop, starts[number + 1])
            self._fill(rest[: last - start], self.rows.parts[number], start - starts[number])
            rest, start = rest[last - start :], last
        return block

    def _fill(self, block: Tensor, part: FilePart | MemoryPart, first: int) -> None:
        """Read rows of a part, from its row `first` on, into a block."""
        if isinstance(part, MemoryPart):
            block.copy_(part.rows[first : first + len(block)].reshape(block.shape))
            return
        content = block.reshape(-1).view(torch.uint8).numpy().data
        _read_into(content, self._open(part), part, part.start + first * self.row_bytes)

    def _open(self, part: FilePart) -> int:
        """Return the descriptor of the file of `part`, which stays open until another one is read."""
        if self._file is not None and (self._file[0].path, self._file[0].stamp) == (part.path, part.stamp):
            return self._file[1]
        self.close()
        part.check()
        held = os.open(part.path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # the system reads ahead twice as far
            os.posix_fadvise(held, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._file = part, held
        return held


def _inside(index: Int64[Tensor, "n"], spans: Int64[Tensor, "S 2"]) -> Bool[Tensor, "n"]:
    """Return which of the rows `index`, which rise, lie in one of the spans."""
    ends = torch.searchsorted(index, spans.contiguous())
    steps = torch.zeros(len(index) + 1, dtype=torch.int64)
    steps.index_add_(0, ends[:, 0], torch.ones_like(ends[:, 0]))
    steps.index_add_(0, ends[:, 1], -torch.ones_like(ends[:, 1]))
    return steps.cumsum(0)[:-1] > 0


def _read_into(memory: memoryview, file: int, part: FilePart, start: int) -> None:
    """Fill `memory` with the bytes of a file from `start` on."""
    while memory:
        try:
            count = os.preadv(file, [memory], start)
        except OSError as error:
            found = f"{error.strerror} at byte {start:,}"
            raise bad_file(part.path, "a file that can be read", found, "check the disk it is on") from error
        if count == 0:
            raise bad_file(part.path, "the file that was opened", "a shorter one", "load the data set again")
        memory, start = memory[count:], start + count
