"""Candidate searches: which samples can matter to a query, and what all the others can hold at most."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from .arrays import Float64, Int64, Tensor
from .errors import InputError, invalid, missing
from .kernels import Query, Rows, Span, Wanted
from .kernels.carry import Carry
from .kernels.kinds import KINDS
from .kernels.principal import PrincipalScreen
from .kernels.probe import Source
from .kernels.rescore import Pairs, pairs_state
from .kernels.screen import Screen
from .kernels.shortlist import Allowance, Shortlist, offset, screened, strongest
from .kernels.upper import UpperLogits


@dataclass(frozen=True)
class Ask:
    """What a search is asked: queries over a span of rows, what is wanted, and what is known about the queries."""

    query: Query
    span: Span
    wanted: Wanted
    source: Source
    carry: Carry | None = None


@runtime_checkable
class Search(Protocol):
    """A way to find the samples that matter; one that is not certified cannot tell what it leaves out."""

    @property
    def certified(self) -> bool:
        """Whether it bounds what it leaves out."""
        ...

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter, leaving out no more than `allowance`; others stay unsettled."""
        ...

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` most promising samples of each query."""
        ...


@dataclass(frozen=True)
class ScreenSearch:
    """Matrix products with short rows, level by level; certified by the sum of all other upper logits."""

    screen: Screen
    certified: bool = True

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return all samples that can matter, leaving out no more than `allowance`; others stay unsettled."""
        return screened(_upper(rows, self.screen, ask), ask.wanted, allowance)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` samples with the largest upper logits."""
        return strongest(_upper(rows, self.screen, ask), ask.wanted, count)


@dataclass(frozen=True)
class FlatSearch:
    """FAISS exact inner-product search on the rows of a screen; certified by the k-th upper logit."""

    screen: PrincipalScreen
    count: int = 1024
    certified: bool = True

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return the samples that can matter if there are fewer than `count`; other queries stay unsettled."""
        found = self.top(rows, ask, self.count)
        index = torch.arange(len(ask.query), device=rows.device)
        proved = found.log_omitted <= found.state.lse + allowance(index, found.state).log()
        return Shortlist(found.state, found.log_omitted, found.survivors, proved)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` samples with the largest upper logits."""
        _check_processor(rows)
        upper = _upper(rows, self.screen, ask)
        level = len(self.screen.widths) - 1
        factors = self.screen.factors(upper.probe, level, rows.log_weights is not None)
        features = self.screen.features[level][ask.span.start : ask.span.stop]
        kept = _places(ask, count)
        values, place = _faiss().knn(factors.numpy(), features.numpy(), kept, metric=_faiss().METRIC_INNER_PRODUCT)
        last = torch.from_numpy(values)[:, -1].double() + upper.probe.constant + offset(ask.query)
        others = math.log(len(ask.span) - kept) if kept < len(ask.span) else -math.inf
        return _shortlist(rows, ask, torch.from_numpy(place) + ask.span.start, last + others)


@dataclass(frozen=True)
class NoSearch:
    """The search of data for which no screen pays, for the reason given: it settles nothing."""

    reason: str
    certified: bool = False

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return nothing: every query is left to a scan."""
        return Shortlist.unsettled(len(ask.query), rows.dim, ask.wanted.top_k, rows.device)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Raise InputError: there is nothing to look things up in."""
        raise invalid("mode", "top_k needs a screen", f"none: {self.reason}", "call engine.prepare('pca')")


class FactorySearch:
    """Any FAISS index by its factory string, over the samples themselves; it cannot tell what it leaves out.

    An index is trained and filled for each span on its first use, since class-conditional queries search their class.
    """

    certified = False

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.indexes: dict[Span, Any] = {}

    def within(self, rows: Rows, ask: Ask, allowance: Allowance) -> Shortlist:
        """Return nothing: no sample is proved not to matter."""
        return Shortlist.unsettled(len(ask.query), rows.dim, ask.wanted.top_k, rows.device)

    def top(self, rows: Rows, ask: Ask, count: int) -> Shortlist:
        """Return the `count` samples that the index finds nearest to x / alpha."""
        _check_processor(rows)
        target = (ask.query.point / ask.query.alpha.clamp_min(1e-12)[:, None]).float()
        _, place = self.index(rows, ask.span).search(target.numpy(), _places(ask, count))
        row = torch.from_numpy(place)
        row = torch.where(row < 0, -1, row + ask.span.start)
        return _shortlist(rows, ask, row, torch.full_like(ask.query.alpha, torch.nan))

    def index(self, rows: Rows, span: Span) -> Any:
        """Return the index of the rows in `span`, built if need be. Raises InputError for what FAISS refuses."""
        if span not in self.indexes:
            self.indexes[span] = self._built(rows, span)
        return self.indexes[span]

    def _built(self, rows: Rows, span: Span) -> Any:
        faiss = _faiss()
        points = (rows.stored[span.start : span.stop].double() - rows.centre).float().numpy()
        try:
            index = faiss.index_factory(rows.dim, self.spec)
            index.train(points)
            index.add(points)
        except RuntimeError as error:
            raise _refused(self.spec, f"{len(span)} samples", error) from None
        return index


def check_spec(spec: str, dim: int) -> None:
    """Raise InputError for a factory string FAISS does not know for `dim` values, MissingDependencyError without it."""
    if spec in ("screen", *KINDS):
        return
    faiss = _faiss()
    try:
        if spec != "flat":
            faiss.index_factory(dim, spec)
    except RuntimeError as error:
        raise _refused(spec, f"samples of {dim} values", error) from None


def _refused(spec: str, what: str, error: RuntimeError) -> InputError:
    # without the function and the line that found it
    reason = re.sub(r"^.* at \S+:\d+: (Error: )?", "", str(error).splitlines()[-1])
    wanted = f"must be a FAISS factory string that fits {what}"
    return invalid("index", wanted, f"{spec!r}: {reason}", "use 'screen', 'flat', or another string")


def _upper(rows: Rows, screen: Screen, ask: Ask) -> UpperLogits:
    return UpperLogits.of(rows, screen, ask.query, ask.span, ask.source, ask.carry)


def _places(ask: Ask, count: int) -> int:
    """Return how many samples to ask for: those that do not count take places of those that do."""
    taken = int((ask.query.holes[:, :, 1] - ask.query.holes[:, :, 0]).sum(1).amax()) if len(ask.query) else 0
    return min(count + taken, len(ask.span))


def _shortlist(rows: Rows, ask: Ask, row: Int64[Tensor, "B k"], log_omitted: Float64[Tensor, "B"]) -> Shortlist:
    holes = ask.query.holes
    inside = (row[:, :, None] >= holes[:, None, :, 0]) & (row[:, :, None] < holes[:, None, :, 1])
    real = (row >= 0) & ~inside.any(2)
    query = torch.arange(len(row), device=row.device)[:, None].expand_as(row)[real]
    pairs = Pairs(query, row[real], torch.zeros_like(query, dtype=torch.float64))
    state = pairs_state(rows, ask.query, pairs, ask.wanted)
    return Shortlist(state, log_omitted, real.sum(1), torch.ones_like(real[:, 0]))


def _check_processor(rows: Rows) -> None:
    if rows.device.type != "cpu":
        raise invalid("index", "of FAISS needs data on the CPU", f"data on {rows.device}", "use index='screen' there")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise missing("faiss", "a FAISS index", "faiss") from None
    return faiss
