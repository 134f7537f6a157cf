"""A tensor whose rows stay outside of the memory that is computed in: in files, in any order, or on the host."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch

from ..arrays import Int64, Shaped, Tensor
from ..errors import InputError, invalid
from ..mapped import mapped
from .parts import MemoryPart, Part

# bytes of a block of rows that is read at once
BLOCK_BYTES = 32 << 20

# ranges of rows that are parts of their own; more are an order
MOST_PIECES = 64


class OutsideRows(torch.Tensor):
    """Samples [N, *shape] that stay in files or on the host, in their order or in another; a read-only tensor.

    parts: where they lie. order: the place in the files of each row, [N] int64, of all or some of the places, or None
    where they agree. device: where
    rows that are asked for come. block_bytes: of the blocks they are streamed in, or None. kept: what belongs to a
    process, by its number.

    Rows that are asked for, by a slice or an index, are read into an ordinary tensor. Operations that need the numbers
    of all rows at once are refused, but for copies and extremes, which go block by block. What reads the whole of the
    rows reads :func:`~oracle_engine.base.outside.blocks.blocks` instead, in the order of the files.
    """

    parts: tuple[Part, ...]
    order: Int64[Tensor, "N"] | None
    block_bytes: int | None
    kept: dict[int, Any]

    # without this torch wraps results in this class
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(
        parts: Sequence[Part],
        dtype: torch.dtype,
        shape: Sequence[int],
        order: Int64[Tensor, "N"] | None = None,
        *,
        device: torch.device | None = None,
        block_bytes: int | None = None,
    ) -> OutsideRows:
        """Return the rows of `parts`, each of `shape` in `dtype`, or those in `order`; nothing is read."""
        size = (sum(part.count for part in parts) if order is None else len(order), *shape)
        self: OutsideRows = torch.Tensor._make_wrapper_subclass(OutsideRows, size, dtype=dtype, device=device)
        self.parts, self.order, self.block_bytes, self.kept = tuple(parts), order, block_bytes, {}
        return self

    @staticmethod
    def held(rows: Shaped[Tensor, "N ..."]) -> OutsideRows:
        """Return rows in the memory of the host, [N, *shape], as rows that stay there; nothing is copied."""
        return OutsideRows.of([MemoryPart(rows.contiguous())], rows.dtype, rows.shape[1:])

    def streamed(self, device: torch.device, block_bytes: int | None) -> OutsideRows:
        """Return the same rows, read for `device` in blocks of so many bytes; None leaves that to the reader."""
        made = OutsideRows.of(
            self.parts, self.dtype, self.shape[1:], self.order, device=device, block_bytes=block_bytes
        )
        made._maps.update(self._maps)
        return made

    @property
    def in_memory(self) -> tuple[Tensor, ...]:
        """What of the rows lies in the memory of the host."""
        return tuple(part.rows for part in self.parts if isinstance(part, MemoryPart))

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the size, without the numbers."""
        return f"OutsideRows({list(self.shape)}, {self.dtype}, {len(self.parts)} parts)"

    def __reduce_ex__(self, protocol: object) -> Any:
        """Return what makes a copy in another process, which reads the same files."""
        made = partial(OutsideRows.of, device=self.device, block_bytes=self.block_bytes)
        return made, (self.parts, self.dtype, tuple(self.shape[1:]), self.order)

    def __deepcopy__(self, memo: object) -> OutsideRows:
        """Return the tensor itself: nothing can change it."""
        return self

    def __getitem__(self, index: Any) -> Any:
        """Return what an index names as an ordinary tensor, also where it names all rows."""
        # torch would import hundreds of modules to index a class of its own
        if isinstance(index, Tensor) and index.ndim > 0:
            return _indexed(self, [index])
        if isinstance(index, tuple) and index and all(isinstance(part, Tensor) for part in index):
            return _indexed(self, index)
        if isinstance(index, slice):
            whole = index.indices(len(self)) == (0, len(self), 1)
            return self.clone() if whole else _sliced(self, 0, index.start, index.stop, index.step or 1)
        return super().__getitem__(index)

    def data_ptr(self) -> int:
        """Refuse: the numbers have no address. Raises InputError."""
        raise _not_in_memory("the address", self)

    def ordered(self, order: Int64[Tensor, "N"]) -> OutsideRows:
        """Return the same rows in another order; order: the row here of each row there, [N] int64."""
        order = order.cpu()
        return self._like(self.shape[1:], order if self.order is None else self.order[order])

    def within(self, runs: Sequence[tuple[int, int]]) -> OutsideRows:
        """Return the rows in the ranges [start, stop), rising, where they are."""
        if self.order is None and len(runs) <= MOST_PIECES:
            parts = [piece for run in runs for piece in self._pieces(*run)]
            return OutsideRows.of(parts, self.dtype, self.shape[1:], device=self.device, block_bytes=self.block_bytes)
        order = [torch.arange(*run) if self.order is None else self.order[slice(*run)] for run in runs]
        return self._like(self.shape[1:], torch.cat(order))

    def _pieces(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the parts that hold the places in [start, stop), cut to them."""
        row_bytes = self.nbytes // len(self)
        for part, first in zip(self.parts, self.starts, strict=False):
            begin, end = max(start - first, 0), min(stop - first, part.count)
            if begin >= end:
                continue
            if isinstance(part, MemoryPart):
                yield MemoryPart(part.rows[begin:end])
            else:
                yield replace(part, start=part.start + begin * row_bytes, count=end - begin)

    @cached_property
    def starts(self) -> list[int]:
        """The place in the files of the first row of each part, and the number of places at the end."""
        return [0, *accumulate(part.count for part in self.parts)]

    @cached_property
    def places(self) -> tuple[Int64[Tensor, "N"], Int64[Tensor, "N"]] | None:
        """The places in the files of all rows, rising, and the row at each, [N] int64, or None where they agree."""
        if self.order is None:
            return None
        places, rows = self.order.sort()
        return places, rows

    def rows(self, index: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """Return some rows as an ordinary tensor, [n, *shape], a copy, on `device`.

        index: rows in 0..N - 1, negative ones count from the end.
        """
        index = index.cpu()
        index = torch.where(index < 0, index + len(self), index)
        if bool(((index < 0) | (index >= len(self))).any()):
            raise IndexError(f"index out of range for {len(self):,} rows")
        return self.at_places(index if self.order is None else self.order[index]).to(self.device)

    def at_places(self, place: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """Return the rows at some places of the files, [n, *shape], a copy on the host; place: [n] in 0..N - 1."""
        part = torch.bucketize(place, torch.tensor(self.starts[1:-1]), right=True)
        out = torch.empty(len(place), *self.shape[1:], dtype=self.dtype)
        for number in part.unique().tolist():
            chosen = (part == number).nonzero()[:, 0]
            out[chosen] = self.map(number, scattered=True)[place[chosen] - self.starts[number]]
        return out

    def between(self, start: int, stop: int) -> Shaped[Tensor, "n ..."]:
        """Return the rows [start, stop) as an ordinary tensor on `device`, where it can be a view of the file."""
        first = bisect_right(self.starts, start) - 1
        if self.order is not None or start >= stop or stop > self.starts[first + 1]:
            return self.rows(torch.arange(start, stop))
        return self.map(first)[start - self.starts[first] : stop - self.starts[first]].to(self.device)

    def map(self, number: int, *, scattered: bool = False) -> Shaped[Tensor, "n ..."]:
        """Return the rows of one part, mapped, to be read one after the other or here and there.

        Raises DataFileError where its file is not what it was.
        """
        part, shape = self.parts[number], (self.parts[number].count, *self.shape[1:])
        if isinstance(part, MemoryPart):
            return part.rows.reshape(shape)
        part.check()
        if (number, scattered) not in self._maps:
            self._maps[number, scattered] = mapped(part.path, self.dtype, shape, part.start, scattered=scattered)
        return self._maps[number, scattered]

    @cached_property
    def _maps(self) -> dict[tuple[int, bool], Tensor]:
        return {}

    def slices(self) -> Iterator[tuple[int, Tensor]]:
        """Yield blocks of rows in their own order, each with the number of its first row."""
        size = max(1, BLOCK_BYTES // max(1, self.nbytes // len(self)))
        for start in range(0, len(self), size):
            yield start, self.between(start, min(start + size, len(self)))

    def _like(self, shape: Sequence[int], order: Int64[Tensor, "N"] | None) -> OutsideRows:
        made = OutsideRows.of(self.parts, self.dtype, shape, order, device=self.device, block_bytes=self.block_bytes)
        made._maps.update({which: one.reshape(len(one), *shape) for which, one in self._maps.items()})
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Answer an operation of torch by rows, or refuse it."""
        answer = _ANSWERS.get(func.overloadpacket)
        if answer is None:
            raise _not_in_memory(func.overloadpacket.__name__, _first(args))
        return answer(*args, **(kwargs or {}))


def _first(args: Sequence[Any]) -> OutsideRows:
    flat = [item for one in args for item in (one if isinstance(one, (list, tuple)) else [one])]
    return next(item for item in flat if isinstance(item, OutsideRows))


def _not_in_memory(asked: str, rows: OutsideRows) -> InputError:
    """Return the error about rows that are needed as one tensor in memory."""
    held = len(rows.in_memory)
    received = f"{asked} of samples that stay {'on the host' if held else f'in {len(rows.parts):,} files'}"
    remedy = "take some of the samples by `count`, or merge the files into one, sorted by label"
    if held:
        remedy = "make the engine with resident='all'"
    return invalid("data", "must lie in memory as one tensor for this", received, remedy)


def in_one_piece(tensor: Tensor) -> bool:
    """Return whether the numbers of a tensor lie at an address, so that code outside of torch can read them."""
    return not isinstance(tensor, OutsideRows)


def in_memory(tensor: Tensor) -> Tensor:
    """Return a tensor as an ordinary one: a copy of rows that stay outside, others as they are."""
    return tensor.clone() if isinstance(tensor, OutsideRows) else tensor


def _same(rows: OutsideRows) -> OutsideRows:
    return rows._like(rows.shape[1:], rows.order)


def _viewed(rows: OutsideRows, size: Sequence[int]) -> OutsideRows:
    shape = torch.empty(len(rows), *rows.shape[1:], device="meta").view(size).shape
    if shape[0] != len(rows):
        raise invalid("data", "must keep one sample a row while it stays in files", list(shape), "take some samples")
    return rows._like(shape[1:], rows.order)


def _sliced(
    rows: OutsideRows, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Tensor:
    """Answer aten.slice: rows in a range, or a part of every row."""
    if dim % rows.ndim:
        return _slices_of_all(rows, dim, start, stop, step)
    first, last, stride = slice(start, stop, step).indices(len(rows))
    if (first, last, stride) == (0, len(rows), 1):
        return _same(rows)
    if stride == 1:
        return rows.between(first, max(first, last))
    return rows.rows(torch.arange(first, last, stride))


def _slices_of_all(rows: OutsideRows, dim: int, start: int | None, stop: int | None, step: int) -> Tensor:
    if (start or 0) == 0 and (stop is None or stop >= rows.shape[dim]) and step == 1:
        return _same(rows)
    chosen = (slice(None),) * (dim % rows.ndim) + (slice(start, stop, step),)
    return torch.cat([block[chosen] for _, block in rows.slices()])


def _selected(rows: OutsideRows, dim: int, index: int) -> Tensor:
    if dim % rows.ndim:
        return torch.cat([block.select(dim, index) for _, block in rows.slices()])
    return rows.rows(torch.tensor([index]))[0]


def _index_selected(rows: OutsideRows, dim: int, index: Tensor) -> Tensor:
    if dim % rows.ndim:
        return torch.cat([block.index_select(dim, index) for _, block in rows.slices()])
    return rows.rows(index.long())


def _indexed(rows: OutsideRows, indices: Sequence[Tensor | None]) -> Tensor:
    """Answer aten.index: rows by numbers or by a mask, and a part of each."""
    first, *others = indices
    if first is None:
        return torch.cat([block[(slice(None), *_or_all(others))] for _, block in rows.slices()])
    if first.dtype == torch.bool:
        first = first.nonzero()[:, 0]
    found = rows.rows(first.reshape(-1).long())
    if not any(isinstance(other, Tensor) for other in others):
        return found.reshape(*first.shape, *rows.shape[1:])
    row = torch.arange(len(found)).reshape(first.shape)
    return found[(row, *_or_all(others))]


def _or_all(indices: Sequence[Tensor | None]) -> list[Any]:
    return [slice(None) if index is None else index for index in indices]


def _copied(
    rows: OutsideRows, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: object
) -> Tensor:
    out = torch.empty(tuple(rows.shape), dtype=dtype or rows.dtype, device=device or rows.device)
    return _copied_into(out, rows)


def _copied_into(out: Tensor, rows: Tensor, non_blocking: bool = False) -> Tensor:
    """Answer aten.copy_ into an ordinary tensor, a block at a time; these rows never change."""
    if isinstance(out, OutsideRows) or not isinstance(rows, OutsideRows):
        raise invalid("data", "must stay as it is", "a change in place of samples in files", "change a copy")
    for start, block in rows.slices():
        out[start : start + len(block)] = block
    return out


def _extreme(name: str) -> Callable[[OutsideRows], Tensor]:
    """Return what answers aten.min or aten.max of all values."""

    def found(rows: OutsideRows) -> Tensor:
        """Return the extreme of all values, a block at a time."""
        ends = torch.stack([getattr(block, name)() for _, block in rows.slices()])
        extreme: Tensor = getattr(ends, name)()
        return extreme

    return found


_ATEN = torch.ops.aten
_ANSWERS: dict[Any, Callable[..., Any]] = {
    _ATEN.detach: _same,
    _ATEN.alias: _same,
    _ATEN.view: _viewed,
    _ATEN._unsafe_view: _viewed,
    _ATEN.slice: _sliced,
    _ATEN.select: _selected,
    _ATEN.index_select: _index_selected,
    _ATEN.index: _indexed,
    _ATEN._to_copy: _copied,
    _ATEN.clone: _copied,
    _ATEN.copy_: _copied_into,
    _ATEN.min: _extreme("min"),
    _ATEN.max: _extreme("max"),
}
