"""The processes that hold one data set together: a group of their own, what they compare, and how they exchange."""

from __future__ import annotations

import ctypes
import hashlib
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from ..arrays import Int64, Shaped, Tensor, is_number
from ..errors import DistributedError, InputError, OracleError, invalid, lost
from .absence import AGAIN, Waiting, absence
from .pulse import Note, Pulse

# collectives never time out by themselves: a rank that works may need hours
FOREVER = timedelta(days=30)
# seconds of a wait between two looks at the other ranks, and before the first of them
SLICE = 0.05
# bytes of the words in which a rank describes what it asks
WORDS = 240
# what stands in a comparison for a rank that refuses what it was asked
REFUSED = -1

_numbers = count()


@dataclass(frozen=True)
class Asked:
    """One thing that a rank asks and that must be the same on all.

    parameter: the argument. value: a number that differs where what is asked does. words: what is asked, for errors.
    """

    parameter: str
    value: int
    words: Callable[[], str]


def share_of(count: int, rank: int, size: int) -> tuple[int, int]:
    """Return which of `count` things in a row belong to a rank of `size`: the first, and the one behind the last."""
    return count * rank // size, count * (rank + 1) // size


def digest_of(text: str) -> int:
    """Return a number below 2^32 that differs where texts do."""
    return int(hashlib.blake2b(text.encode(), digest_size=4).hexdigest(), 16)


def number_of(tensor: Tensor | None) -> int:
    """Return a number that differs where tensors do: a checksum of shape and bytes; costs a read of the bytes."""
    if tensor is None:
        return 0
    held = tensor.detach().contiguous().cpu()
    facts = f"{list(held.shape)}{held.dtype}".encode()
    return 1 + zlib.crc32(held.numpy().data if held.numel() else b"", zlib.crc32(facts))


