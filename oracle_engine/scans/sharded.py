"""The exact route over shards: what is asked is compared, each shard is scanned, and states are merged in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.calls.checked import check
from ..base.group.ranks import Asked, number_of
from ..data.dataset import OracleDataset
from ..data.on_actors import ActorDataset
from ..data.sharded import ShardedDataset
from ..kernels import Directions, PosteriorState, Wanted
from ..queries.request import Request, nothing_scored
from .backends import Backend
from .exact import ExactScan, WholeScan
from .exchange import Exchange
from .gathering import gathered_directions, gathered_request
from .on_actors import ActorShards
from .shards import CovarianceQuestion, HeldShards, ShardHolder, ShardQuestion, ShardScan, StatesQuestion
from .tree import Partial


@dataclass(frozen=True)
class ShardedScan:
    """Scans of the shards of `data`, and the merge of their states; held: what answers for shards here."""

    data: ShardedDataset
    held: ShardHolder

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
        return self.answered(CovarianceQuestion(whole, classes), counts)

    def on_any_rank(self, asked: bool) -> bool:
        """Return whether some rank asks for what is to follow; a collective where ranks have queries of their own."""
        if not self.data.own_queries:
            return asked
        return any(found for (found,) in self.data.ranks.compare("a term", [], [int(asked)]))

    def requested(self, operation: str, request: Request, wanted: Wanted) -> tuple[Request, Sequence[int]]:
        """Return the request that all ranks answer, and how many of its queries each rank has, or one number.

        operation: in words. Raises InputError where the ranks ask for different things.
        """
        ranks = self.data.ranks
        what = Asked("top_k", 4 * wanted.top_k + 2 * wanted.moments + wanted.mean, lambda: f"{wanted.top_k}")
        if self.data.own_queries:
            return gathered_request(ranks, operation, [what], request)
        ranks.compare(operation, [*_asked(request), what])
        # without what is kept for this process
        return request.changed(), [len(request)]

    def answered(self, question: ShardQuestion[Partial], counts: Sequence[int]) -> Partial:
        """Return the answer to `question` over all shards.

        counts: as :meth:`requested` returned them. Raises and costs as :meth:`state` does.
        """
        exchange: Exchange[Partial] = Exchange(self.data.ranks, self.data.deal.shards, question.codec)
        return exchange.answered(question.operation, self.held.nodes(question), counts)

    def _merged(self, operation: str, request: Request, wanted: Wanted, scan: ShardScan) -> PosteriorState:
        """Return the states of a request over all shards, by `scan` of each."""
        whole, counts = self.requested(operation, request, wanted)
        return self.answered(StatesQuestion(operation, whole, wanted, scan), counts)

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


def whole_scan(data: OracleDataset, backend: Backend, precision: str) -> WholeScan:
    """Return what scans all samples of `data`, in one process or several, by `backend` in `precision`."""
    scanner = backend.scanner(precision)
    if not isinstance(data, ShardedDataset):
        return ExactScan(data, scanner)
    if isinstance(data, ActorDataset):
        return ShardedScan(data, ActorShards(data.actors))
    scans = {number: ExactScan(shard, scanner, whole=False) for number, shard in data.shards.items()}
    return ShardedScan(data, HeldShards(data, scans))


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
