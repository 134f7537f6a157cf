"""How ranks merge what each found in its shards: every rank merges some queries, in the order of one tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Tensor
from ..base.group.ranks import Ranks, share_of
from .tree import Node, Partial, cover, merged

# the size of a group of which each rank merges all queries: of two ranks, both hold one node of the tree
EACH_MERGES_ALL = 2

# torch computes exponentials of so many numbers at once, and those that are left over with another rounding: a rank
# merges whole vectors of them, so that a query is rounded alike wherever it is merged
VECTOR = 16


@runtime_checkable
class Codec(Protocol[Partial]):
    """How values of B queries are sent and merged."""

    def pack(self, value: Partial, /) -> Float64[Tensor, "B C"]:
        """Return the value as rows on the CPU."""
        ...

    def unpack(self, rows: Float64[Tensor, "B C"], /) -> Partial:
        """Return what :meth:`pack` was given."""
        ...

    def merge(self, first: Partial, second: Partial, /) -> Partial:
        """Return the value over two disjoint subsets of the samples."""
        ...


@dataclass(frozen=True)
class Exchange(Generic[Partial]):
    """Merges values of shards, which ranks hold in rising order.

    ranks: the processes. shards: how many shards there are. codec: how values are sent and merged.
    """

    ranks: Ranks
    shards: int
    codec: Codec[Partial]

    @property
    def held(self) -> range:
        """The shards of this rank."""
        return range(*share_of(self.shards, self.ranks.rank, self.ranks.size))

    def nodes(self, leaves: Mapping[Node, Partial]) -> dict[Node, Partial]:
        """Return the values of the fewest nodes of the tree that cover the shards of this rank, from each of them."""
        return {node: merged(leaves, node, self.codec.merge) for node in self._cover(self.ranks.rank)}

    def answered(self, operation: str, nodes: Mapping[Node, Partial], counts: Sequence[int]) -> Partial:
        """Return the values over all shards of all queries, or of this rank's where ranks have their own; a collective.

        operation: in words. nodes: what :meth:`nodes` returned. counts: how many queries each rank has, in turn, or one
        number where all have the same. Each rank sends and gets 2 (S - 1) / S B C numbers, half of it for its own.
        """
        if len(counts) == self.ranks.size > 1:
            ends = list(accumulate(counts))
            return self.owned(
                operation, nodes, [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
            )
        return self._whole(operation, nodes, sum(counts))

    def _whole(self, operation: str, nodes: Mapping[Node, Partial], batch: int) -> Partial:
        """Return the values of a batch that every rank asks: each merges a part of the queries, and all share them."""
        if self.ranks.size == 1:
            return merged(nodes, (0, self.shards), self.codec.merge)
        if self.ranks.size == EACH_MERGES_ALL:
            return self._by_all(operation, nodes)
        vectors = -(-batch // VECTOR)
        spans = [share_of(vectors, rank, self.ranks.size) for rank in range(self.ranks.size)]
        owned = [range(VECTOR * first, min(VECTOR * last, batch)) for first, last in spans]
        own = self.codec.pack(self.owned(operation, nodes, owned))
        return self.codec.unpack(torch.cat(self.ranks.share(operation, own, [len(one) for one in owned])))

    def _by_all(self, operation: str, nodes: Mapping[Node, Partial]) -> Partial:
        """Return what :meth:`_whole` does, merged on each rank: as many bytes for two of them, and one meeting less."""
        parts = dict(nodes)
        ((own, value),) = nodes.items()
        for rank, rows in enumerate(self.ranks.gather(operation, self.codec.pack(value))):
            (node,) = self._cover(rank)
            if node != own:
                parts[node] = self.codec.unpack(rows)
        return merged(parts, (0, self.shards), self.codec.merge)

    def owned(self, operation: str, nodes: Mapping[Node, Partial], owned: Sequence[range]) -> Partial:
        """Return the values over all shards of the queries that are this rank's; a collective.

        owned: which of the queries of `nodes` belong to each rank, in rising order.
        """
        packed = [self.codec.pack(value) for value in nodes.values()]
        covers, mine = [self._cover(rank) for rank in range(self.ranks.size)], len(owned[self.ranks.rank])
        sent = torch.cat([part[own.start : own.stop] for own in owned for part in packed])
        send = [len(packed) * len(own) for own in owned]
        found = self.ranks.exchange(operation, sent, send, [len(cover) * mine for cover in covers])
        parts: dict[Node, Partial] = {}
        for nodes_there, rows in zip(covers, found, strict=True):
            for place, node in enumerate(nodes_there):
                parts[node] = self.codec.unpack(rows[place * mine : (place + 1) * mine])
        return merged(parts, (0, self.shards), self.codec.merge)

    def _cover(self, rank: int) -> list[Node]:
        return cover(share_of(self.shards, rank, self.ranks.size), (0, self.shards))
