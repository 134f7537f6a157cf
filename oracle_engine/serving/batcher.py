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
from .models import Model, Question
from .together import Result, answers

log = logging.getLogger("oracle_engine.serving")

Values = dict[str, Any]


@dataclass(eq=False)
class Job:
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
        self._waiting: list[Job] = []
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # a daemon: a scan that outlasts the deadline of a shutdown does not keep the process
        threading.Thread(target=self._serve, name="oracle-engine", daemon=True).start()
        self._work.put(lambda: self._warm_up(models))

    def submit(self, model: Model, question: Question, seconds: float) -> Job:
        """Return the job of a question, whose future is cancelled to give it up.

        seconds: from now on until it is answered or refused. Raises RefusedError where the queue is full.
        """
        if self.rows + len(question) > self.limits.queue_rows:
            words = f"{self.rows} rows wait, of at most {self.limits.queue_rows}. Remedy: try again later."
            raise RefusedError(503, words)
        job = Job(model, question, self._loop.create_future())
        timer = self._loop.call_later(seconds, self._expire, job, seconds)
        job.answer.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(job)
        self.rows += len(question)
        model.statistics.waiting += 1
        # not at once: what else has arrived is in the same batch
        self._loop.call_soon(self._start)
        return job

    def close(self) -> None:
        """Let the worker end when it has answered what it has begun."""
        self._work.put(None)

    def _expire(self, job: Job, seconds: float) -> None:
        if not job.answer.done():
            words = f"no answer within {seconds:g} s. Remedy: give more time, or send less."
            job.answer.set_exception(RefusedError(504, words))

    def _start(self) -> None:
        if self.busy:
            return
        batch = self._take()
        if batch:
            self.busy = True
            self._work.put(lambda: self._run(batch))

    def _take(self) -> list[Job]:
        """Return the oldest job that still counts and the others of its kind, as many as a batch may have."""
        batch: list[Job] = []
        left: list[Job] = []
        rows = 0
        for job in self._waiting:
            if not job.answer.done():
                size = len(job.question)
                like = not batch or (job.model is batch[0].model and job.question.kind == batch[0].question.kind)
                fits = not batch or rows + size <= self.limits.batch_rows
                if not (like and fits):
                    left.append(job)
                    continue
                batch.append(job)
                rows += size
            self.rows -= len(job.question)
            job.model.statistics.waiting -= 1
        self._waiting = left
        return batch

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            task()

    def _warm_up(self, models: Sequence[Model]) -> None:
        for model in models:
            try:
                model.warm_up()
            except Exception:
                log.exception("the model %s cannot answer", model.name)
        self._tell(self._warm)

    def _run(self, batch: Sequence[Job]) -> None:
        started = time.perf_counter_ns()
        results = _answered(batch)
        self._tell(lambda: self._finish(results, started))

    def _tell(self, news: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(news)
        except RuntimeError:
            # the loop has been closed: nobody waits
            log.debug("an answer came after the end")

    def _warm(self) -> None:
        self.ready, self.busy = True, False
        self._start()

    def _finish(self, results: Sequence[tuple[Job, Result]], started: int) -> None:
        now = time.perf_counter_ns()
        for job, result in results:
            job.started, job.answered = started, now
            if job.answer.done():
                continue
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
        self.busy = False
        self._start()


def _answered(batch: Sequence[Job]) -> list[tuple[Job, Result]]:
    """Return the answer, or the error, of each job that still counts."""
    jobs = [job for job in batch if not job.answer.done()]
    found = answers(batch[0].model, [job.question for job in jobs])
    return list(zip(jobs, found, strict=True))
