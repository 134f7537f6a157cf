"""The engine over data that actors of Ray hold, each a part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import Tensor, is_number, is_whole
from ..base.errors import OracleError, invalid
from ..base.group.actors import PULSE, Actors
from ..base.group.lone import LoneRank
from ..base.group.ranks import digest_of
from ..base.machine.clusters import connect, require_ray
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..data.on_actors import ActorDataset
from ..scans.on_actors import answered
from ..scans.sharded import ShardedScan
from ..scans.shards import HeldShards
from ..scans.tree import Node
from .engine import OracleEngine
from .residency import Residency
from .sharded import check_mode, engine_of_rank

# of actors that engines find by name
NAMESPACE = "oracle-engine"
# options of an engine that concern the shards, which the actors have
OF_SHARDS = ("device", "resident", "memory", "backend", "precision")


@dataclass(frozen=True)
class ActorPart:
    """What an actor holds of the data: part `number` of `count`, which it scans with `threads`."""

    number: int
    count: int
    threads: int


class ShardActor:
    """An actor: it opens its part of the data when it is first asked, also after it was started again."""

    def __init__(self, data: Any, part: ActorPart, options: dict[str, Any]) -> None:
        """Take what load_dataset takes, or an OracleDataset, and the options of OracleEngine that concern shards."""
        self.data, self.part, self.options = data, part, options

    def facts(self) -> list[int]:
        """Return numbers that differ where the data or the options do, as :func:`facts_of` has them."""
        return [*self._held.data.facts[:-1], digest_of(words_of(self.part, self.options))]

    def nodes(self, question: bytes) -> dict[Node, Tensor]:
        """Return the answers over the fewest nodes of the tree that cover the shards here; see :func:`answered`."""
        held = self._held
        # the threads of Ray have settings of their own
        torch.set_num_threads(self.part.threads)
        with torch.no_grad():
            return answered(held, question)

    def of_data(self, name: str, *arguments: Any) -> Tensor:
        """Return what the method `name` of the data set returns for what is held here."""
        found: Tensor = getattr(self._held.data, name)(*arguments)
        return found

    def alive(self) -> None:
        """Give a sign of life."""

    @cached_property
    def _held(self) -> HeldShards:
        torch.set_num_threads(self.part.threads)
        rank = LoneRank(self.part.number, self.part.count)
        # states over shards depend on no path
        engine = engine_of_rank(
            self.data, "rectified_flow", rank, own_queries=False, deterministic=True, **self.options
        )
        scan = engine.responder.router.exact
        assert isinstance(scan, ShardedScan)
        assert isinstance(scan.held, HeldShards)
        return scan.held


def sharded_on_ray(
    data: Any,
    path: Any = "rectified_flow",
    *,
    actors: int = 2,
    threads: int = 1,
    max_restarts: int = 3,
    timeout: float = 60.0,
    name: str | None = None,
    **options: Any,
) -> OracleEngine:
    """Return an engine whose answers are those of the whole data, of which each of several actors of Ray holds a part.

    data: what `load_dataset` takes; every actor opens a file or a folder, under the same name, for itself, and reads
        its part. An OracleDataset, or an array, is sent to every actor, of which none may have a name. path: as in
        OracleEngine.
    actors: how many hold the data, at least 1, on the cluster that Ray is connected to, or that RAY_ADDRESS names, else
        on this machine. threads: of each, at least 1, for which Ray finds as many processors and, on CUDA, a card.
    max_restarts: times that Ray starts an actor again which has ended, -1 for any number; meanwhile calls wait.
    timeout: seconds, above 0, after which an actor that gives no sign of life is lost. One that computes is waited for.
    name: under which other processes find the actors, which then outlive this one: engines of the same name, data and
        number of actors share them, until `engine.data.end()`. None for actors that end with the engine.
    options: device, resident, memory (of each actor), backend, precision, mode "auto" or "exact", point_std and t_max
        of OracleEngine. Queries and answers of the engine are on the CPU wherever the actors compute.

    Samples are scanned in 16 shards whose states are merged in the order of `oracle_engine.sharded`, with its bits for
    the same threads and backend, before a restart and after one. The engine holds no sample, but what is known of each:
    its label, its place and its weight. Raises MissingDependencyError without ray, InputError for arguments that
    cannot be used, and where actors of this name hold other data, and DistributedError where an actor is lost. Costs a
    scan of the rows of an actor, and B (D + 5) float64 numbers from each of them.
    """
    check_mode(options)
    _check(actors, threads, max_restarts, timeout)
    if name is not None and not isinstance(data, (str, PathLike)):
        remedy = "write a file with OracleDataset.save and name that, or leave name out"
        raise invalid("data", "must be a file, a folder or a built-in set for actors with a name", type(data), remedy)
    ray = require_ray("oracle_engine.sharded_on_ray")
    whole = data if isinstance(data, OracleDataset) else load_dataset(data)
    connect(ray)
    known = _names_of_all(ray)
    for_shards = {key: options.pop(key) for key in OF_SHARDS if key in options}
    parts = [ActorPart(number, actors, threads) for number in range(actors)]
    handles = _started(ray, _source(data, whole), parts, for_shards, name=name, restarts=max_restarts)
    held = Actors(handles, float(timeout), restarts=max_restarts != 0)
    if str(for_shards.get("device", "cpu")) == "cpu" and "backend" in for_shards:
        options["backend"] = for_shards["backend"]
    try:
        return engine_over(whole, path, held, words_of(parts[0], for_shards), **options)
    except OracleError:
        # those that were there before serve others
        if known.isdisjoint(_name_of(name, part) for part in parts):
            held.end()
        raise


def engine_over(whole: OracleDataset, path: Any, actors: Actors, words: str, **options: Any) -> OracleEngine:
    """Return an engine that asks `actors`, each of which holds its part of `whole`.

    words: of the options that they were made with. options: of OracleEngine, without those that concern shards.
    """
    engine = OracleEngine(ActorDataset.over(whole, actors, words), path, **options)
    engine.residency = Residency(False, f"{len(actors)} actors hold the samples")
    return engine


def words_of(part: ActorPart, options: dict[str, Any]) -> str:
    """Return what actors are made with, in words that are the same for all of them."""
    return f"actors={part.count}, threads={part.threads}, {sorted((key, str(held)) for key, held in options.items())}"


def _started(
    ray: Any, data: Any, parts: list[ActorPart], options: dict[str, Any], *, name: str | None, restarts: int
) -> list[Any]:
    """Return the actors that hold `parts` of the data, found by name where they are there already."""
    card = str(options.get("device", "cpu")).startswith("cuda")
    asked = {
        "num_cpus": parts[0].threads,
        "num_gpus": int(card),
        "max_restarts": restarts,
        # an answer depends on nothing but the question, so that it can be asked again
        "max_task_retries": -1 if restarts else 0,
    }
    # an actor that outlives this process is started again from what stands in its call: the name of a file
    source = data if isinstance(data, (str, PathLike)) else ray.put(data)
    kind, handles = ray.remote(concurrency_groups={PULSE: 1})(ShardActor), []
    for part in parts:
        shared = {"name": _name_of(name, part), "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        handles.append(kind.options(**asked, **({} if name is None else shared)).remote(source, part, options))
    return handles


def _name_of(name: str | None, part: ActorPart) -> str:
    return f"{name}-{part.number}-of-{part.count}"


def _names_of_all(ray: Any) -> set[str]:
    """Return the names of the actors that engines find by them."""
    return {held["name"] for held in ray.util.list_named_actors(True) if held["namespace"] == NAMESPACE}


def _source(data: Any, whole: OracleDataset) -> Any:
    """Return what an actor opens: a file by its full name, a built-in set by its own, or else the samples."""
    if isinstance(data, (str, PathLike)):
        place = Path(data)
        return place.resolve() if place.exists() else data
    return whole


def _check(actors: int, threads: int, max_restarts: int, timeout: float) -> None:
    for name, value, least in (("actors", actors, 1), ("threads", threads, 1), ("max_restarts", max_restarts, -1)):
        if not is_whole(value) or value < least:
            raise invalid(name, f"must be a whole number of at least {least}", value, "leave it out")
    if not is_number(timeout) or not 0.0 < timeout < math.inf:
        raise invalid("timeout", "must be a number of seconds above 0", timeout, "pass 60")
