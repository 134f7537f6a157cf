"""Workers as tasks of Ray, which finds machines for them and starts those anew that are lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..base.errors import missing
from .processes import LOOK_PERIOD, Task


def on_ray(count: int, task: Task, done: Callable[[], int], *, threads: int, cards: int = 0) -> None:
    """Run a task `count` times on the cluster that Ray is connected to, or on this machine where it is to none.

    task: a function that can be pickled. done: how much is done, called twice a second. threads, cards: of each.
    A task whose process is lost is run again, as often as that happens. Raises what a task raised, once the others are
    stopped, and MissingDependencyError without ray.
    """
    ray = require_ray()
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    options = {"num_cpus": threads, "num_gpus": cards, "max_retries": -1, "max_calls": 1}
    waiting = [ray.remote(**options)(_run).remote(task, number) for number in range(count)]
    try:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=LOOK_PERIOD)
            done()
            for one in ended:
                _result(ray, one)
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
        if mine:
            ray.shutdown()


def require_ray() -> Any:
    """Return the module ray. Raises MissingDependencyError where it is not installed."""
    # what is computed here is nobody else's concern
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing("ray", "--engine ray", "ray") from error
    return ray


def _run(task: Task, number: int) -> None:
    # Ray ends the processes of tasks that are to stop
    task(number, lambda: True)


def _result(ray: Any, reference: Any) -> None:
    """Raise what a task of Ray raised, as it raised it."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause: BaseException = error.cause
        raise cause from None
