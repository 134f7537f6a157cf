"""The exact route over shards: each rank scans what it holds, and the states are merged in one order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.checked import check
from ..base.ranks import Asked, number_of
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset
from ..kernels import Directions, PosteriorState, Wanted
from ..queries.request import Request, nothing_scored
from .backends import Backend
from .exact import ExactScan, WholeScan
from .exchange import Exchange
from .layout import Layout, Sums
from .tree import Node

# a scan of one shard
ShardScan = Callable[[ExactScan, Request, Wanted], PosteriorState]


@dataclass(frozen=True)
class ShardedScan:
    """Scans of the shards of `data` that are held here, by number, and the merge of their states with the others'."""

    data: ShardedDataset
    scans: Mapping[int, ExactScan]

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over the samples each query of `request` may use, [B]; `wanted` of the posteriors.

        Raises as :meth:`ExactScan.state` does, InputError where the ranks ask for different things, and
        DistributedError where one of them is lost. Costs a pass over the rows held here, and an exchange of 2 B (D + 5)
        float64 numbers.
        """
        state = self._merged("a scan", request, wanted, ExactScan.part)
        check(lambda: state.lse > -torch.inf, lambda: nothing_scored(request, self.data, state.lse > -torch.inf))
        return state

    def rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over all samples outside the classes of each query of `request`, [B]; `wanted` of them.

        Empty where there are none. Raises and costs as :meth:`state` does.
        """
        return self._merged("a scan of the rest", request, wanted, ExactScan.rest)

    def covariance(self, directions: Directions, labels: Int64[Tensor, "B U"] | None) -> Float64[Tensor, "B D"]:
        """Return products with posterior covariances, as :meth:`ExactScan.covariance` does.

        Raises and costs as :meth:`state` does.
        """
        query, ranks = directions.query, self.data.ranks
        asked = (query.point, query.alpha, query.inverse_variance, query.excluded, directions.vector)
        words = f"of {len(directions)} queries"
        ranks.compare("a derivative", [Asked("x", number_of(part), lambda: words) for part in (*asked, labels)])
        exchange = Exchange(ranks, self.data.deal.shards, Sums(directions.lse.device))
        leaves: dict[Node, Tensor] = {}
        with ranks.working():
            for number in exchange.held:
                total = torch.zeros_like(directions.mean)
                if number in self.scans:
                    row = self._places(number, query.excluded[..., 0])
                    held = query.excluding(_ranges(row))
                    total = self.scans[number].covariance(replace(directions, query=held), labels)
                leaves[number, number + 1] = total
            nodes = exchange.nodes(leaves)
        return exchange.whole("a derivative", nodes, len(directions))

    def _merged(self, operation: str, request: Request, wanted: Wanted, scan: ShardScan) -> PosteriorState:
        ranks, device = self.data.ranks, request.x.device
        ranks.compare(operation, _asked(request, wanted))
        exchange = Exchange(ranks, self.data.deal.shards, Layout(self.data.dim, wanted, device))
        mergeable = replace(wanted, mergeable=True)
        leaves: dict[Node, PosteriorState] = {}
        with ranks.working():
            for number in exchange.held:
                state = PosteriorState.empty(len(request), self.data.dim, wanted.top_k, device)
                if number in self.scans:
                    found = scan(self.scans[number], self._within(request, number), mergeable)
                    state = replace(found, top_rows=self.data.deal.rows_of(number, found.top_rows))
                leaves[number, number + 1] = state
            nodes = exchange.nodes(leaves)
        return exchange.whole(operation, nodes, len(request))

    def _within(self, request: Request, number: int) -> Request:
        """Return `request` to a shard, in which a row is known by its place."""
        excluded = _ranges(self._places(number, request.excluded[..., 0]))
        exclude, source = (self._places(number, row) for row in (request.exclude, request.source))
        return request.changed(exclude=exclude, excluded=excluded, source=source)

    def _places(self, number: int, row: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the places of rows in a shard, in any shape, -1 for those that it does not hold."""
        shard, place = self.data.deal.find(row)
        return torch.where(shard == number, place, -1)


def whole_scan(data: OracleDataset, backend: Backend, precision: str) -> WholeScan:
    """Return what scans all samples of `data`, in one process or several, by `backend` in `precision`."""
    state, segments, product = backend.run(precision), backend.run_segments(precision), backend.run_product()
    if not isinstance(data, ShardedDataset):
        return ExactScan(data, state, segments, product)
    scans = {number: ExactScan(shard, state, segments, product) for number, shard in data.shards.items()}
    return ShardedScan(data, scans)


def _asked(request: Request, wanted: Wanted) -> list[Asked]:
    """Return what has to be the same on all ranks of a request that they share."""
    shape, labels = list(request.x.shape), request.labels
    times = torch.stack([request.times, request.variance, request.at.alpha_t])
    return [
        Asked("x", number_of(request.x[:, :0]), lambda: f"{shape}"),
        Asked("x", number_of(request.x), lambda: f"other values of shape {shape}"),
        Asked("t", number_of(times), lambda: f"{request.times.tolist()[:4]}"),
        Asked("labels", number_of(labels), lambda: f"{None if labels is None else labels.tolist()[:4]}"),
        Asked("exclude", number_of(request.exclude), lambda: f"{request.exclude.tolist()[:4]}"),
        Asked("guidance", number_of(request.scale), lambda: f"{request.scale.tolist()[:4]}"),
        Asked("top_k", 4 * wanted.top_k + 2 * wanted.moments + wanted.mean, lambda: f"{wanted.top_k}"),
    ]


def _ranges(row: Int64[Tensor, "B H"]) -> Int64[Tensor, "B H 2"]:
    """Return rows as ranges of one row, empty for the row -1."""
    return torch.stack([row, row + (row >= 0)], dim=-1)
