"""Results computed ahead: the next target is under way while the network trains on this one."""

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

_Batch = TypeVar("_Batch")
_Produced = TypeVar("_Produced")


def prefetched(
    compute: Callable[[_Batch], _Produced],
    batches: Iterable[_Batch],
    *,
    depth: int = 1,
    device: torch.device | str | None = None,
) -> Iterator[_Produced]:
    """Yield compute(batch) for every batch, in order, with the next ones under way while the caller works.

    compute: makes x_t, t and the target of a batch, a tensor or any nest of them; it runs in one other thread, without
        gradients, and should draw from a torch.Generator of its own: the global one is shared with the caller.
    batches: what `compute` is called with; iterated over in the caller's thread.
    depth: how many results are under way at most, at least 1.
    device: on a CUDA device the work is queued on a stream beside the caller's, which waits for each result when it
        is yielded; None for the CPU, where cores are shared: worth it where the network runs elsewhere.
    Returns an iterator of as many results as there are batches. Errors of `compute` are raised where the result of
    their batch would be; leaving the loop early waits for what is under way.
    Raises InputError, before the first batch, for a `depth` below 1 and for a CUDA device where there is none.
    Costs the memory of `depth` results.

    >>> import oracle_engine as oe
    >>> list(oe.prefetched(lambda n: n * n, range(4), depth=2))
    [0, 1, 4, 9]
    """
    if depth < 1:
        raise invalid("depth", "must be at least 1", depth, "pass how many results to compute ahead")
    return _ahead(compute, iter(batches), depth, _Queue.of(device))


def _ahead(compute: Callable[[Any], Any], batches: Iterator[Any], depth: int, queue: _Queue) -> Iterator[Any]:
    """Yield the results of batches that are computed `depth` ahead, in another thread."""
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:
        try:
            for batch in batches:
                pending.append(worker.submit(queue.run, compute, batch, queue.mark()))
                # one is handed out for each that is begun beyond the depth
                if len(pending) > depth:
                    yield queue.received(pending.popleft().result())
            while pending:
                yield queue.received(pending.popleft().result())
        finally:
            for future in pending:
                future.cancel()


class _Queue:
    """Where the work is queued: on a stream of a CUDA device, or, with no stream, in the other thread alone."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self.stream = stream

    @classmethod
    def of(cls, device: torch.device | str | None) -> _Queue:
        """Return the queue for `device`. Raises InputError for a CUDA device where there is none."""
        chosen = torch.device("cpu" if device is None else device)
        if chosen.type != "cuda":
            return cls(None)
        if not torch.cuda.is_available():
            raise invalid("device", "must be there", f"{chosen} without a CUDA device", "leave it out")
        return cls(torch.cuda.Stream(chosen))

    def mark(self) -> torch.cuda.Event | None:
        """Return an event in the caller's stream after which a batch is ready, or None without a stream."""
        return None if self.stream is None else torch.cuda.current_stream(self.stream.device).record_event()

    def run(self, compute: Callable[[Any], Any], batch: Any, ready: torch.cuda.Event | None) -> Any:
        """Return compute(batch), and the event after which it is done, None without a stream.

        compute: as prefetched takes it. batch: its argument. ready: the event after which `batch` may be read.
        """
        if self.stream is not None and ready is not None:
            self.stream.wait_event(ready)
        with torch.no_grad(), nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            result = compute(batch)
        return result, None if self.stream is None else self.stream.record_event()

    def received(self, found: tuple[Any, torch.cuda.Event | None]) -> Any:
        """Return the result of `run`, with the caller's stream waiting until it is done."""
        result, done = found
        if self.stream is not None and done is not None:
            stream = torch.cuda.current_stream(self.stream.device)
            stream.wait_event(done)
            for part in tree_leaves(result):
                # its memory belongs to the other stream, which must not reuse it before the caller's stream is done
                if isinstance(part, Tensor) and part.is_cuda:
                    part.record_stream(stream)
        return result
