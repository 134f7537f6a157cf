"""The stable target: the estimate over a few samples of which one made x_t."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset, stored_rows
from ..engine.engine import OracleEngine
from ..kernels import Span
from ..paths.paths import coefficients
from .estimates import Exact, Mean, TargetQuery, blend, column
from .random_rows import draw_references, equally_weighted

# what draws `count` rows of a span, [count] int64, as draw_references does: called with (data, span, count, generator)
RowDraw = Callable[[OracleDataset, Span, int, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class References:
    """EFM, the stable target: the posterior mean over `count` samples that include the one that made x_t.

    count: how many samples M, at least 1; count = 1 is CFM.
    generator: of the references, on any device; the global one unless given.
    draw_rows: draws the rows of the references as draw_references does, called with (data, span, count, generator); it
        returns [count] int64 rows of the span, different ones where the samples of the span count alike.
    Raises InputError for a `count` below 1.

    The target's mean is sum_i w_i X_i with w = softmax_i(-|x_t - alpha X_i|^2 / (2 sigma^2)) over the references. They
    are drawn from the query's class where it has one, else from all samples, independently of x_t, and are shared by
    the batch:

    - a class (or a data set) of at most M samples is taken as a whole, with its weights: the exact target;
    - samples that count alike are drawn without replacement: M different ones, or M - 1 and the own sample where it is
      not among them. Every set of M samples that holds the own one is equally likely;
    - samples with different weights are drawn by weight with replacement, M - 1 beside the own one, which count alike.

    Given the set of all M and x_t, each of them is as likely to have made x_t as w says, so the target is the
    conditional mean of the CFM target given both: averaged over source and references at a fixed x_t it is the oracle
    exactly, for every M, and its variance is never above that of CFM. It is biased for a fixed source, and without the
    own sample, where it is a ratio estimate that is far off as soon as none of the references is near x_t. Xu, Tong and
    Jaakkola (2023), "Stable target field for reduced variance score estimation in diffusion models". Costs O(B M D).

    >>> import torch, oracle_engine as oe
    >>> data = oe.load_dataset("digits")
    >>> source = torch.arange(16)
    >>> engine = oe.OracleEngine(data)
    >>> x_t = oe.path_sample(engine.path, data[source], torch.randn(16, 1, 8, 8), 0.5)
    >>> oe.OracleTarget(engine, estimate=oe.References(128))(x_t, 0.5, source=source).shape
    torch.Size([16, 1, 8, 8])
    """

    count: int = 128
    generator: torch.Generator | None = None
    draw_rows: RowDraw = field(default=draw_references, kw_only=True, repr=False)
    needs_source: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise invalid("count", "must be at least 1, the sample that made x_t", self.count, "pass 128")

    def mean(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the mean over the own sample of each query and the references drawn here.

        engine: over the samples as points. query: B queries with `source`. Returns a Mean of [B, *sample_shape].
        Raises InputError for queries without `source`.
        """
        if query.source is None:
            raise invalid("source", "is needed for References", None, "pass the indices of the samples that made x_t")
        _check_shared(engine.data)
        spans, group = _spans(engine.data, query)
        small = torch.tensor([len(span) <= self.count for span in spans], device=group.device)[group]
        whole, drawn = small.nonzero()[:, 0], (~small).nonzero()[:, 0]
        if len(drawn) == 0:
            return Exact().mean(engine, query)
        own = _own(engine, query, query.source)
        found = (
            own if self.count == 1 else own.set(drawn, self._with_others(engine, query.take(drawn), own.take(drawn)))
        )
        return found if len(whole) == 0 else found.set(whole, Exact().mean(engine, query.take(whole)))

    def mixed(self, first: Mean, second: Mean, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        """Return (1 - share) first + share second, [B, *sample_shape] float64.

        first, second: means of the same B queries over two sets of samples.
        share: the second set's share of the posterior, [B] float64 in [0, 1].
        """
        return blend(first.values, second.values, share)

    def _with_others(self, engine: OracleEngine, query: TargetQuery, own: Mean) -> Mean:
        """Return the means over the own samples, of which `own` is what each says, and references drawn here."""
        others = self._others(engine, query)
        log_rest = others.log_density + math.log(self.count - 1)
        share = torch.sigmoid(log_rest - own.log_density)
        density = torch.logaddexp(own.log_density, log_rest) - math.log(self.count)
        return Mean(blend(own.values, others.values, share), density)

    def _others(self, engine: OracleEngine, query: TargetQuery) -> Mean:
        """Return the means over count - 1 references for each query, drawn once for every class in the batch."""
        data = engine.data
        spans, group = _spans(data, query)
        drawn = [
            self.draw_rows(data, span, self.count - (not equally_weighted(data, span)), self.generator)
            for span in spans
        ]
        sizes = torch.tensor([len(rows) for rows in drawn], device=data.device)
        rows, first = torch.cat(drawn), sizes.cumsum(0) - sizes
        labels = torch.arange(len(spans), device=data.device).repeat_interleave(sizes)
        points = stored_rows(data, rows).reshape(len(rows), *data.sample_shape)
        references = OracleDataset(points, labels, value_map=data.value_map, name="references")
        left_out = torch.full_like(group, -1)
        for number, chosen in enumerate(drawn):
            if len(chosen) == self.count:
                members = (group == number).nonzero()[:, 0]
                left_out[members] = first[number] + self._left_out(data, query.take(members), chosen)
        some = TargetQuery(query.x, query.t, group[:, None], left_out, None)
        return Exact().mean(_beside(engine, references), some)

    def _left_out(self, data: OracleDataset, query: TargetQuery, chosen: Int64[Tensor, "M"]) -> Int64[Tensor, "b"]:
        """Return which of the `chosen` rows is no reference: the own sample, or the last one where it is not there."""
        assert query.source is not None
        own = data.row_of(query.source)
        ordered, place = chosen.sort()
        at = torch.searchsorted(ordered, own).clamp_max(self.count - 1)
        return torch.where(ordered[at] == own, place[at], self.count - 1)


def _check_shared(data: OracleDataset) -> None:
    if isinstance(data, ShardedDataset) and data.own_queries:
        found, remedy = "an engine whose ranks have queries of their own", "use Exact(), or queries='same'"
        raise invalid("estimate", "must be drawn for the queries of all ranks at once", found, remedy)


def _beside(engine: OracleEngine, data: OracleDataset) -> OracleEngine:
    return OracleEngine(data, engine.path, backend=engine.backend, mode="exact", t_max=engine.t_max)


def _spans(data: OracleDataset, query: TargetQuery) -> tuple[list[Span], Int64[Tensor, "B"]]:
    """Return the rows that the references of each class in the batch come from, and the class of each query, [B]."""
    everything = Span(0, len(data))
    if query.labels is None:
        return [everything], torch.zeros(len(query.x), dtype=torch.int64, device=data.device)
    names, group = query.labels[:, 0].unique(return_inverse=True)
    return [data.segments[name] if name >= 0 else everything for name in names.tolist()], group


def _own(engine: OracleEngine, query: TargetQuery, source: Int64[Tensor, "B"]) -> Mean:
    """Return the samples that queries were made from, with the log-density of the queries given them."""
    values = engine.data.sample_values(engine.data.row_of(source)).double()
    at = coefficients(engine.path, query.t)
    gap = (query.x - column(at.alpha_t, values) * values).reshape(len(values), -1)
    square, dim = at.sigma_t.square(), engine.data.dim
    return Mean(values, -0.5 * gap.square().sum(1) / square - 0.5 * dim * (2 * math.pi * square).log())
