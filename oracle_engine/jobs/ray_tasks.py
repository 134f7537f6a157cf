"""Workers as tasks of Ray, which finds machines for them and starts those anew that are lost."""

from __future__ import annotations

from collections.abc import Callable

from ..base.machine.clusters import connect, require_ray, result_of
from .processes import LOOK_PERIOD, WorkerTask


def on_ray(count: int, task: WorkerTask, done: Callable[[], int], *, threads: int, cards: int = 0) -> None:
    """Run a task `count` times on the cluster that Ray is connected to, or on this machine where it is to none.

    task: a function that can be pickled. done: how much is done, called twice a second. threads, cards: of each.
    A task whose process is lost is run again, as often as that happens. Raises what a task raised, once the others are
    stopped, and MissingDependencyError without ray.
    """
    ray = require_ray("--engine ray")
    mine = connect(ray)
    options = {"num_cpus": threads, "num_gpus": cards, "max_retries": -1, "max_calls": 1}
    waiting = [ray.remote(**options)(_run).remote(task, number) for number in range(count)]
    try:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=LOOK_PERIOD)
            done()
            for one in ended:
                result_of(ray, one)
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
        if mine:
            ray.shutdown()


def _run(task: WorkerTask, number: int) -> None:
    # Ray ends the processes of tasks that are to stop
    task(number, lambda: True)
