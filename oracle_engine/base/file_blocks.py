"""Reads rows that stay in files a block at a time, in the order of the files: one pass reads each byte once."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from .arrays import Bool, Int64, Shaped, Tensor
from .errors import bad_file
from .file_rows import BLOCK_BYTES, FilePart, FileRows

# what the system reads for a row that is asked for by itself, beside the row
PAGE_BYTES = 4096
# rows are read one by one where that is less than this share of their block
SINGLY = 0.25


@dataclass(frozen=True, eq=False)
class FileBlock:
    """Some of the rows, read together: their numbers, rising, [n], and their values, [n, *shape].

    The values are those of this block only until the next one is asked for.
    """

    index: Int64[Tensor, "n"]
    values: Shaped[Tensor, "n ..."]


def blocks(
    rows: FileRows, spans: Int64[Tensor, "S 2"] | None = None, *, block_bytes: int | None = None
) -> Iterator[FileBlock]:
    """Yield the rows in the order of their files, block after block, while a thread reads the next one.

    rows: where they are. spans: ranges [start, stop) of rows, [S, 2]; others are left out. None takes all.
    block_bytes: of a block; None takes BLOCK_BYTES.

    Costs one read of the files, and memory of three blocks; of a block from which little is asked for only that is
    read. Raises DataFileError where a file is not what it was when it was opened.
    """
    with ExitStack() as stack:
        reader = _Reader(rows, spans, block_bytes or BLOCK_BYTES)
        stack.callback(reader.close)
        thread = stack.enter_context(ThreadPoolExecutor(1, "oracle-engine-reader"))
        reading = thread.submit(reader.read, 0)
        for number in range(1, reader.count + 1):
            found = reading.result()
            if number < reader.count:
                reading = thread.submit(reader.read, number)
            if found is not None:
                yield found


class _Reader:
    """Reads blocks into memory that is used again: of the block before the last one."""

    def __init__(self, rows: FileRows, spans: Int64[Tensor, "S 2"] | None, block_bytes: int) -> None:
        self.rows, self.spans = rows, spans
        self.row_bytes = max(1, rows.nbytes // len(rows))
        self.size = max(1, min(len(rows), block_bytes // self.row_bytes))
        self.count = -(-len(rows) // self.size)
        self.file: tuple[FilePart, int] | None = None
        self.memory = [torch.empty(0, dtype=torch.uint8)] * 3

    def read(self, number: int) -> FileBlock | None:
        """Return the rows of a block that are asked for, in rising order, or None where there are none."""
        start, stop = number * self.size, min((number + 1) * self.size, len(self.rows))
        index, place = self._asked(start, stop)
        if len(index) == 0:
            return None
        if len(index) * (self.row_bytes + PAGE_BYTES) < SINGLY * (stop - start) * self.row_bytes:
            return FileBlock(index, self.rows.at_places(place))
        if len(index) == stop - start and self.rows.order is None:
            return FileBlock(index, self._filled(self._buffer(number % 2, stop - start), start, stop))
        whole = self._filled(self._buffer(2, stop - start), start, stop)
        values = self._buffer(number % 2, stop - start)[: len(place)]
        return FileBlock(index, torch.index_select(whole, 0, place - start, out=values))

    def close(self) -> None:
        """Close the file that was read last."""
        if self.file is not None:
            os.close(self.file[1])
            self.file = None

    def _asked(self, start: int, stop: int) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"]]:
        """Return the rows at the places [start, stop) that are asked for, rising, and their places."""
        index = place = torch.arange(start, stop)
        if self.rows.position is not None:
            index, order = self.rows.position[start:stop].sort()
            place = order + start
        if self.spans is None:
            return index, place
        asked = _inside(index, self.spans)
        return index[asked], place[asked]

    def _buffer(self, number: int, count: int) -> Tensor:
        if len(self.memory[number]) < self.size * self.row_bytes:
            self.memory[number] = torch.empty(self.size * self.row_bytes, dtype=torch.uint8)
        held = self.memory[number][: count * self.row_bytes]
        return held.view(self.rows.dtype).reshape(count, *self.rows.shape[1:])

    def _filled(self, block: Tensor, start: int, stop: int) -> Tensor:
        """Read the rows at the places [start, stop) into `block`."""
        content, starts = block.reshape(-1).view(torch.uint8).numpy().data, self.rows.starts
        while start < stop:
            number = bisect_right(starts, start) - 1
            part, last = self.rows.parts[number], min(stop, starts[number + 1])
            size = (last - start) * self.row_bytes
            _read_into(content[:size], self._open(part), part, part.start + (start - starts[number]) * self.row_bytes)
            content, start = content[size:], last
        return block

    def _open(self, part: FilePart) -> int:
        if self.file is not None and self.file[0] is part:
            return self.file[1]
        self.close()
        part.check()
        held = os.open(part.path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # the system reads ahead twice as far
            os.posix_fadvise(held, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self.file = part, held
        return held


def _inside(index: Int64[Tensor, "n"], spans: Int64[Tensor, "S 2"]) -> Bool[Tensor, "n"]:
    """Return which of the rows `index`, which rise, lie in one of the spans."""
    ends = torch.searchsorted(index, spans.contiguous())
    steps = torch.zeros(len(index) + 1, dtype=torch.int64)
    steps.index_add_(0, ends[:, 0], torch.ones_like(ends[:, 0]))
    steps.index_add_(0, ends[:, 1], -torch.ones_like(ends[:, 1]))
    return steps.cumsum(0)[:-1] > 0


def _read_into(memory: memoryview, file: int, part: FilePart, start: int) -> None:
    while memory:
        count = os.preadv(file, [memory], start)
        if count == 0:
            raise bad_file(part.path, "the file that was opened", "a shorter one", "load the data set again")
        memory, start = memory[count:], start + count
