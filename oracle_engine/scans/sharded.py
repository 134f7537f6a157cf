"""The exact route over shards: each rank scans what it holds, and the states are merged in one order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.checked import check
from ..base.group.ranks import Asked, number_of
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset
from ..kernels import Directions, PosteriorState, Wanted
from ..queries.request import Request, nothing_scored
from .backends import Backend
from .exact import ExactScan, WholeScan
from .exchange import Codec, Exchange
from .gathering import gathered_directions, gathered_request
from .layout import Layout, Sums

Part = TypeVar("Part")

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
        whole, classes, counts = self._directions(directions, labels)
        exchange: Exchange[Tensor] = Exchange(self.data.ranks, self.data.deal.shards, Sums(directions.lse.device))

        def product(number: int) -> Tensor:
            """Return the product over one shard, zeros for an empty one."""
            if number not in self.scans:
                return torch.zeros_like(whole.mean)
            held = whole.query.excluding(_ranges(self.places(number, whole.query.excluded[..., 0])))
            return self.scans[number].covariance(replace(whole, query=held), classes)

        return self._over_shards("a derivative", exchange, product, counts)

    def on_any_rank(self, asked: bool) -> bool:
        """Return whether some rank asks for what is to follow; a collective where ranks have queries of their own."""
        if not self.data.own_queries:
            return asked
        return any(found for (found,) in self.data.ranks.compare("a term", [], [int(asked)]))

    def draw(self, operation: str, request: Request, codec: Codec[Part], draw: Callable[[int, Request], Part]) -> Part:
        """Return what `draw` finds in each shard, merged; for queries as :meth:`state` has them.

        operation: in words. codec: how values are merged. draw: called with the number of each shard of this rank,
        also of empty ones, and the request to it. Raises and costs as :meth:`state` does.
        """
        whole, counts = self._request(operation, request, Wanted())
        exchange: Exchange[Part] = Exchange(self.data.ranks, self.data.deal.shards, codec)
        return self._over_shards(operation, exchange, lambda number: draw(number, self._within(whole, number)), counts)

    def _merged(self, operation: str, request: Request, wanted: Wanted, scan: ShardScan) -> PosteriorState:
        """Return the states of a request over all shards, by `scan` of each."""
        whole, counts = self._request(operation, request, wanted)
        layout = Layout(self.data.dim, wanted, request.x.device)
        exchange: Exchange[PosteriorState] = Exchange(self.data.ranks, self.data.deal.shards, layout)
        # states of shards merge with those of others
        mergeable = replace(wanted, mergeable=True)

        def part(number: int) -> PosteriorState:
            """Return the state of one shard, with the rows named by their places in the whole."""
            if number not in self.scans:
                return PosteriorState.empty(len(whole), self.data.dim, wanted.top_k, layout.device)
            found = scan(self.scans[number], self._within(whole, number), mergeable)
            return replace(found, top_rows=self.data.deal.rows_of(number, found.top_rows))

        return self._over_shards(operation, exchange, part, counts)

    def _over_shards(
        self, operation: str, exchange: Exchange[Part], part: Callable[[int], Part], counts: Sequence[int]
    ) -> Part:
        with self.data.ranks.working():
            nodes = exchange.nodes({(number, number + 1): part(number) for number in exchange.held})
        return exchange.answered(operation, nodes, counts)

    def _request(self, operation: str, request: Request, wanted: Wanted) -> tuple[Request, Sequence[int]]:
        """Return the request that all ranks answer, and how many of its queries each rank has, or one number."""
        ranks = self.data.ranks
        what = Asked("top_k", 4 * wanted.top_k + 2 * wanted.moments + wanted.mean, lambda: f"{wanted.top_k}")
        if self.data.own_queries:
            return gathered_request(ranks, operation, [what], request)
        ranks.compare(operation, [*_asked(request), what])
        return request, [len(request)]

    def _directions(
        self, directions: Directions, labels: Int64[Tensor, "B U"] | None
    ) -> tuple[Directions, Int64[Tensor, "B U"] | None, Sequence[int]]:
        """Return the directions of all ranks, their classes, and how many each rank has."""
        ranks, query = self.data.ranks, directions.query
        if self.data.own_queries:
            return gathered_directions(ranks, "a derivative", directions, labels)
        words = f"of {len(directions)} queries"
        asked = (query.point, query.alpha, query.inverse_variance, query.excluded, directions.vector, labels)
        ranks.compare("a derivative", [Asked("x", number_of(part), lambda: words) for part in asked])
        return directions, labels, [len(directions)]

    def _within(self, request: Request, number: int) -> Request:
        """Return `request` to a shard, in which a row is known by its place."""
        excluded = _ranges(self.places(number, request.excluded[..., 0]))
        exclude, source = (self.places(number, row) for row in (request.exclude, request.source))
        return request.changed(exclude=exclude, excluded=excluded, source=source)

    def places(self, number: int, row: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the places of rows in a shard, in any shape, -1 for those that it does not hold."""
        shard, place = self.data.deal.find(row)
        return torch.where(shard == number, place, -1)


def whole_scan(data: OracleDataset, backend: Backend, precision: str) -> WholeScan:
    """Return what scans all samples of `data`, in one process or several, by `backend` in `precision`."""
    scanner = backend.scanner(precision)
    if not isinstance(data, ShardedDataset):
        return ExactScan(data, scanner)
    scans = {number: ExactScan(shard, scanner, whole=False) for number, shard in data.shards.items()}
    return ShardedScan(data, scans)


def _asked(request: Request) -> list[Asked]:
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
    ]


def _ranges(row: Int64[Tensor, "B H"]) -> Int64[Tensor, "B H 2"]:
    """Return rows as ranges of one row, empty for the row -1."""
    return torch.stack([row, row + (row >= 0)], dim=-1)
