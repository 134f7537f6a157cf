"""The next target while the network trains on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from ..base.arrays import Tensor
from ..base.errors import invalid

Batch = TypeVar("Batch")
Produced = TypeVar("Produced")


def prefetched(
    compute: Callable[[Batch], Produced],
    batches: Iterable[Batch],
    *,
    depth: int = 1,
    device: torch.device | str | None = None,
) -> Iterator[Produced]:
    """Yield compute(batch) for every batch, in order, with the next ones under way while the caller works.

    compute: makes x_t, t and the target of a batch, a tensor or any nest of them; it runs in one other thread, without
        gradients, and should draw from a torch.Generator of its own: the global one is shared with the caller.
    batches: asked for in the caller's thread. depth: how many results are under way at most, at least 1.
    device: on a CUDA device the work is queued on a stream beside the caller's, which waits for each result when it
        is yielded; None for the CPU, where cores are shared: worth it where the network runs elsewhere.
    Errors of `compute` are raised where the result of their batch would be; leaving the loop early waits for what is
    under way. Costs the memory of `depth` results. Raises InputError for a depth below 1 and for a device that is not
    there.
    """
    if depth < 1:
        raise invalid("depth", "must be at least 1", depth, "pass how many results to compute ahead")
    return _ahead(compute, iter(batches), depth, _Side.of(device))


def _ahead(compute: Callable[[Any], Any], batches: Iterator[Any], depth: int, side: _Side) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:
        try:
            for batch in batches:
                waiting.append(worker.submit(side.run, compute, batch, side.mark()))
                # one is handed out for each that is begun beyond the depth
                if len(waiting) > depth:
                    yield side.handed(waiting.popleft().result())
            while waiting:
                yield side.handed(waiting.popleft().result())
        finally:
            for one in waiting:
                one.cancel()


class _Side:
    """Where the work is queued: the stream of a CUDA device, or nothing but another thread."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self.stream = stream

    @classmethod
    def of(cls, device: torch.device | str | None) -> _Side:
        """Return the side of a device. Raises InputError for a CUDA device that is not there."""
        chosen = torch.device("cpu" if device is None else device)
        if chosen.type != "cuda":
            return cls(None)
        if not torch.cuda.is_available():
            raise invalid("device", "must be there", f"{chosen} without a CUDA device", "leave it out")
        return cls(torch.cuda.Stream(chosen))

    def mark(self) -> torch.cuda.Event | None:
        """Return the place in the caller's stream up to which a batch is ready."""
        return None if self.stream is None else torch.cuda.current_stream(self.stream.device).record_event()

    def run(self, compute: Callable[[Any], Any], batch: Any, ready: torch.cuda.Event | None) -> Any:
        """Return what `compute` makes of a batch, and the place in the side stream where it is done."""
        if self.stream is not None and ready is not None:
            self.stream.wait_event(ready)
        with torch.no_grad(), nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            result = compute(batch)
        return result, None if self.stream is None else self.stream.record_event()

    def handed(self, found: tuple[Any, torch.cuda.Event | None]) -> Any:
        """Return a result that the caller's stream may use."""
        result, done = found
        if self.stream is not None and done is not None:
            stream = torch.cuda.current_stream(self.stream.device)
            stream.wait_event(done)
            for part in tree_leaves(result):
                # its memory belongs to the side stream: not to be used again before the caller's is through with it
                if isinstance(part, Tensor) and part.is_cuda:
                    part.record_stream(stream)
        return result
