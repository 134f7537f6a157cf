"""A lane to a card that is not there: its copies are done later, by a thread, in memory that holds nonsense before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from threading import Condition, Event, Thread, local
from time import sleep
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle_engine.base.outside import lanes
from oracle_engine.base.outside.lanes import CudaLane, OutsideBlock


class PretendedStream:
    """A queue of work that a thread does in order."""

    def __init__(self, device: object = None) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (work := self.queue.get()) is not None:
            work()

    def wait_event(self, event: PretendedEvent) -> None:
        self.queue.put(event.happened.wait)

    def wait_stream(self, stream: object) -> None:
        """What the calling thread computes is done at once."""

    def synchronize(self) -> None:
        event = PretendedEvent()
        event.record(self)
        event.synchronize()


class Here:
    """The stream of the calling thread, whose work is done at once."""

    def wait_event(self, event: PretendedEvent) -> None:
        event.synchronize()


class PretendedEvent:
    """An event of a pretended stream."""

    def __init__(self, *, blocking: bool = False) -> None:
        self.happened = Event()

    def record(self, stream: PretendedStream | Here) -> None:
        if isinstance(stream, PretendedStream):
            stream.queue.put(self.happened.set)
        else:
            self.happened.set()

    def synchronize(self) -> None:
        assert self.happened.wait(30), "a copy that was waited for never came"


class PretendedCuda:
    """torch.cuda, as far as a lane asks for it."""

    Stream, Event = PretendedStream, PretendedEvent

    def __init__(self, computing: PretendedStream | Here) -> None:
        self.current, self.computing = local(), computing

    def device(self, device: object) -> Any:
        return nullcontext()

    def current_stream(self, device: object) -> PretendedStream | Here:
        return self.computing

    @contextmanager
    def stream(self, stream: PretendedStream) -> Iterator[None]:
        self.current.stream = stream
        yield
        self.current.stream = None


class Steps:
    """What happens to the blocks of all lanes, in order: ("send", number).

    computing: the stream of the kernels. delay: seconds that a copy takes.
    """

    def __init__(self) -> None:
        self.computing: PretendedStream | Here = Here()
        self.delay = 0.0
        self.found: list[tuple[str, int]] = []
        self._more = Condition()

    def add(self, step: str, number: int) -> None:
        with self._more:
            self.found.append((step, number))
            self._more.notify_all()

    def wait(self, step: str, number: int, seconds: float) -> bool:
        """Return whether a step comes within so many seconds."""
        with self._more:
            return self._more.wait_for(lambda: (step, number) in self.found, seconds)


class PretendedLane(CudaLane):
    """A lane on which copies come late."""

    def __init__(self, block_bytes: int, device: torch.device, steps: Steps) -> None:
        self.steps = steps
        super().__init__(block_bytes, device, cuda=PretendedCuda(steps.computing))

    def send(self, number: int, index: Tensor, values: Tensor, after: Sequence[Any]) -> OutsideBlock:
        self.steps.add("send", number)
        return super().send(number, index, values, after)

    def takes(self, values: Tensor) -> bool:
        return False

    def close(self) -> None:
        super().close()
        self.stream.queue.put(None)

    def _pinned(self, size: int) -> Tensor:
        return torch.full((size,), 255, dtype=torch.uint8)

    def _on_device(self, size: int) -> Tensor:
        return torch.full((size,), 255, dtype=torch.uint8)

    def _copy(self, there: Tensor, here: Tensor) -> None:
        def late() -> None:
            sleep(self.steps.delay)
            there.copy_(here)

        self.stream.queue.put(late)

    def _keep(self, memory: Tensor, stream: Any) -> None:
        assert memory.numel() > 0


def pretend_lane(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Send all blocks along pretended lanes; return what happens to them."""
    steps = Steps()
    monkeypatch.setitem(lanes.LANES, "cpu", lambda size, device: PretendedLane(size, device, steps))
    return steps
