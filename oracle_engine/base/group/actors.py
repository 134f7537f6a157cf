"""Actors of Ray that hold a part of something each: all are asked the same, and one that is lost is named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import lost
from ..machine.clusters import require_ray, result_of

# seconds before the actors that have not answered are asked for a sign of life
BRIEF = 1.0
# the threads of an actor that give signs of life while another one computes
PULSE = "pulse"

AGAIN = "make the engine again, and look for what ended the actor"
# of actors that Ray does not start again
RESTARTS = f"pass max_restarts, so that Ray starts it again, or {AGAIN}"


class Actors:
    """Actors in a fixed order, which answer the calls of any number of processes.

    handles: of Ray, one an actor; each has a method `alive` and a concurrency group PULSE. timeout: seconds after
    which an actor that gives no sign of life is lost; one that still computes is waited for. restarts: whether Ray
    starts an actor again that has ended.
    """

    def __init__(self, handles: Sequence[Any], timeout: float, *, restarts: bool) -> None:
        self.handles, self.timeout, self.restarts = handles, timeout, restarts

    def __len__(self) -> int:
        return len(self.handles)

    def __deepcopy__(self, memo: Any) -> Actors:
        """Return the actors themselves: a copy of an engine asks the same ones."""
        return self

    def ask(self, operation: str, method: str, *arguments: Any) -> list[Any]:
        """Return what `method` of every actor returns for `arguments`, which can be pickled, in the order of actors.

        operation: what is asked for, in words. Raises what one of them raises, and DistributedError within `timeout`
        and a second where one of them has ended and is not started again, or gives no sign of life.
        """
        ray = require_ray("an engine on actors")
        shared = [ray.put(argument) for argument in arguments]
        waiting = {getattr(handle, method).remote(*shared): place for place, handle in enumerate(self.handles)}
        found: dict[int, Any] = {}
        signs: dict[int, Any] = {}
        began = time.monotonic()
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=self.timeout if signs else BRIEF)
            for one in ended:
                place = waiting.pop(one)
                try:
                    found[place] = result_of(ray, one)
                except ray.exceptions.RayError as error:
                    self._lost(ray, operation, place, began, error)
            if not ended:
                self._check_silence(ray, operation, signs, began)
                signs = {place: _sign_of(self.handles[place]) for place in waiting.values()}
        return [found[place] for place in range(len(self.handles))]

    def end(self) -> None:
        """End the actors, also for others that ask them; they are not started again."""
        ray = require_ray("an engine on actors")
        for handle in self.handles:
            ray.kill(handle)

    def _check_silence(self, ray: Any, operation: str, signs: dict[int, Any], began: float) -> None:
        """Raise DistributedError where an actor has given no sign of life since it was asked for one."""
        for place, sign in signs.items():
            if not ray.wait([sign], timeout=0)[0]:
                words = f"actor {place} of {len(self)} gave no sign of life for {self.timeout:.1f} s"
                remedy = f"pass a longer timeout where it still starts, or {AGAIN}"
                raise lost(operation, words, time.monotonic() - began, remedy, rank=place, waiting="the engine")

    def _lost(self, ray: Any, operation: str, place: int, began: float, error: Exception) -> NoReturn:
        """Raise what `error` of Ray means: an actor has ended, or cannot be reached."""
        gone = isinstance(error, ray.exceptions.ActorDiedError)
        words = "has ended" if gone else f"cannot be asked ({type(error).__name__})"
        remedy = AGAIN if self.restarts else RESTARTS
        seconds = time.monotonic() - began
        found = f"actor {place} of {len(self)} {words}"
        raise lost(operation, found, seconds, remedy, rank=place, waiting="the engine") from error


def _sign_of(handle: Any) -> Any:
    return handle.alive.options(concurrency_group=PULSE).remote()
