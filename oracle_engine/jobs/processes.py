"""Workers as processes of this machine, which are started again where they are killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection

from ..base.errors import invalid

# seconds between two looks at how far the workers are
LOOK_PERIOD = 0.5
# times that workers may be killed before one of them has done a unit
ATTEMPTS = 3

# what a process does: called with its number and what it asks whether to go on
WorkerTask = Callable[[int, Callable[[], bool]], None]

# the end of a pipe of this process, which can be read once the one that started it wants no more
_stopped: list[Connection] = []


def on_processes(count: int, task: WorkerTask, done: Callable[[], int]) -> None:
    """Run a task in `count` new processes until all have returned.

    task: a function that can be pickled. done: how much is done, called twice a second; what is done is not done again.
    A killed process ends the others, and all are started again. Raises what a task raised, once all have stopped, and
    InputError where processes are killed time and again before anything is done.
    """
    failures = 0
    while True:
        before = done()
        try:
            return _once(count, task, done)
        except BrokenProcessPool as error:
            failures = failures + 1 if done() == before else 0
            if failures == ATTEMPTS:
                found = f"processes that were killed {ATTEMPTS} times before they had done anything"
                remedy = "pass fewer --workers or a smaller --batch, or look into the log of the system"
                raise invalid("workers", "must have the memory that each of them needs", found, remedy) from error


def _once(count: int, task: WorkerTask, done: Callable[[], int]) -> None:
    """Run the task in some processes until all have ended or one has failed."""
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    with reader, writer, ProcessPoolExecutor(count, context, _begin, (reader,)) as pool:
        futures: list[Future[None]] = [pool.submit(_run, task, number) for number in range(count)]
        try:
            waiting = set(futures)
            while waiting:
                ended, waiting = wait(waiting, LOOK_PERIOD, FIRST_EXCEPTION)
                done()
                for future in ended:
                    future.result()
        finally:
            # nobody reads it, so that it stays there to be seen
            writer.send_bytes(b"stop")


def _begin(reader: Connection) -> None:
    _stopped.append(reader)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process where the one that started it is killed: it would wait for more to do for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: WorkerTask, number: int) -> None:
    task(number, lambda: not _stopped[-1].poll())
