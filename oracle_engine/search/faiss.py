"""Candidate searches by FAISS: exact inner products on the rows of a screen, and any index by its factory string."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..base.arrays import Float, Float64, Int64, Tensor
from ..base.errors import InputError, MissingDependencyError, invalid, missing
from ..kernels import Pairs, Rows, Span, Work, pairs_state
from ..kernels.screens import (
    SCREEN_KINDS,
    Allowance,
    PrincipalScreen,
    Shortlist,
    SideInformation,
    UpperLogits,
    common_term,
)
from .search import ScreenSearch

# places that a GPU index of FAISS returns at most
GPU_MOST = 2048

# the rows an index holds, and the thread that uses it
IndexKey = tuple[Span, int]

_thread = threading.local()


@dataclass(frozen=True)
class FlatSearch:
    """FAISS exact inner-product search on the rows of a screen; certified by the k-th upper logit.

    screen: its widest level is searched. count: samples of each query that are rescored to certify it.
    indexes: those of the spans that were searched on CUDA.
    Data on CUDA are searched there, by an index of a copy of the rows for each span; what has more than 2,048 places
    is searched by torch.
    """

    screen: PrincipalScreen
    count: int = 1024
    certified: bool = True
    indexes: dict[IndexKey, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def least_snr(self) -> float:
        """Zero: every query is searched for."""
        return 0.0

    def asks_nothing(self, rows: Rows) -> bool:
        """Return False: queries and answers of an index are on the host."""
        return False

    def within(self, work: Work, side: SideInformation, allowance: Allowance) -> Shortlist:
        """Return the samples that can matter where they are fewer than `count`; other queries are pending.

        work, side, allowance: as in :meth:`Search.within`.
        """
        found = self.top(work, side, self.count)
        return replace(found, certified=found.log_omitted <= found.state.lse + allowance(found.state).log())

    def top(self, work: Work, side: SideInformation, count: int) -> Shortlist:
        """Return the `count` samples with the largest upper logits; `work` and `side` as in :meth:`Search.top`."""
        kept = _places(work, count)
        if on_gpu(work.rows.device) and kept > GPU_MOST:
            return ScreenSearch(self.screen).top(work, side, count)
        query_bound = UpperLogits.of(work, self.screen, side).query_bound
        level = len(self.screen.widths) - 1
        factors = self.screen.factors(query_bound, level, weighted=work.rows.log_weights is not None)
        values, place = self._largest(factors, work.span, kept)
        last = values[:, -1].double() + query_bound.slack + common_term(work.rows, work.query)
        others = math.log(len(work.span) - kept) if kept < len(work.span) else -math.inf
        return _shortlist(work, place + work.span.start, last + others)

    def _largest(
        self, factors: Float[Tensor, "B w"], span: Span, count: int
    ) -> tuple[Float[Tensor, "B k"], Int64[Tensor, "B k"]]:
        """Return the largest products with the rows of `span`, falling, and their places in it."""
        faiss, features = _faiss(), self.screen.features[-1][span.start : span.stop]
        if not on_gpu(features.device):
            return _tensors(faiss.knn(factors.numpy(), features.numpy(), count, metric=faiss.METRIC_INNER_PRODUCT))
        key = (span, threading.get_ident())
        if key not in self.indexes:
            self.indexes[key] = index_on_device(faiss.IndexFlatIP(features.shape[1]), features.device)
            self.indexes[key].add(features.cpu().numpy())
        return _tensors(self.indexes[key].search(factors.cpu().numpy(), count), features.device)


class FactorySearch:
    """Any FAISS index by its factory string `spec`, over the samples themselves; it cannot tell what it leaves out.

    An index is trained and filled for each span on its first use, since class-conditional queries search their class;
    on the device of the data where FAISS has it for that.
    """

    certified = False
    least_snr = math.inf

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.indexes: dict[IndexKey, Any] = {}

    def asks_nothing(self, rows: Rows) -> bool:
        """Return False: queries and answers of an index are on the host."""
        return False

    def within(self, work: Work, side: SideInformation, allowance: Allowance) -> Shortlist:
        """Return nothing, whatever `side` and `allowance` are: no sample is proved not to matter to any of `work`."""
        return Shortlist.pending(work)

    def top(self, work: Work, side: SideInformation, count: int) -> Shortlist:
        """Return the samples that the index finds nearest to x / alpha.

        work: the queries, the rows and their span. side: does not help. count: how many samples of each query.
        Raises InputError for more places than FAISS has on a GPU, and for a string that it refuses for these rows.
        """
        kept, query = _places(work, count), work.query
        if on_gpu(work.rows.device) and kept > GPU_MOST:
            most = f"top_k of FAISS may ask a GPU for {GPU_MOST:,} places, excluded samples among them"
            raise invalid("mode", most, f"{kept:,}", "take fewer, or keep the data on the CPU")
        target = (query.point / query.alpha.clamp_min(1e-12)[:, None]).float()
        _, row = _tensors(self.index(work.rows, work.span).search(target.cpu().numpy(), kept), work.rows.device)
        row = torch.where(row < 0, -1, row + work.span.start)
        return _shortlist(work, row, torch.full_like(query.alpha, torch.nan))

    def index(self, rows: Rows, span: Span) -> Any:
        """Return the index of those of `rows` in `span`, built if need be. Raises InputError for what FAISS refuses."""
        # what a GPU index works with belongs to one thread
        key = (span, threading.get_ident() if on_gpu(rows.device) else 0)
        if key not in self.indexes:
            self.indexes[key] = self._built(rows, span)
        return self.indexes[key]

    def _built(self, rows: Rows, span: Span) -> Any:
        """Return the FAISS index over a span of rows. Raises InputError where FAISS refuses it."""
        faiss = _faiss()
        points = (rows.stored[span.start : span.stop].double() - rows.centre).float().cpu().numpy()
        try:
            index = index_on_device(faiss.index_factory(rows.dim, self.spec), rows.device)
            index.train(points)
            index.add(points)
        except RuntimeError as error:
            where = f" on {rows.device}" if on_gpu(rows.device) else ""
            raise _refused(self.spec, f"{len(span)} samples{where}", error) from None
        return index


def on_gpu(device: torch.device) -> bool:
    """Return whether data on `device` are searched by a GPU index."""
    return device.type != "cpu"


def index_on_device(index: Any, device: torch.device) -> Any:
    """Return a FAISS `index`, itself on the CPU, on `device`.

    Raises MissingDependencyError where FAISS has no GPU support, RuntimeError for kinds of index that it only has for
    CPUs. Queries and answers of an index are arrays on the host: they are small.
    """
    if not on_gpu(device):
        return index
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise MissingDependencyError(
            f"A FAISS index of data on {device} needs a FAISS with GPU support; the one installed has none. "
            "Remedy: pip uninstall -y faiss-cpu && pip install faiss-gpu-cuvs (both install the same module), "
            "or use index='screen' there."
        )
    number = device.index or 0
    # each thread has its own working memory on each device: FAISS shares it between no two
    if not hasattr(_thread, "resources"):
        _thread.resources = {}
    if number not in _thread.resources:
        _thread.resources[number] = faiss.StandardGpuResources()
    return faiss.index_cpu_to_gpu(_thread.resources[number], number, index)


def check_spec(spec: str, dim: int) -> None:
    """Check that an index can be made of `spec`: "screen", a kind of screen, "flat", or a FAISS factory string.

    dim: values of a sample. Raises InputError for a factory string that FAISS does not know for so many values,
    MissingDependencyError where FAISS is needed and not installed.
    """
    if spec in ("screen", *SCREEN_KINDS):
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


def _places(work: Work, count: int) -> int:
    """Return how many samples to ask for: those that do not count take places of those that do."""
    excluded = work.query.excluded
    taken = int((excluded[:, :, 1] - excluded[:, :, 0]).sum(1).amax()) if len(work.query) else 0
    return min(count + taken, len(work.span))


def _shortlist(work: Work, row: Int64[Tensor, "B k"], log_omitted: Float64[Tensor, "B"]) -> Shortlist:
    """Return the shortlist of the rows that a search named."""
    excluded = work.query.excluded
    inside = (row[:, :, None] >= excluded[:, None, :, 0]) & (row[:, :, None] < excluded[:, None, :, 1])
    real = (row >= 0) & ~inside.any(2)
    query = torch.arange(len(row), device=row.device)[:, None].expand_as(row)[real]
    pairs = Pairs(query, row[real], torch.zeros_like(query, dtype=torch.float64))
    state = pairs_state(work.rows, work.query, pairs, work.wanted)
    return Shortlist(state, log_omitted, real.sum(1), torch.ones_like(real[:, 0]))


def _tensors(
    found: tuple[Any, Any], device: torch.device | None = None
) -> tuple[Float[Tensor, "B k"], Int64[Tensor, "B k"]]:
    values, place = found
    return torch.from_numpy(values).to(device), torch.from_numpy(place).to(device)


def _faiss() -> Any:
    """Import FAISS. Raises MissingDependencyError without it."""
    try:
        import faiss
    except ImportError:
        raise missing("faiss-cpu", "a FAISS index", "faiss") from None
    return faiss
