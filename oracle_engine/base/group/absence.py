"""What has become of a rank that does not come to a meeting: stopped, gone, elsewhere, or at work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import DistributedError, lost
from .pulse import Note, Pulse, Sign

AGAIN = "start the ranks again"


@dataclass(frozen=True)
class Waiting:
    """What a rank waits for: an operation, since when by the monotonic clock, and the number of the meeting."""

    operation: str
    began: float
    meeting: int


def absence(pulse: Pulse, waiting: Waiting, patience: float, *, gone: bool = False) -> DistributedError | None:
    """Return why the other ranks will not come, or None where they still may: one that works never counts as lost.

    pulse: watches them. waiting: for what. patience: seconds without a sign of life, or away, that they are given.
    gone: whether one of them is known to have ended, so that silence means this.
    """
    now = time.monotonic()
    for note in _findings(pulse, waiting, now, patience, gone):
        return lost(waiting.operation, note.found, now - waiting.began, note.remedy, rank=note.rank)
    return None


def _findings(pulse: Pulse, waiting: Waiting, now: float, patience: float, gone: bool) -> Iterator[Note]:
    """Yield what may have become of the other ranks, the likeliest first."""
    seen = pulse.seen
    if seen.note is not None:
        yield seen.note
    # one that gave up because of the lost one may be silent too, but not for as long
    silences = [
        (now - (sign.changed if (sign := seen.signs.get(rank)) else waiting.began), rank) for rank in pulse.others
    ]
    for silence, rank in sorted(silences, reverse=True):
        # who was never seen is not lost where the store was not either
        if silence >= patience and (rank in seen.signs or seen.answered is not None):
            what = "has ended, or its connection broke" if gone else f"gave no sign of life for {silence:.1f} s"
            yield Note(f"rank {rank} {what}", rank, f"{AGAIN}, and look for what ended or stopped it")
    # where one is known to have ended, those that are alive have not
    for rank, sign in () if gone else seen.signs.items():
        if _is_elsewhere(sign, waiting) and now - max(sign.moved, waiting.began) >= patience:
            what = f"rank {rank} is alive and did not come for {patience:.1f} s"
            yield Note(what, rank, "make the same calls on every rank, or pass a longer timeout")
    since = waiting.began if seen.answered is None else seen.answered
    if now - since >= patience or (gone and seen.failure is not None):
        words = f": {seen.failure}" if seen.failure else ""
        what = f"the store of the process group is gone or does not answer{words}"
        yield Note(what, None, f"{AGAIN}; rank 0 or torchrun keeps the store")


def _is_elsewhere(sign: Sign, waiting: Waiting) -> bool:
    # one that waits at an earlier meeting does so for a third rank
    return sign.place.meeting < waiting.meeting and not sign.place.busy
