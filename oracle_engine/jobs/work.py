"""A worker: it takes units that nobody has, answers blocks whose units are done, and ends when there are none left."""

from __future__ import annotations

import time
from collections.abc import Callable

from .folder import JobFolder
from .records import Record
from .spec import Unit
from .units import Units

# blocks whose units are done together, shard by shard: their states are on disk until they are answered
WINDOW = 8
# seconds to wait for units that others have
PATIENCE = 0.2


class Worker:
    """Does units of the job in `folder` by `units`.

    first: the shard that it begins with, so that several workers read different ones. goes_on: asked before each unit.
    progress: called after each.
    """

    def __init__(
        self,
        folder: JobFolder,
        units: Units,
        *,
        first: int = 0,
        goes_on: Callable[[], bool] = lambda: True,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.units, self.first = folder, units, first
        self._goes_on, self._progress = goes_on, progress

    def work(self) -> None:
        """Do units until all blocks are answered, here or by others, or until it is told to stop.

        Raises InputError for queries that cannot be answered, and OSError where there is no room.
        """
        with Record.kept(self.folder.path) as record:
            while self._goes_on() and (pending := self.folder.pending()):
                before = record.units
                for start in range(0, len(pending), WINDOW):
                    self._window(pending[start : start + WINDOW], record)
                if record.units == before:
                    time.sleep(PATIENCE)

    def _window(self, blocks: list[int], record: Record) -> None:
        """Do the units of some blocks, a shard at a time, then answer these blocks."""
        shards = self.folder.spec.shards
        for step in range(shards):
            for block in blocks:
                if not self._goes_on():
                    return
                if self._unit(Unit(block, (self.first + step) % shards)):
                    record.add()
                    self._progress()
        for block in blocks:
            self._answer(block)

    def _unit(self, unit: Unit) -> bool:
        """Do a unit that nobody has; return whether this worker did it."""
        if self.folder.is_done(unit):
            return False
        with self.folder.claims.hold(self.folder.unit_claim(unit)) as ours:
            # whoever had the claim may have done it meanwhile
            if not ours or self.folder.is_done(unit):
                return False
            self.folder.write_state(unit, self.units.state(unit))
        return True

    def _answer(self, block: int) -> None:
        """Merge the states of a block into its answers, where all are there and nobody has."""
        if self.folder.is_answered(block) or not self.folder.has_states(block):
            return
        with self.folder.claims.hold(self.folder.block_claim(block)) as ours:
            if not ours or self.folder.is_answered(block):
                return
            states = self.folder.states(block)
            if states is not None:
                self.folder.write_answer(block, self.units.answer(block, states))
