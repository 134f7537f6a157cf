"""A checked batch of queries: everything a caller can ask, resolved to float64 tensors before any work starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor
from ..base.calls.cuda_graphs import capturing
from ..base.errors import InputError, invalid
from ..data.dataset import OracleDataset
from ..kernels import GivenPoints, Pairs, PosteriorState, Query, Span, ValueQuery, Wanted, Work, log_of, pairs_state
from ..kernels.screens import BOUND_FAILURE, Source
from ..paths.paths import Coefficients
from .classes import range_sums, table_ranges, used_ranges, with_class
from .known_times import KnownTimes


@dataclass(frozen=True)
class Request:
    """B queries x [B, D], their times [B] and the path at these times, all float64 on the device of the data.

    variance: of x around alpha X_j, sigma^2 + alpha^2 point_std^2, [B].
    labels: classes each query may use, [B, U] with -1 for none, or None where no query has any.
    exclude: row that does not count for a query, -1 for none, [B]; excluded: the same as ranges, [B, H, 2], H = 0 where
        nothing was excluded.
    source: row that a query was made from, -1 for unknown, [B].
    scale: guidance scale, 1 where there is none, [B].
    rounding: unit roundoff of the dtype of x. guided: whether a guidance was passed, so that scales may differ from 1.
    shared_scale: the scale of all queries with a class where it is known to be one number, else None.
    known_times: returns what the host knows of the times of these queries, and maybe of others, while they are on a
    device, None where that is nothing; or None.
    """

    x: Float64[Tensor, "B D"]
    times: Float64[Tensor, "B"]
    at: Coefficients
    variance: Float64[Tensor, "B"]
    labels: Int64[Tensor, "B U"] | None
    exclude: Int64[Tensor, "B"]
    excluded: Int64[Tensor, "B H 2"]
    source: Int64[Tensor, "B"]
    scale: Float64[Tensor, "B"]
    rounding: float
    guided: bool = True
    shared_scale: float | None = None
    known_times: Callable[[], KnownTimes | None] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def names_sources(self) -> bool:
        """Whether a query may name the sample it was made from, known without a look at any."""
        return True

    def take(self, index: slice | Int64[Tensor, "b"]) -> Request:
        """Return the queries at `index`, a slice or [b]."""
        at = self.at.take(index)
        labels = None if self.labels is None else self.labels[index]
        names = ("x", "times", "variance", "exclude", "excluded", "source", "scale")
        return replace(self, at=at, labels=labels, **{name: getattr(self, name)[index] for name in names})

    def changed(self, **changes: Any) -> Request:
        """Return the request with other values of the fields that `changes` names."""
        return Request(**{field.name: getattr(self, field.name) for field in fields(Request)} | changes)

    @property
    def unconditional(self) -> Request:
        """The same queries of the whole data set."""
        return replace(self, labels=None)

    @cached_property
    def blur(self) -> Float64[Tensor, "B"]:
        """What the dtype of x may have rounded off it, a norm in value space, [B]."""
        norm: Tensor = torch.linalg.vector_norm(self.x, dim=1)
        return self.rounding * norm

    def known_source(self, data: OracleDataset) -> Source:
        """Return which rows of `data` the queries come from, for the bounds of a search."""
        return Source(self.source, self.blur / data.value_map.scale, BOUND_FAILURE)

    def source_counts(self, data: OracleDataset) -> Bool[Tensor, "B"]:
        """Return which queries may use the sample of `data` they were made from, [B]."""
        counts = (self.source >= 0) & (self.source != self.exclude)
        if self.labels is None or data.sorted_labels is None:
            return counts
        own = data.sorted_labels[self.source.clamp_min(0)]
        same = (self.labels == own[:, None]).any(1) & (own >= 0)
        return counts & (same | (self.labels < 0).all(1))

    def query(self, data: OracleDataset) -> Query:
        """Return the batch in the coordinates of the rows of `data`; it is kept for the next who asks."""
        kept = self._queries.get(id(data))
        if kept is None:
            kept = self._queries[id(data)] = data, self._query(data)
        return kept[1]

    def source_state(self, data: OracleDataset) -> PosteriorState:
        """Return the posterior states of the samples of `data` that the queries were made from, each of it alone.

        Weights do not count: a sample that weighs nothing can be a source too. It is kept for the next who asks.
        """
        kept = self._source_states.get(id(data))
        if kept is None:
            kept = self._source_states[id(data)] = data, self._source_state(data)
        return kept[1]

    def _source_state(self, data: OracleDataset) -> PosteriorState:
        index = (self.source >= 0).nonzero()[:, 0]
        rows = data.rows if data.rows.log_weights is None else replace(data.rows, log_weights=None)
        pairs = Pairs(index, self.source[index], torch.zeros_like(self.times[index]))
        return pairs_state(rows, self.query(data), pairs, Wanted())

    @cached_property
    def _source_states(self) -> dict[int, tuple[OracleDataset, PosteriorState]]:
        return {}

    @cached_property
    def _queries(self) -> dict[int, tuple[OracleDataset, Query]]:
        # beside the data, so that no others can have their identity
        return {}

    def _query(self, data: OracleDataset) -> Query:
        values = data.value_map
        given = GivenPoints(self.x, values.scale, values.offset)
        return ValueQuery(given, self.at.alpha_t.contiguous(), self.variance, self.excluded, data.base)

    def work(self, data: OracleDataset, wanted: Wanted) -> Work:
        """Return the scan of all rows of `data` for this batch; `wanted` of their posteriors."""
        return Work(data.rows, self.query(data), Span(0, len(data)), wanted)

    def usable(self, data: OracleDataset) -> Int64[Tensor, "B"]:
        """Return how many samples of `data` each query may use, [B]; it is kept for the next who asks."""
        kept = self._counts.get(id(data))
        if kept is None:
            kept = self._counts[id(data)] = data, self._usable(data)
        return kept[1]

    def ranges(self, data: OracleDataset) -> Int64[Tensor, "B U 2"]:
        """Return the rows of `data` that each query uses, [B, U, 2], of its classes or all; kept for the next who asks.

        Empty where a union names no class. Raises AssertionError for queries or data without classes, which are refused
        before.
        """
        kept = self._ranges.get(id(data))
        if kept is None:
            if self.labels is None or data.sorted_labels is None:
                raise AssertionError("queries and data without classes are refused before any scan")
            # unions that name a class twice are refused, but for those of a graph that is captured
            table = None if capturing() and self.labels.shape[1] > 1 else data.class_table
            found = used_ranges(self.labels, data.sorted_labels) if table is None else table_ranges(self.labels, table)
            kept = self._ranges[id(data)] = data, found
        return kept[1]

    @cached_property
    def _ranges(self) -> dict[int, tuple[OracleDataset, Int64[Tensor, "B U 2"]]]:
        return {}

    def _usable(self, data: OracleDataset) -> Int64[Tensor, "B"]:
        """Return how many samples each query may use."""
        if self.labels is None or data.sorted_labels is None:
            count = torch.full(self.times.shape, len(data), dtype=torch.int64, device=self.times.device)
            return count if self._excludes_none else count - (self.exclude >= 0).long()
        start, stop = self.ranges(data).unbind(2)
        count = stop - start
        count = count[:, 0] if count.shape[1] == 1 else count.sum(1)
        if self._excludes_none:
            return count
        row = self.exclude[:, None]
        return count - ((row >= start) & (row < stop)).any(1).long()

    @cached_property
    def _counts(self) -> dict[int, tuple[OracleDataset, Int64[Tensor, "B"]]]:
        return {}

    @property
    def _uses_all(self) -> bool:
        # nothing was excluded, and no class was asked for
        return self.labels is None and self._excludes_none

    @property
    def _excludes_none(self) -> bool:
        return self.excluded.shape[1] == 0

    def log_mass(self, data: OracleDataset) -> Float64[Tensor, "B"] | float:
        """Return the log of :meth:`mass`, [B] or a number."""
        return log_of(self.mass(data))

    def mass(self, data: OracleDataset) -> Float64[Tensor, "B"] | Int64[Tensor, "B"] | float:
        """Return the weight of the samples of `data` each query may use, [B]; unweighted ones count one.

        A number where it is the same for all, because they use everything.

        Costs a few passes over the weights.
        """
        if data.rows.log_weights is None and self._uses_all:
            return float(len(data))
        if data.rows.log_weights is None:
            return self.usable(data)
        weights = data.rows.log_weights.exp()
        mass = weights.sum().expand(len(self))
        own = torch.ones(len(self), dtype=torch.bool, device=mass.device)
        if self.labels is not None and data.sorted_labels is not None:
            ranges, row = self.ranges(data), self.exclude[:, None]
            unconditional = (self.labels < 0).all(1)
            mass = torch.where(unconditional, mass, range_sums(weights, ranges, data.sorted_labels).sum(1))
            own = unconditional | ((row >= ranges[:, :, 0]) & (row < ranges[:, :, 1])).any(1)
        left_out = torch.where(own & (self.exclude >= 0), weights[self.exclude.clamp_min(0)], 0.0)
        rest = mass - left_out
        # where one sample holds nearly all of the weight the difference loses it: sum the others
        for query in (left_out > 0.999 * mass).nonzero()[:, 0].tolist():
            rest[query] = self._others(query, weights, data)
        return rest

    def _others(self, query: int, weights: Float64[Tensor, "N"], data: OracleDataset) -> Float64[Tensor, ""]:
        """Return the total weight of the samples that a query may use."""
        others = weights.clone()
        others[self.exclude[query]] = 0.0
        names = [] if self.labels is None else self.labels[query].unique().tolist()
        spans = [data.segments[name] for name in names if name >= 0] or [Span(0, len(data))]
        return torch.stack([others[span.start : span.stop].sum() for span in spans]).sum()


class PlainRequest(Request):
    """Queries that name no sample, neither to leave out nor as their source, and share their scale if they have one.

    What says so for each of them is made where it is asked for.
    """

    def __init__(
        self,
        x: Float64[Tensor, "B D"],
        times: Float64[Tensor, "B"],
        at: Coefficients,
        variance: Float64[Tensor, "B"],
        *,
        rounding: float,
        labels: Int64[Tensor, "B U"] | None = None,
        shared_scale: float | None = None,
        known_times: Callable[[], KnownTimes | None] | None = None,
    ) -> None:
        """Hold the queries; the arguments are those of Request."""
        guided = shared_scale is not None
        vars(self).update(x=x, times=times, at=at, variance=variance, rounding=rounding)
        vars(self).update(labels=labels, shared_scale=shared_scale, guided=guided, known_times=known_times)

    @cached_property
    def exclude(self) -> Int64[Tensor, "B"]:
        """-1 for each query, [B]."""
        return torch.full(self.times.shape, -1, dtype=torch.int64, device=self.times.device)

    @cached_property
    def excluded(self) -> Int64[Tensor, "B 0 2"]:
        """No ranges, [B, 0, 2]."""
        return torch.empty(len(self), 0, 2, dtype=torch.int64, device=self.times.device)

    @property
    def source(self) -> Int64[Tensor, "B"]:
        """-1 for each query, [B]."""
        return self.exclude

    @property
    def names_sources(self) -> bool:
        """False."""
        return False

    @cached_property
    def scale(self) -> Float64[Tensor, "B"]:
        """The scale of each query, [B], 1 for those without a class."""
        ones = torch.ones_like(self.times)
        if self.labels is None or self.shared_scale is None:
            return ones
        return ones.masked_fill(with_class(self.labels), self.shared_scale)

    @property
    def unconditional(self) -> Request:
        """The same queries of the whole data set."""
        return self if self.labels is None else self.changed(labels=None)

    def take(self, index: slice | Int64[Tensor, "b"]) -> PlainRequest:
        """Return the queries at `index`, a slice or [b]."""
        labels = None if self.labels is None else self.labels[index]
        parts = self.x[index], self.times[index], self.at.take(index), self.variance[index]
        shared, known = self.shared_scale, self.known_times
        return PlainRequest(*parts, rounding=self.rounding, labels=labels, shared_scale=shared, known_times=known)


def nothing_scored(request: Request, data: OracleDataset, scored: Bool[Tensor, "B"]) -> InputError:
    """Return the error for queries of `request` that no sample of `data` has a share of.

    scored: which queries have one, [B], not all. Either their samples weigh nothing, or they are too far away.
    """
    first = int((~scored).nonzero()[0])
    mass = torch.as_tensor(request.log_mass(data)).expand(len(request))
    if bool(mass[first] > -torch.inf):
        largest = request.x[first].abs().amax().item()
        found = f"{largest:.3g} in query {first}, where sigma is {request.variance[first].sqrt().item():.3g}"
        return invalid("x", "must have a distance to the samples that can be squared", found, "rescale x")
    return invalid("weights", "must be positive for some sample", f"none for query {first}", "change labels or exclude")
