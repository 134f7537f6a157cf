"""Tasks of processes that start anew: this module imports little, so that they start soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from oracle_engine.base.errors import invalid

GoesOn = Callable[[], bool]


def killed_once(folder: Path, number: int, goes_on: GoesOn) -> None:
    """Leave a file, but be killed the first time."""
    if not (folder / "killed").exists():
        (folder / "killed").touch()
        killed(number, goes_on)
    (folder / f"done-{number}").touch()


def killed(number: int, goes_on: GoesOn) -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def one_fails(folder: Path, number: int, goes_on: GoesOn) -> None:
    """Raise an error in one process; the other works until it is told to stop."""
    if number == 0:
        raise invalid("x", "must be finite", "a NaN in query 7", "look at it")
    while goes_on():
        time.sleep(0.01)
    (folder / "told").touch()