class Ranks:
    """The ranks of a group of torch.distributed that answer together; every method but the properties is a collective.

    rank: of this process in the group. size: how many there are. timeout: seconds after which a rank that gives no sign
    of life, or does not come, is lost.
    """

    def __init__(self, mesh: Any, timeout: float) -> None:
        """Make a group of the ranks of `mesh`, a DeviceMesh of one dimension, or of all where it is None.

        timeout: in seconds, above 0. Raises InputError without an initialised process group, outside of the mesh, and
        for meshes of more dimensions.
        """
        if not is_number(timeout) or not 0.0 < timeout < math.inf:
            raise invalid("timeout", "must be a number of seconds above 0", timeout, "pass 60")
        if not (dist.is_available() and dist.is_initialized()):
            remedy = "run under torchrun and call torch.distributed.init_process_group first"
            raise invalid("mesh", "needs an initialised process group", "none", remedy)
        members = _members(mesh)
        everyone = list(range(dist.get_world_size())) if members is None else members
        self.timeout, self.size, self.rank = float(timeout), len(everyone), everyone.index(dist.get_rank())
        limit = timedelta(seconds=self.timeout)
        local = members is not None
        self._group: Any = dist.new_group(everyone, limit, "gloo", use_local_synchronization=local)
        # that of the first rank counts: ranks may have been in different groups before
        numbers = [torch.zeros(1, dtype=torch.int64) for _ in everyone]
        dist.all_gather(numbers, torch.tensor([next(_numbers)]), group=self._group)
        _set_timeout(FOREVER, self._group)
        name = f"oracle-engine/{everyone[0]}/{int(numbers[0])}"
        store = torch._C._distributed_c10d.PrefixStore(name, dist.distributed_c10d._get_default_store())
        # a connection of its own: a call that waits for the store holds up no other
        beats: Any = store
        beats = beats.clone()
        beats.set_timeout(timedelta(seconds=max(1.0, self.timeout)))
        self._pulse = Pulse(beats, self.rank, self.size, self.timeout)
        self._broken: DistributedError | None = None
        self.meetings = 0
        self.compare("the engine", [Asked("timeout", int(1e3 * self.timeout), lambda: f"{timeout}")])

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Return the ranks themselves: a copy of an engine meets the others in the same group."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to be pickled: a group belongs to its processes."""
        raise invalid("engine", "can be pickled where it is not sharded", "a sharded one", "pickle its data and path")

    def compare(self, operation: str, asked: Sequence[Asked], sizes: Sequence[int] = ()) -> list[list[int]]:
        """Check that all ranks ask the same, and return the `sizes` of every rank.

        operation: what is asked for, in words. sizes: whole numbers that may differ. Raises InputError that names the
        parameter and the rank where they do not ask the same or one of them refuses.
        """
        kind = zlib.crc32(" ".join([operation, *(one.parameter for one in asked)]).encode())
        mine = torch.tensor([kind, *(one.value for one in asked), *sizes], dtype=torch.int64)
        found = self._headers(operation, mine)
        refused = [rank for rank, header in enumerate(found) if int(header[0]) == REFUSED]
        if refused:
            words = self._described(operation, "")[refused[0]]
            remedy = f"look at the error of rank {refused[0]}"
            raise invalid("queries", "must be accepted on every rank", f"on rank {refused[0]}: {words}", remedy)
        self._check_same(operation, kind, asked, found)
        first = 1 + len(asked)
        return [header[first : first + len(sizes)].tolist() for header in found]

    def refuse(self, error: OracleError) -> None:
        """Let the ranks that come to a comparison know that this one has refused what it was asked, with `error`."""
        with _silenced():
            found = self._headers("refusal", torch.tensor([REFUSED], dtype=torch.int64))
            if any(int(header[0]) != REFUSED for header in found):
                self._described("refusal", str(error))

    def gather(self, operation: str, values: Shaped[Tensor, "..."]) -> list[Tensor]:
        """Return `values`, on the CPU and of one shape and dtype on all ranks, of every rank."""
        if self.size == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.size)]
        self._meet(operation, lambda: dist.all_gather(found, values, group=self._group, async_op=True))
        return found

    def exchange(
        self, operation: str, values: Shaped[Tensor, "n C"], send: Sequence[int], receive: Sequence[int]
    ) -> list[Tensor]:
        """Send rows of `values` to each rank, `send` of them in turn, and return what each rank sent here.

        values: [sum(send), C], on the CPU. receive: how many rows each rank sends here.
        """
        if self.size == 1:
            return [values]
        found = values.new_empty(sum(receive), values.shape[1])
        self._meet(
            operation,
            lambda: dist.all_to_all_single(found, values, list(receive), list(send), group=self._group, async_op=True),
        )
        return list(found.split(list(receive)))

    def share(self, operation: str, values: Shaped[Tensor, "n C"], counts: Sequence[int]) -> list[Tensor]:
        """Return the rows that each rank has, `counts` of them; values: those of this rank, on the CPU."""
        copies = values.repeat(self.size, *[1] * (values.ndim - 1))
        return self.exchange(operation, copies, [len(values)] * self.size, counts)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say to the others that this rank works on what is due at the next meeting, however long that takes.

        An exception inside ends the group: the other ranks raise DistributedError.
        """
        self._pulse.place.busy = True
        try:
            yield
        except BaseException as error:
            words = f"rank {self.rank} failed ({type(error).__name__}: {' '.join(str(error).split())[:WORDS]})"
            self._break(lost("a call", words, 0.0, AGAIN, rank=self.rank))
            raise
        finally:
            self._pulse.place.busy = False

    def _headers(self, operation: str, mine: Int64[Tensor, "n"]) -> list[Tensor]:
        # of one length, so that ranks which ask for different things can still be compared
        padded = torch.nn.functional.pad(mine, (0, HEADER - len(mine)))
        return self.gather(operation, padded)

    def _check_same(self, operation: str, kind: int, asked: Sequence[Asked], found: Sequence[Tensor]) -> None:
        """Raise InputError where the headers of the ranks show that they ask different things."""
        for place, one in enumerate([Asked("call", kind, lambda: operation), *asked]):
            values = [int(header[place]) for header in found]
            if len(set(values)) > 1:
                words = self._described(operation, one.words())
                other = next(rank for rank, value in enumerate(values) if value != values[0])
                text = f"{words[other]} on rank {other}, {words[0]} on rank 0"
                remedy = "pass the same on every rank"
                raise invalid(one.parameter, "must be the same on all ranks", text, remedy)

    def _described(self, operation: str, words: str) -> list[str]:
        held = words.encode()[:WORDS].ljust(WORDS)
        found = self.gather(operation, torch.frombuffer(bytearray(held), dtype=torch.uint8))
        return [bytes(part.numpy()).decode(errors="replace").strip() for part in found]

    def _meet(self, operation: str, start: Callable[[], Any]) -> None:
        """Start a collective and wait for it, as long as every other rank gives a sign of life."""
        if self._broken is not None:
            raise self._broken
        place, before = self._pulse.place, self._pulse.place.busy
        place.meeting = self.meetings = self.meetings + 1
        place.busy = True
        waiting = Waiting(operation, time.monotonic(), self.meetings)
        work: Any = None
        try:
            work = start()
            failure = self._finished(work, waiting)
        except RuntimeError as error:
            failure = error
        finally:
            place.busy = before
        if failure is not None:
            lost_rank = failure if isinstance(failure, DistributedError) else self._culprit(waiting)
            self._break(lost_rank, work)
            raise lost_rank

    def _finished(self, work: Any, waiting: Waiting) -> RuntimeError | None:
        """Return None once `work` is done, or why it never will be."""
        watching = False
        try:
            while True:
                try:
                    work.wait(timedelta(seconds=SLICE))
                    return None
                except RuntimeError as error:
                    if work.is_completed():
                        return _outcome(work, error)
                if not watching and time.monotonic() - waiting.began > 2 * SLICE:
                    watching = True
                    self._pulse.watch()
                found = absence(self._pulse, waiting, self.timeout) if watching else None
                if found is not None:
                    return found
        finally:
            self._pulse.rest()

    def _culprit(self, waiting: Waiting) -> DistributedError:
        """Return which rank has gone, after a connection broke: the one that beats no longer."""
        self._pulse.watch()
        began, patience = time.monotonic(), 3 * self._pulse.period
        while time.monotonic() - began < patience + 2 * self._pulse.period:
            time.sleep(SLICE)
            found = absence(self._pulse, waiting, patience, gone=True)
            if found is not None:
                return found
        self._pulse.rest()
        seconds = time.monotonic() - waiting.began
        return lost(waiting.operation, "a connection to another rank broke", seconds, AGAIN)

    def _break(self, error: DistributedError, work: Any = None) -> None:
        """Answer no more: every later call raises `error`."""
        self._broken = error
        if work is not None and not work.is_completed():
            # no thread of gloo can be called back; one that waits in a destructor would keep this process from ending
            for held in (self._group, self._group._get_backend(torch.device("cpu")), work):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
        self._pulse.leave(Note(error.found, error.rank, error.remedy or AGAIN))


# numbers of a header: what is asked at once is less
HEADER = 24


def _set_timeout(limit: timedelta, group: Any) -> None:
    """Let what a group is asked from now on last as long as `limit`."""
    # torch before 2.14 has it under this name only
    setter: Any = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    setter(limit, group)


def _members(mesh: Any) -> list[int] | None:
    """Return the ranks of a DeviceMesh, or None without one. Raises InputError where it does not hold this rank."""
    if mesh is None:
        return None
    if getattr(mesh, "ndim", None) != 1:
        found = f"{type(mesh).__name__} of {getattr(mesh, 'ndim', 'no')} dimensions"
        raise invalid("mesh", "must be a DeviceMesh of one dimension", found, "name one of them, as mesh['shard']")
    members = [int(rank) for rank in mesh.mesh.reshape(-1).tolist()]
    if dist.get_rank() not in members:
        raise invalid("mesh", "must hold this rank", f"ranks {members}, this is {dist.get_rank()}", "leave it out here")
    return members


def _outcome(work: Any, error: RuntimeError) -> RuntimeError | None:
    """Return what has become of a completed `work`, whose wait may have timed out just before."""
    try:
        work.wait()
    except RuntimeError as failure:
        return failure
    return None


@contextmanager
def _silenced() -> Iterator[None]:
    try:
        yield
    except (DistributedError, InputError):
        return
