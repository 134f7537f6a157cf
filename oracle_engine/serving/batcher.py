"""One worker that owns the device: what arrives while it answers is its next batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .limits import Limits, RefusedError
from .models import Model
from .questions import Question
from .together import Result, answers

log = logging.getLogger("oracle_engine.serving")

Values = dict[str, Any]


@dataclass(eq=False)
class Ticket:
    """A question that waits for its answer.

    arrived, started, answered: in nanoseconds of time.perf_counter_ns, zero before.
    """

    model: Model
    question: Question
    answer: asyncio.Future[Values]
    arrived: int = field(default_factory=time.perf_counter_ns)
    started: int = 0
    answered: int = 0

    def times(self, began: int, now: int) -> dict[str, int]:
        """Return the nanoseconds of each stage of a request that began to be read at `began` and was answered `now`."""
        return {
            "request": now - began,
            "compute_input": self.arrived - began,
            "queue": self.started - self.arrived,
            "compute_infer": self.answered - self.started,
            "compute_output": now - self.answered,
        }


class Batcher:
    """Answers questions in batches, in a thread of its own.

    models: that are warmed up first. limits: of the queue and of a batch. ready: whether they are warm.
    busy: whether the worker computes. rows: that wait.

    Nobody waits for a batch to fill: the worker takes what is there, the oldest question and all others of its kind.
    Where a batch fails its halves are tried, so that only the guilty question fails; whose asker has gone, or whose
    time is up, is not computed. To be made, and used, on an event loop.
    """

    def __init__(self, models: Sequence[Model], limits: Limits) -> None:
        self.limits, self.ready, self.busy, self.rows = limits, False, True, 0
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Ticket] = []
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # a daemon: a scan that outlasts the deadline of a shutdown does not keep the process
        self._worker = threading.Thread(target=self._serve, name="oracle-engine", daemon=True)
        self._worker.start()
        self._work.put(lambda: self._warm_up(models))

    def submit(self, model: Model, question: Question, seconds: float) -> Ticket:
        """Return the ticket of a question, whose future is cancelled to give it up.

        seconds: from now on until it is answered or refused. Raises RefusedError where the queue is full.
        """
        if self.rows + len(question) > self.limits.queue_rows:
            words = f"{self.rows} rows wait, of at most {self.limits.queue_rows}. Remedy: try again later."
            raise RefusedError(503, words)
        ticket = Ticket(model, question, self._loop.create_future())
        timer = self._loop.call_later(seconds, self._expire, ticket, seconds)
        ticket.answer.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(ticket)
        self.rows += len(question)
        model.statistics.waiting += 1
        # not at once: what else has arrived is in the same batch
        self._loop.call_soon(self._start)
        return ticket

    def close(self) -> None:
        """Let the worker end when it has answered what it has begun."""
        self._work.put(None)

    def ended(self, seconds: float) -> bool:
        """Return whether the worker has ended, which it may do within so many seconds where it computes nothing."""
        self._worker.join(0.0 if self.busy else seconds)
        return not self._worker.is_alive()

    def _expire(self, ticket: Ticket, seconds: float) -> None:
        if not ticket.answer.done():
            words = f"no answer within {seconds:g} s. Remedy: give more time, or send less."
            ticket.answer.set_exception(RefusedError(504, words))

    def _start(self) -> None:
        """Begin the next scan, where something waits and none runs."""
        if self.busy:
            return
        batch = self._take()
        if batch:
            self.busy = True
            self._work.put(lambda: self._run(batch))

    def _take(self) -> list[Ticket]:
        """Return the oldest ticket that still counts and the others of its kind, as many as a batch may have."""
        batch: list[Ticket] = []
        left: list[Ticket] = []
        rows = 0
        for ticket in self._waiting:
            if not ticket.answer.done():
                size = len(ticket.question)
                like = not batch or (ticket.model is batch[0].model and ticket.question.kind == batch[0].question.kind)
                fits = not batch or rows + size <= self.limits.batch_rows
                if not (like and fits):
                    left.append(ticket)
                    continue
                batch.append(ticket)
                rows += size
            self.rows -= len(ticket.question)
            ticket.model.statistics.waiting -= 1
        self._waiting = left
        return batch

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            task()

    def _warm_up(self, models: Sequence[Model]) -> None:
        """Let every model answer once before the first request, and log those that cannot."""
        for model in models:
            try:
                model.warm_up()
            except Exception:
                log.exception("the model %s cannot answer", model.name)
        self._tell(self._warm)

    def _run(self, batch: Sequence[Ticket]) -> None:
        started = time.perf_counter_ns()
        results = _answered(batch)
        self._tell(lambda: self._finish(results, started))

    def _tell(self, news: Callable[[], None]) -> None:
        """Hand news to the event loop, unless it has ended."""
        try:
            self._loop.call_soon_threadsafe(news)
        except RuntimeError:
            # the loop has been closed: nobody waits
            log.debug("an answer came after the end")

    def _warm(self) -> None:
        self.ready, self.busy = True, False
        self._start()

    def _finish(self, results: Sequence[tuple[Ticket, Result]], started: int) -> None:
        """Hand out the results of a scan, and start the next one."""
        now = time.perf_counter_ns()
        for ticket, result in results:
            ticket.started, ticket.answered = started, now
            if ticket.answer.done():
                continue
            if isinstance(result, Exception):
                ticket.answer.set_exception(result)
            else:
                ticket.answer.set_result(result)
        self.busy = False
        self._start()


def _answered(batch: Sequence[Ticket]) -> list[tuple[Ticket, Result]]:
    """Return the answer, or the error, of each ticket that still counts."""
    tickets = [ticket for ticket in batch if not ticket.answer.done()]
    found = answers(batch[0].model, [ticket.question for ticket in tickets])
    return list(zip(tickets, found, strict=True))
