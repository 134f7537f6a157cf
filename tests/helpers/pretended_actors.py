"""Actors that live in this process and are asked in bytes, as those of Ray are."""

from __future__ import annotations

import pickle
from typing import Any

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.group.actors import Actors
from oracle_engine.engine.on_actors import ActorPart, ShardActor, engine_over, words_of


class PretendedActors(Actors):
    """Actors without Ray: everything that they are asked, and that they answer, is pickled on its way."""

    def __init__(self, held: list[ShardActor]) -> None:
        super().__init__(held, 60.0, restarts=False)

    def ask(self, operation: str, method: str, *arguments: Any) -> list[Any]:
        """Return what `method` of every actor returns."""
        sent = pickle.dumps(arguments)
        answers = [getattr(actor, method)(*pickle.loads(sent)) for actor in self.handles]
        return [pickle.loads(pickle.dumps(answer)) for answer in answers]


def engine_on(data: Any, count: int, whole: OracleDataset, **options: Any) -> OracleEngine:
    """Return an engine over `whole`, of which `count` actors hold the parts that they make of `data`."""
    parts = [ActorPart(number, count, 1) for number in range(count)]
    actors = PretendedActors([ShardActor(data, part, {}) for part in parts])
    return engine_over(whole, "rectified_flow", actors, words_of(parts[0], {}), **options)
