"""Signs of life: what tells a rank that works for long from one that has stopped, gone or never came."""

from __future__ import annotations

import json
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# beats in the time after which a silent rank is lost, and seconds between two beats at most
BEATS, LONGEST_PERIOD = 8, 1.0
# seconds that a rank which gives up waits for its note to be written
LEAVING = 0.5


@dataclass
class Place:
    """Where a rank is: to how many meetings it has come, and whether it is in the last one or works for the next."""

    meeting: int = 0
    busy: bool = False


class Note(NamedTuple):
    """What has become of a rank, in words, its number where it is known, and the remedy."""

    found: str
    rank: int | None
    remedy: str


@dataclass
class Sign:
    """What was last seen of another rank: its beat, where it was, and when the beat last changed and it last moved."""

    beat: int
    place: Place
    changed: float
    moved: float


@dataclass
class Sightings:
    """What the thread of a pulse has seen, by monotonic seconds.

    signs: of other ranks. note: what a rank left that failed or found another one lost. answered: when the store last
    answered, or None before a watch. failure: what the store answered instead.
    """

    signs: dict[int, Sign] = field(default_factory=dict)
    note: Note | None = None
    answered: float | None = None
    failure: str | None = None


class Pulse:
    """A thread that tells the other ranks where this one is, and watches them while this one waits.

    All that could block on the store happens in the thread, over a connection of its own.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        """Start to beat.

        store: a key-value store of torch.distributed that all ranks share, for this purpose only. rank: of this
        process. size: how many ranks there are. timeout: seconds after which silence means loss.
        """
        self.period = min(LONGEST_PERIOD, timeout / BEATS)
        self.place, self.seen, self.watching = Place(), Sightings(), threading.Event()
        self._notes: list[Note] = []
        ended, woken = threading.Event(), threading.Event()
        self._woken = woken
        self.others = [other for other in range(size) if other != rank]
        beater = _Beater(store, rank, self.others, self, ended)
        thread = threading.Thread(target=beater.run, name=f"oracle-engine pulse {rank}", daemon=True)
        thread.start()
        self.end = weakref.finalize(self, _end, ended, woken, thread)

    def watch(self) -> None:
        """Begin to look at the other ranks; what was seen before is forgotten."""
        self.seen = Sightings()
        self.watching.set()
        self._woken.set()

    def rest(self) -> None:
        """Look at the other ranks no longer."""
        self.watching.clear()

    def leave(self, note: Note) -> None:
        """Let the other ranks know that one is lost, before this one ends; waits for the store for LEAVING seconds."""
        self._notes.append(note)
        self._woken.set()
        until = time.monotonic() + LEAVING
        while self._notes and time.monotonic() < until:
            time.sleep(0.005)


class _Beater:
    """What the thread of a pulse does; it holds the pulse weakly, so that the pulse can end."""

    def __init__(self, store: Any, rank: int, others: list[int], pulse: Pulse, ended: threading.Event) -> None:
        self.store, self.rank, self.others, self.ended = store, rank, others, ended
        self.period, self.woken = pulse.period, pulse._woken
        self.pulse = weakref.ref(pulse)
        self.beat = 0

    def run(self) -> None:
        """Beat until the pulse ends or is gone."""
        while not self.ended.is_set():
            pulse = self.pulse()
            if pulse is None:
                return
            self._once(pulse)
            del pulse
            self.woken.wait(self.period)
            self.woken.clear()

    def _once(self, pulse: Pulse) -> None:
        """Tell where this rank is, leave its note where there is one, and look at the others where somebody waits."""
        self.beat += 1
        place, seen = pulse.place, pulse.seen
        try:
            self.store.set(f"beat/{self.rank}", f"{self.beat} {place.meeting} {int(place.busy)}")
            while pulse._notes:
                # the first that was lost is why others are
                if not self.store.check(["note"]):
                    self.store.set("note", json.dumps(pulse._notes[-1]))
                pulse._notes.pop()
            if pulse.watching.is_set():
                self._look(seen)
        except (RuntimeError, OSError) as error:
            # torch words the loss of a store as one or the other
            seen.failure = str(error).splitlines()[0]

    def _look(self, seen: Sightings) -> None:
        """Note what each of the other ranks last told, and when it changed."""
        for other in self.others:
            if not self.store.check([f"beat/{other}"]):
                continue
            beat, meeting, busy = (int(part) for part in self.store.get(f"beat/{other}").split())
            now, before = time.monotonic(), seen.signs.get(other)
            place = Place(meeting, bool(busy))
            changed = now if before is None or before.beat != beat else before.changed
            moved = now if before is None or before.place != place else before.moved
            seen.signs[other] = Sign(beat, place, changed, moved)
        if seen.note is None and self.store.check(["note"]):
            seen.note = Note(*json.loads(self.store.get("note")))
        seen.answered, seen.failure = time.monotonic(), None


def _end(ended: threading.Event, woken: threading.Event, thread: threading.Thread) -> None:
    """Stop the thread of a pulse."""
    ended.set()
    woken.set()
    # a thread that is inside a store which does not answer is left behind
    if thread is not threading.current_thread():
        thread.join(1.0)
