"""The engine over data that several processes hold together, each a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ..base.errors import invalid
from ..base.group.ranks import Ranks
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..data.sharded import ShardedDataset
from ..queries.modes import Auto, FullScan, resolve_mode
from .engine import OracleEngine
from .residency import Wish


def sharded(
    data: OracleDataset | Any,
    path: Any = "rectified_flow",
    *,
    mesh: Any = None,
    queries: Literal["same", "own"] = "same",
    timeout: float = 60.0,
    deterministic: bool = True,
    **options: Any,
) -> OracleEngine:
    """Return an engine whose answers are those of the whole data, of which each process holds a part.

    data: the same OracleDataset on every rank, or what `load_dataset` takes. Of a file of `OracleDataset.save` a rank
        reads only its part where it passes `OracleDataset.load(file, verify=False)`. path: as in OracleEngine.
    mesh: a DeviceMesh of one dimension, whose ranks share the data; None for all ranks. The process group must be
        initialised, as under torchrun; the engine makes a gloo group of its own.
    queries: "same": every rank passes the same queries and gets all answers. "own": each passes queries of its own, any
        number of them, and gets their answers, as training with DDP or FSDP asks; ranks take the same options.
    timeout: seconds, above 0, after which a rank that is stopped or does not come is lost. A rank that still computes
        is waited for.
    deterministic: whether samples are scanned in 16 shards and merged in one order, so that up to 16 ranks with the
        same number of threads give the same bits, whatever their number; False scans all of a rank at once, which is
        sooner for few samples.
    options: device, resident, memory (of each rank), backend, precision, mode "auto" or "exact", point_std and t_max of
        OracleEngine.

    Every method of the engine is a collective: all ranks call the same ones in the same order. Raises InputError on
    every rank where one passes other arguments or cannot use them, and DistributedError on all others within
    `timeout` where one is killed, stopped or elsewhere; after that the engine answers no more.
    Costs a scan of the rows held here and an exchange of 2 B (D + 5) float64 numbers a call.
    """
    if queries not in ("same", "own"):
        raise invalid("queries", "must be same or own", repr(queries), "use 'same'")
    check_mode(options)
    ranks = Ranks(mesh, timeout)
    return engine_of_rank(data, path, ranks, own_queries=queries == "own", deterministic=deterministic, **options)


def engine_of_rank(
    data: Any, path: Any, ranks: Ranks, *, own_queries: bool, deterministic: bool, **options: Any
) -> OracleEngine:
    """Return the engine of a rank, which holds its part of the data; the arguments are those of :func:`sharded`.

    ranks: the processes. own_queries: whether each has queries of its own.
    """
    whole = data if isinstance(data, OracleDataset) else load_dataset(data)
    wish = Wish.of(options.pop("resident", "auto"), options.pop("memory", None))
    whole, residency = replace(wish, share=ranks.size).granted(whole, options.pop("device", None))
    held = ShardedDataset.deal_out(whole, ranks, own_queries=own_queries, deterministic=deterministic)
    engine = OracleEngine(held, path, **options)
    engine.residency = residency
    return engine


def check_mode(options: Mapping[str, Any]) -> None:
    """Raise InputError where `options` of an engine ask for another mode than a sharded one has."""
    if not isinstance(resolve_mode(options.get("mode", "auto")), (FullScan, Auto)):
        raise invalid("mode", "must be auto or exact for a sharded engine", options["mode"], "leave it out")
