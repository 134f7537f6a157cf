"""The Triton implementation, for CUDA and ROCm. Triton itself is imported by the first call, never before."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...base.machine.settings import Settings
from ..common.combine import Combination
from ..common.describe import Described, Description
from ..common.rescore import Pairs
from ..common.rows import Query, Rows
from ..common.search import Mass, Projection, Searched, SearchLevel
from ..common.segments import SegmentWork
from ..common.state import PosteriorState, Wanted
from ..common.work import Work
from .operands.splits import EXACT, HALF, KERNEL_DTYPES


def gpu_state(work: Work, *, half: bool = False) -> PosteriorState:
    """Return the state of the span for every query, see :func:`.scans.scan.triton_state`.

    work: rows, queries [B], span and what is wanted. half: whether half of the matrix products are left out, which
    gives velocities to about 1e-3.

    Raises InputError where the kernels cannot run.
    """
    from .scans.scan import triton_state

    return triton_state(work, HALF if half else EXACT)


def gpu_segments(work: SegmentWork) -> PosteriorState:
    """Return the states over several spans for each query, see :func:`.scans.segments.segments_state`.

    work: rows, queries [B], pairs of a query and a span, and what is wanted.

    Raises InputError where the kernels cannot run.
    """
    from .scans.segments import segments_state

    return segments_state(work)


def gpu_pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of named samples of each query, see :func:`.states.pairs.triton_pairs_state`.

    rows, query: the samples and B queries. pairs: of a query and a row. wanted: of the states.
    """
    from .states.pairs import triton_pairs_state

    return triton_pairs_state(rows, query, pairs, wanted)


def gpu_combined(combination: Combination, mean: Float64[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
    """Return the answer of `combination` for posterior means, as `combined` does, in one launch.

    combination: of [B] queries. mean: [B, D] float64. dtype: of the answer.
    """
    from .states.combine import combined_answer

    return combined_answer(combination, mean, dtype)


def gpu_described(description: Description) -> Described:
    """Return the facts of the posteriors of `description`, as `described` does, in one launch.

    description: of at least one query.
    """
    from .states.describe import posterior_facts

    return posterior_facts(description)


def gpu_merged(first: PosteriorState, second: PosteriorState) -> PosteriorState:
    """Return the means over two disjoint subsets of the samples as those over both, as `merge` does, in one launch.

    first, second: the states of the same B queries, at least one, over either.
    """
    from .states.merge import merged_means

    return merged_means(first, second)


def gpu_projected(
    query: Query, basis: Float[Tensor, "D M"] | None, shared: Float64[Tensor, "B D"] | None
) -> Projection:
    """Return queries in the coordinates of a screen, see :func:`.late.projection.projected`.

    query: the batch. basis: directions, float32, or None for values. shared: points whose products with all rows are
    known, or None.
    """
    from .late.projection import projected

    return projected(query, basis, shared)


def gpu_entries(
    query: Query,
    source: Int64[Tensor, "B"] | None,
    knowledge: int,
    least: Float64[Tensor, "K L"],
    costs: Float64[Tensor, "C"],
    *,
    rows: int,
) -> Shaped[Tensor, "B"]:
    """Return the level of a screen that each query enters at, [B] int32, see :func:`.late.entries.card_entries`.

    query, source, knowledge: the batch, and what is known of it. least, costs: of the screen. rows: how many.
    """
    from .late.entries import card_entries

    return card_entries(query, source, knowledge, least, costs, rows=rows)


def gpu_searched(
    work: Work, levels: Sequence[SearchLevel], mass: Mass, entry: Shaped[Tensor, "B"] | None = None
) -> Searched:
    """Return what a search through the levels of a screen finds, see :func:`.late.search.card_searched`.

    work: the queries, the rows and their span. levels: the cheapest first. mass: that may be left out of each query.
    entry: the level that each enters at, [B], or None for the first.
    """
    from .late.search import card_searched

    return card_searched(work, levels, mass, entry)


# what kernels do: scans, or late answers, whose screens and rescoring have kernels of their own
KernelTask = Literal["scans", "late"]

# compute capabilities of GPUs on which the tests of the kernels of a task have passed
PROVEN: dict[KernelTask, tuple[tuple[int, int], ...]] = {"scans": ((9, 0),), "late": ()}


def gpu_proven(rows: Rows, task: KernelTask) -> bool:
    """Return whether the kernels of a task read `rows` as they are, on a GPU that :func:`proven_card` accepts."""
    stored = rows.stored
    readable = stored.dtype in KERNEL_DTYPES and rows.dim > 0 and (rows.dim == 1 or stored.stride(1) == 1)
    return readable and proven_card(stored.device, task)


def proven_card(device: torch.device, task: KernelTask) -> bool:
    """Return whether `device` is a GPU on which the kernels of a task were tested, and Triton is there.

    ORACLE_BACKEND=triton asks for the kernels of late answers wherever those of scans were tested.
    """
    if device.type != "cuda" or torch.version.hip or find_spec("triton") is None:
        return False
    asked = Settings.read().backend == "triton"
    return torch.cuda.get_device_capability(device) in PROVEN["scans" if asked else task]


def gpu_ready(rows: Rows) -> None:
    """Make what the kernels read beside `rows` on a GPU, in a dtype that they read; nothing for others."""
    if rows.stored.is_cuda:
        from .operands.rows import keep_ready

        if rows.stored.dtype in KERNEL_DTYPES:
            keep_ready(rows)


def gpu_memory(rows: Rows, batch: int) -> int:
    """Return the most bytes that the posterior means of `batch` queries need beyond the data in `rows`."""
    from .scans.memory import triton_memory

    return triton_memory(rows, batch)
