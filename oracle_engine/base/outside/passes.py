"""Passes over rows that stay outside: one read for all who wait for it, by one thread, a block ahead of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, Lock, Thread, get_ident
from typing import Any

import torch

from ..arrays import Int64, Tensor
from .block_reader import BlockReader
from .lanes import BLOCKS, Lane, OutsideBlock, lane_of
from .rows import OutsideRows

Spans = Int64[Tensor, "S 2"]


class Pass:
    """One read of `rows`, for everyone who takes a seat before it begins."""

    def __init__(self, rows: OutsideRows, block_bytes: int | None = None) -> None:
        """Begin nothing yet. block_bytes: of a block; None takes that of the rows."""
        self.rows, self.block_bytes = rows, block_bytes
        self.seats: list[Seat] = []
        self._spans: list[Spans | None] = []
        self._turn = Condition()
        self._thread: Thread | None = None
        # blocks that are there by number, and events behind what was computed from them
        self._blocks: dict[int, OutsideBlock] = {}
        self._events: dict[int, list[Any]] = {}
        self._ended, self._stopped, self._error = False, False, None

    _error: BaseException | None
    lane: Lane

    def seat(self, spans: Spans | None) -> Seat:
        """Return a seat for one who asks for the rows in `spans`, [S, 2], or all; before the pass begins."""
        made = Seat(self)
        self.seats.append(made)
        self._spans.append(None if spans is None else spans.cpu())
        return made

    def begin(self) -> None:
        """Start to read."""
        thread = Thread(target=self._run, name="oracle-engine-reader", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:
            # the system has no thread left
            self._end(error)

    def leave(self, seat: Seat) -> bool:
        """Give up a seat; return whether it was the last one, so that the pass is to be ended."""
        with self._turn:
            self.seats.remove(seat)
            self._stopped = not self.seats
            self._turn.notify_all()
            return self._stopped

    def end(self) -> None:
        """Wait until what is being read or copied is done, once all seats are given up."""
        if self._thread is not None:
            self._thread.join()

    def block(self, number: int) -> OutsideBlock | None:
        """Return block `number` once it is there, or None where the last one was before it. Raises what reading did."""
        with self._turn:
            self._turn.wait_for(lambda: number in self._blocks or self._ended)
            if number in self._blocks:
                return self._blocks[number]
            if self._error is not None:
                raise self._error
            return None

    def next(self, seat: Seat, event: Any) -> None:
        """Note that a seat needs its block no longer, once `event` has happened, if there is one."""
        with self._turn:
            if event is not None:
                self._events.setdefault(seat.number, []).append(event)
            seat.number += 1
            self._turn.notify_all()

    def _run(self) -> None:
        """Read until nobody waits any more; an error ends all who wait."""
        try:
            self._read()
            self._end(None)
        except BaseException as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._turn:
            self._ended, self._error = True, error
            self._turn.notify_all()

    def _read(self) -> None:
        """Read the blocks that somebody waits for, and hand them on through the lane."""
        spans = [part for part in self._spans if part is not None]
        asked = torch.cat(spans) if len(spans) == len(self._spans) else None
        with ExitStack() as stack:
            reader = BlockReader(self.rows, asked, self.block_bytes)
            stack.callback(reader.close)
            self.lane = lane_of(reader.size * reader.row_bytes, self.rows.device)
            stack.callback(self.lane.close)
            for number, wanted in enumerate(reader.asked()):
                if not self.lane.copies and not self._has_room(number):
                    return
                values = reader.in_place(wanted)
                if values is None or not self.lane.takes(values):
                    values = reader.read(wanted, self.lane.memory(number))
                if not self._has_room(number):
                    return
                after = self._events.pop(number - BLOCKS, [])
                self._add(number, self.lane.send(number, wanted.index, values, after))

    def _has_room(self, number: int) -> bool:
        """Wait until the block whose place block `number` takes is needed no longer; return whether anyone waits."""
        with self._turn:
            self._turn.wait_for(lambda: self._stopped or all(seat.number > number - BLOCKS for seat in self.seats))
            return not self._stopped

    def _add(self, number: int, block: OutsideBlock) -> None:
        with self._turn:
            self._blocks.pop(number - BLOCKS, None)
            self._blocks[number] = block
            self._turn.notify_all()


class Seat:
    """A place in a pass, of one thread.

    number: of the block that is used, or waited for.
    """

    def __init__(self, its_pass: Pass) -> None:
        """Take a place in `its_pass`."""
        self.its_pass, self.number, self.thread = its_pass, 0, get_ident()

    def blocks(self) -> Iterator[OutsideBlock]:
        """Yield the blocks of the pass; each is to be used before the next one is asked for."""
        while (block := self.its_pass.block(self.number)) is not None:
            lane = self.its_pass.lane
            lane.arrive(block)
            yield block
            self.its_pass.next(self, lane.left())


class Passes:
    """The passes over some rows: one at a time, and the next one for all who came meanwhile."""

    def __init__(self) -> None:
        """Begin nothing."""
        self._lock = Lock()
        self._running: Pass | None = None
        self._waiting: Pass | None = None

    @contextmanager
    def next_blocks(self, rows: OutsideRows, spans: Spans) -> Iterator[Iterator[OutsideBlock]]:
        """Give the blocks of the next pass over `rows`, with those in `spans`, [S, 2], and perhaps others."""
        seat = self._seat(rows, spans)
        try:
            yield seat.blocks()
        finally:
            self._leave(seat)

    def _seat(self, rows: OutsideRows, spans: Spans) -> Seat:
        """Return a seat in the pass that begins next, which begins now where none runs."""
        with self._lock:
            running = self._running
            if running is not None and any(seat.thread == get_ident() for seat in list(running.seats)):
                raise AssertionError("a pass within a pass over the same rows would wait for itself")
            waiting = self._waiting = self._waiting or Pass(rows)
            seat = waiting.seat(spans)
            if running is None:
                self._begin()
            return seat

    def _leave(self, seat: Seat) -> None:
        """Give a seat back; the last to leave a pass ends it, and the next one begins."""
        own = seat.its_pass
        with self._lock:
            last = own.leave(seat)
            if last and own is self._waiting:
                self._waiting = None
        if not last:
            return
        try:
            own.end()
        finally:
            self._after(own)

    def _after(self, ended: Pass) -> None:
        with self._lock:
            if ended is self._running:
                self._running = None
                self._begin()

    def _begin(self) -> None:
        self._running, self._waiting = self._waiting, None
        if self._running is not None:
            self._running.begin()


def passes_of(rows: OutsideRows) -> Passes:
    """Return the passes over `rows` that all threads of this process share; a process that was forked has its own."""
    found: Passes = rows.kept.setdefault(os.getpid(), Passes())
    return found
