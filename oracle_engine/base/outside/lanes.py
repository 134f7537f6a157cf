"""How blocks of rows come from the thread that reads them to the device that scans them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..arrays import Int64, Shaped, Tensor

# blocks on the device: one is scanned while the next one arrives
BLOCKS = 2


@dataclass(frozen=True, eq=False)
class OutsideBlock:
    """Some of the rows, read together, where they are scanned.

    index: their numbers, rising, [n]. values: [n, *shape]. numbers: the index on the host. copied: an event, from which
    on they are there, or None. The values are those of this block only until the next one is asked for.
    """

    index: Int64[Tensor, "n"]
    values: Shaped[Tensor, "n ..."]
    numbers: Int64[Tensor, "n"]
    copied: Any = None


@runtime_checkable
class Lane(Protocol):
    """The way of the blocks of one pass, numbered from 0; the thread that reads calls all but `arrive` and `left`."""

    @property
    def copies(self) -> bool:
        """Whether blocks are copied, so that the next one is read before there is room for it."""
        ...

    def memory(self, number: int) -> Tensor:
        """Return memory on the host that block `number` is read into, once what was in it has been sent."""
        ...

    def takes(self, values: Tensor) -> bool:
        """Return whether rows in memory can be sent from where they are."""
        ...

    def send(self, number: int, index: Tensor, values: Tensor, after: Sequence[Any]) -> OutsideBlock:
        """Send block `number`, which takes the place of one that is scanned until the events `after`."""
        ...

    def close(self) -> None:
        """Wait for what was sent."""
        ...

    def arrive(self, block: OutsideBlock) -> None:
        """Let what is computed from now on wait for `block`."""
        ...

    def left(self) -> Any:
        """Return an event: the end of what has been computed so far, or None where that is over."""
        ...


class HostLane:
    """Blocks that are scanned where they were read."""

    copies = False

    def __init__(self, block_bytes: int, device: torch.device) -> None:
        """Take memory when it is asked for: blocks of `block_bytes`. device: the CPU."""
        self.block_bytes, self.device = block_bytes, device
        self._blocks: list[Tensor | None] = [None] * BLOCKS

    def memory(self, number: int) -> Tensor:
        """Return memory for block `number`, that of the block before the last one."""
        held = self._blocks[number % BLOCKS]
        if held is None:
            held = torch.empty(self.block_bytes, dtype=torch.uint8, device=self.device)
            self._blocks[number % BLOCKS] = held
        return held

    def takes(self, values: Tensor) -> bool:
        """Return True: rows in memory are scanned there."""
        return True

    def send(self, number: int, index: Tensor, values: Tensor, after: Sequence[Any]) -> OutsideBlock:
        """Return the block."""
        return OutsideBlock(index, values, index)

    def close(self) -> None:
        """Do nothing."""

    def arrive(self, block: OutsideBlock) -> None:
        """Do nothing: the block is there."""

    def left(self) -> None:
        """Return None: what was computed is done."""
        return


class CudaLane:
    """Blocks that are copied to a CUDA device, from a ring of pinned memory, on a stream of their own.

    cuda: torch.cuda, or what does as it does.
    """

    copies = True
    # pinned blocks: one is read while others are on their way
    ring = 3

    def __init__(self, block_bytes: int, device: torch.device, *, cuda: Any = torch.cuda) -> None:
        """Take memory for `BLOCKS` blocks of `block_bytes` on `device`; pinned memory where it is asked for."""
        self.device, self.block_bytes, self.cuda = device, block_bytes, cuda
        with cuda.device(device):
            self.stream = cuda.Stream(device=device)
            self._there = [self._on_device(block_bytes) for _ in range(BLOCKS)]
            # the memory may have been another's, whose work is not over
            self.stream.wait_stream(cuda.current_stream(device))
        self._here: list[Tensor | None] = [None] * self.ring
        self._sent: list[Any] = [None] * self.ring

    def memory(self, number: int) -> Tensor:
        """Return pinned memory for block `number`, after a wait for the copy of what was in it."""
        place = number % self.ring
        if self._sent[place] is not None:
            self._sent[place].synchronize()
        held = self._here[place]
        if held is None:
            # the thread that reads has no device of its own yet
            with self.cuda.device(self.device):
                held = self._here[place] = self._pinned(self.block_bytes)
        return held

    def takes(self, values: Tensor) -> bool:
        """Return whether the rows lie in pinned memory."""
        return values.is_pinned() and values.is_contiguous()

    def send(self, number: int, index: Tensor, values: Tensor, after: Sequence[Any]) -> OutsideBlock:
        """Queue the copies of block `number` behind the events `after`."""
        with self.cuda.stream(self.stream):
            for event in after:
                self.stream.wait_event(event)
            room = self._there[number % BLOCKS][: values.nbytes].view(values.dtype).reshape(values.shape)
            self._copy(room, values)
            numbers = self._numbers(index)
            # who waits for it on the host sleeps
            copied = self.cuda.Event(blocking=True)
            copied.record(self.stream)
        self._sent[number % self.ring] = copied
        return OutsideBlock(numbers, room, index, copied)

    def close(self) -> None:
        """Wait for the copies: their memory goes back to others."""
        self.stream.synchronize()

    def arrive(self, block: OutsideBlock) -> None:
        """Queue what is computed from now on behind the copy of `block`, whose memory is not given away before."""
        stream = self.cuda.current_stream(self.device)
        stream.wait_event(block.copied)
        self._keep(block.values, stream)
        self._keep(block.index, stream)

    def left(self) -> Any:
        """Return an event behind what was queued so far."""
        event = self.cuda.Event()
        event.record(self.cuda.current_stream(self.device))
        return event

    def _numbers(self, index: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Return the numbers of rows on the device."""
        first, last = int(index[0]), int(index[-1])
        if last - first + 1 == len(index):
            return torch.arange(first, last + 1, device=self.device)
        numbers = self._on_device(index.nbytes).view(index.dtype)
        self._copy(numbers, self._pinned(index.nbytes).view(index.dtype).copy_(index))
        return numbers

    def _keep(self, memory: Tensor, stream: Any) -> None:
        memory.record_stream(stream)

    def _pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def _on_device(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _copy(self, there: Tensor, here: Tensor) -> None:
        there.copy_(here, non_blocking=True)


LANES: dict[str, Callable[[int, torch.device], Lane]] = {"cpu": HostLane, "cuda": CudaLane}


def lane_of(block_bytes: int, device: torch.device) -> Lane:
    """Return a way for blocks of `block_bytes` to `device`, whose type has to be one of LANES."""
    return LANES[device.type](block_bytes, device)
