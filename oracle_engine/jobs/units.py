"""What a unit computes, and how the states of all shards become the answer to a block of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.calls.checked import check
from ..base.outputs import rounded_answer
from ..base.outside.rows import OutsideRows
from ..data.dataset import OracleDataset
from ..data.deal import Deal
from ..data.sharded import cut
from ..engine.engine import OracleEngine
from ..kernels import Directions, PosteriorState, Wanted
from ..queries.conditions import Conditions
from ..queries.modes import FullScan
from ..queries.request import Request, nothing_scored
from ..queries.stored import Queries
from ..scans.backends import BACKENDS
from ..scans.exact import ExactScan
from ..scans.layout import Layout
from ..scans.tree import merged
from .spec import Spec, Unit

# samples with labels are copied shard by shard: all shards of smaller data are kept, one of larger data
KEPT_BYTES = 1 << 30


class Units:
    """The work of a job `spec`: `engine` answers `queries`, both those that the job was begun with."""

    def __init__(self, engine: OracleEngine, queries: Queries, spec: Spec) -> None:
        self.engine, self.queries, self.spec = engine, queries, spec
        data = engine.data
        self._deal = Deal.of(len(data), data.sorted_labels, spec.shards)
        shared = data.sorted_labels is None or data.rows.stored.nbytes <= KEPT_BYTES
        self._scan_of = lru_cache(spec.shards if shared else 1)(self._scan)

    def check(self) -> None:
        """Raise InputError where the first block of queries cannot be asked, as :meth:`OracleEngine.velocity` does."""
        self._request(0)

    @torch.no_grad()
    def state(self, unit: Unit) -> dict[str, Tensor]:
        """Return the state of a unit as rows: "own" [B, C] of what each query may use, "rest" [b, C] of other classes.

        rest: of the queries that are guided. Raises InputError as :meth:`OracleEngine.velocity` does. Costs a pass over
        the shard, and one more where queries are guided.
        """
        request, scan = self._request(unit.block), self._scan_of(unit.shard)
        guided = request.take(_guided(request))
        if scan is None:
            own, rest = self._nothing(len(request)), self._nothing(len(guided))
        else:
            own = scan.part(request, self._layout.wanted)
            rest = scan.rest(guided, self._layout.wanted) if len(guided) else self._nothing(0)
        return {"own": self._layout.pack(own), "rest": self._layout.pack(rest)}

    @torch.no_grad()
    def answer(self, block: int, states: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return the answer to a block from the states of its units, in the order of the shards; [b, ...], like x.

        Raises InputError where no sample that a query may use has any weight. The order in which states are merged is
        that of the sharded engine.
        """
        request, what = self._request(block), self.spec.what
        scan = Gathered(self.engine.data, *(self._whole([state[name] for state in states]) for name in ("own", "rest")))
        responder = self.engine.responder
        router = replace(responder.router, mode=FullScan(), exact=scan)
        x = self._block(block).x
        values = replace(responder, router=router).values(what, request, x.dtype)
        return values if what == "log_density" else rounded_answer(values, what, x.dtype, x.shape)

    @cached_property
    def _layout(self) -> Layout:
        wanted = Wanted(mean=self.spec.what != "log_density", mergeable=True)
        return Layout(self.engine.data.dim, wanted, self.engine.data.device)

    def _block(self, block: int) -> Queries:
        return self.queries.block(block * self.spec.batch, self.spec.batch)

    def _request(self, block: int) -> Request:
        part, device = self._block(block), self.engine.data.device
        labels = None if part.labels is None else part.labels.to(device)
        conditions = Conditions(labels, self.spec.guidance)
        return self.engine.request_builder.request(part.x.to(device), part.t.to(device), conditions)

    def _whole(self, parts: Sequence[Tensor]) -> PosteriorState:
        leaves = {(shard, shard + 1): self._layout.unpack(part) for shard, part in enumerate(parts)}
        return merged(leaves, (0, len(parts)), self._layout.merge)

    def _nothing(self, batch: int) -> PosteriorState:
        return PosteriorState.empty(batch, self.engine.data.dim, 0, self.engine.data.device)

    def _scan(self, shard: int) -> ExactScan | None:
        """Return the scan of one shard, or None for an empty one."""
        held = cut(self.engine.data, self._deal, shard)
        if held is None:
            return None
        if isinstance(held.rows.stored, OutsideRows):
            # bits of an answer must not depend on the blocks in which samples would be streamed
            held = held.with_rows(replace(held.rows, stored=held.rows.stored.between(0, len(held))))
        return ExactScan(held, BACKENDS[self.engine.backend].scanner(self.engine.precision), whole=False)


@dataclass(frozen=True)
class Gathered:
    """A scan of `data` that was done: the states `own` of what each query may use, and `rest` of the other samples.

    It answers what :class:`oracle_engine.scans.exact.WholeScan` does, for the requests that it was done for.
    """

    data: OracleDataset
    own: PosteriorState
    rest_state: PosteriorState

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states of all samples that each query of `request` may use. Raises InputError for none."""
        state = self.own
        check(lambda: state.lse > -torch.inf, lambda: nothing_scored(request, self.data, state.lse > -torch.inf))
        return state

    def rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states of all samples outside the classes of the guided queries `request`."""
        return self.rest_state

    def covariance(self, directions: Directions, labels: Int64[Tensor, "B U"] | None) -> Float64[Tensor, "B D"]:
        """Not kept: answers of jobs have no derivatives."""
        raise AssertionError("answers of jobs have no derivatives")

    def on_any_rank(self, asked: bool) -> bool:
        """Return `asked`: a block is answered by one process."""
        return asked


def _guided(request: Request) -> Int64[Tensor, "b"]:
    return (request.scale != 1.0).nonzero()[:, 0]
