"""What workers have done and whether they still work, for those who ask how far a job is."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ..base.files import replacing

# seconds between two writings of a record
WRITE_PERIOD = 0.5


class Record:
    """What one worker has done: units, since the seconds `began` of the clock; kept in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.began, self.units = path, time.time(), 0
        self._written = 0.0

    @classmethod
    @contextmanager
    def kept(cls, folder: Path) -> Iterator[Record]:
        """Yield the record of a worker in the folder of a job, with a claim that ends with the worker."""
        path = folder / "workers" / f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}.json"
        record = cls(path)
        record.write()
        with path.with_suffix(".claim").open("wb") as claim:
            fcntl.flock(claim, fcntl.LOCK_EX)
            yield record

    def add(self) -> None:
        """Count one more unit, which is written down once in WRITE_PERIOD at most."""
        self.units += 1
        if time.monotonic() - self._written > WRITE_PERIOD:
            self.write()

    def write(self) -> None:
        """Write what is known now."""
        self._written = time.monotonic()
        facts = {"units": self.units, "began": self.began, "now": time.time()}
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(facts), "utf-8")


def units_a_second(folder: Path) -> list[float]:
    """Return the rates of the workers of a job that still work, by what they have done so far.

    folder: of the job. A worker that has done no unit yet counts with zero.
    """
    rates = []
    for path in sorted((folder / "workers").glob("*.json")):
        # a worker may end, and the job be finished, at any time
        with suppress(OSError, ValueError):
            if _works(path.with_suffix(".claim")):
                facts = json.loads(path.read_text("utf-8"))
                rates.append(facts["units"] / max(1e-3, facts["now"] - facts["began"]))
    return rates


def _works(path: Path) -> bool:
    """Return whether the process of a record still holds it."""
    with path.open("rb") as claim:
        try:
            # of the open file and not of the process, so that a process may ask about itself
            fcntl.flock(claim, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
