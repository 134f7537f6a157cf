"""What is asked of every shard, and the shards that a process holds, which answer it one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..data.sharded import ShardedDataset
from ..kernels import Directions, PosteriorState, Wanted
from ..queries.request import Request
from .exact import ExactScan
from .exchange import Codec, Exchange
from .layout import Layout, Sums
from .tree import Node, Partial

# a scan of one shard
ShardScan = Callable[[ExactScan, Request, Wanted], PosteriorState]


@runtime_checkable
class ShardQuestion(Protocol[Partial]):
    """What is asked of every shard; the answers over disjoint shards merge."""

    @property
    def operation(self) -> str:
        """What is asked for, in words."""
        ...

    @property
    def codec(self) -> Codec[Partial]:
        """How answers are sent and merged."""
        ...

    def part(self, held: HeldShards, number: int) -> Partial:
        """Return the answer of the shard `number`, which may be empty."""
        ...


@runtime_checkable
class ShardHolder(Protocol):
    """What answers for shards: a process for some, or actors for all of them."""

    def nodes(self, question: ShardQuestion[Partial]) -> dict[Node, Partial]:
        """Return the answers over the fewest nodes of the tree that cover the shards, or, of actors, those of each."""
        ...


@dataclass(frozen=True)
class HeldShards:
    """The shards of `data` that are held here, and their scans by number."""

    data: ShardedDataset
    scans: Mapping[int, ExactScan]

    def nodes(self, question: ShardQuestion[Partial]) -> dict[Node, Partial]:
        """Return the answers over the fewest nodes of the tree that cover the shards of this rank."""
        exchange = Exchange(self.data.ranks, self.data.deal.shards, question.codec)
        with self.data.ranks.working():
            return exchange.nodes({(number, number + 1): question.part(self, number) for number in exchange.held})

    def within(self, request: Request, number: int) -> Request:
        """Return `request` to a shard, in which a row is known by its place."""
        excluded = one_row_ranges(self.places(number, request.excluded[..., 0]))
        exclude, source = (self.places(number, row) for row in (request.exclude, request.source))
        return request.changed(exclude=exclude, excluded=excluded, source=source)

    def places(self, number: int, row: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the places of rows in a shard, in any shape, -1 for those that it does not hold."""
        shard, place = self.data.deal.find(row)
        return torch.where(shard == number, place, -1)


@dataclass(frozen=True)
class StatesQuestion:
    """The posterior states of the queries of `request` over a shard, by `scan` of it; `wanted` of them."""

    operation: str
    request: Request
    wanted: Wanted
    scan: ShardScan

    @property
    def codec(self) -> Codec[PosteriorState]:
        """See ShardQuestion."""
        return Layout(self.request.x.shape[1], self.wanted, self.request.x.device)

    def part(self, held: HeldShards, number: int) -> PosteriorState:
        """Return the state of one shard, with the rows named by their places in the whole."""
        request, wanted = self.request, self.wanted
        if number not in held.scans:
            return PosteriorState.empty(len(request), request.x.shape[1], wanted.top_k, request.x.device)
        # states of shards merge with those of others
        found = self.scan(held.scans[number], held.within(request, number), replace(wanted, mergeable=True))
        return replace(found, top_rows=held.data.deal.rows_of(number, found.top_rows))


@dataclass(frozen=True)
class CovarianceQuestion:
    """The products of posterior covariances over a shard with `directions`; labels: the classes of each, or None."""

    directions: Directions
    labels: Int64[Tensor, "B U"] | None
    operation: str = "a derivative"

    @property
    def codec(self) -> Codec[Tensor]:
        """See ShardQuestion."""
        return Sums(self.directions.lse.device)

    def part(self, held: HeldShards, number: int) -> Float64[Tensor, "B D"]:
        """Return the product over one shard, zeros for an empty one."""
        if number not in held.scans:
            return torch.zeros_like(self.directions.mean)
        query = self.directions.query
        inside = query.excluding(one_row_ranges(held.places(number, query.excluded[..., 0])))
        return held.scans[number].covariance(replace(self.directions, query=inside), self.labels)


def one_row_ranges(row: Int64[Tensor, "B H"]) -> Int64[Tensor, "B H 2"]:
    """Return rows as ranges of one row, empty for the row -1."""
    return torch.stack([row, row + (row >= 0)], dim=-1)
