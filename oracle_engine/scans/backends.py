"""The implementations that a scan can run on: what computes a state, and what memory it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..base.arrays import Float, Float64, Tensor
from ..base.calls.changes import Probes
from ..base.errors import invalid
from ..base.machine.settings import Settings
from ..kernels import (
    Combination,
    Described,
    Description,
    NativeAnswers,
    PosteriorState,
    Rows,
    ValueSpace,
    combined,
    covariance_product,
    described,
    gpu_combined,
    gpu_described,
    gpu_memory,
    gpu_merged,
    gpu_proven,
    gpu_ready,
    gpu_segments,
    gpu_state,
    merged_means,
    native_combined,
    native_library,
    native_memory,
    native_state,
    posterior_state,
    reference_covariance_product,
    reference_memory,
    reference_state,
    scan_memory,
    segments_state,
    span_by_span,
)
from .blocks import CovarianceProduct, ScanState, SegmentState
from .scanner import Scanner

# what computes an answer from a posterior mean, in a dtype
Combine = Callable[[Combination, Float64[Tensor, "B D"], torch.dtype], Float[Tensor, "B D"]]

# what says of posteriors what users read, beside their means
Describe = Callable[[Description], Described]

# what makes one state of those over two parts of the rows: means and log-partitions
Merge = Callable[[PosteriorState, PosteriorState], PosteriorState]

# what answers queries of all rows, without a look at states, or None where it cannot read the rows
Answers = Callable[[Rows, ValueSpace, Probes | None], NativeAnswers | None]


@dataclass(frozen=True)
class Backend:
    """What computes states in full precision, what memory that needs for a batch, and what computes them in half.

    segments: computes states over several spans at once in full precision, or None where one is scanned after the
    other. product: multiplies changes of logits with rows. combine: computes answers from posterior means. describe:
    says what users read of posteriors. merge: makes one mean of those over two parts of the rows. answers: answers
    queries that ask for nothing but x and t, or None. ready: makes what scans of some rows read beside them, so that no
    graph has to hold it. waits_once: whether a scan reads no value on the host, and does no harm for queries that are
    refused later.
    """

    state: ScanState
    memory: Callable[[Rows, int], int]
    half: ScanState | None = None
    segments: SegmentState | None = None
    product: CovarianceProduct = covariance_product
    combine: Combine = combined
    describe: Describe = described
    merge: Merge = merged_means
    answers: Answers | None = None
    ready: Callable[[Rows], None] = lambda rows: None
    waits_once: bool = False

    def scanner(self, precision: str) -> Scanner:
        """Return what scans rows in `precision`, wherever they are."""
        state, segments = self.state, self.segments
        if precision == "half" and self.half is not None:
            state, segments = self.half, None
        return Scanner(state, segments or partial(span_by_span, state=state), self.product)


BACKENDS = {
    "native": Backend(
        native_state, native_memory, segments=segments_state, combine=native_combined, answers=NativeAnswers.of
    ),
    "torch": Backend(posterior_state, scan_memory),
    "reference": Backend(reference_state, reference_memory, product=reference_covariance_product),
    "triton": Backend(
        gpu_state,
        gpu_memory,
        partial(gpu_state, half=True),
        gpu_segments,
        combine=gpu_combined,
        describe=gpu_described,
        merge=gpu_merged,
        ready=gpu_ready,
        waits_once=True,
    ),
}


def resolve_precision(precision: str, backend: str) -> str:
    """Return `precision` where the backend has it. Raises InputError."""
    if precision not in ("full", "half"):
        raise invalid("precision", "must be full or half", repr(precision), "use 'full'")
    if precision == "half" and BACKENDS[backend].half is None:
        remedy = "pass backend='triton', or precision='full'"
        raise invalid("precision", "can be half with the Triton kernels only", f"backend {backend!r}", remedy)
    return precision


def resolve_backend(backend: str, rows: Rows) -> tuple[str, str]:
    """Return the backend that `backend` stands for over `rows`, and why it is that one. Raises InputError."""
    chosen, source = backend, "asked for"
    if backend == "auto":
        chosen, source = Settings.read().backend, "set by ORACLE_BACKEND"
    if chosen == "auto":
        return _best(rows)
    if chosen not in BACKENDS:
        raise invalid("backend", f"must be auto, {', '.join(BACKENDS)}", repr(chosen), "use 'auto'")
    if chosen == "native" and _best(rows)[0] != "native":
        raise invalid("backend", "can be native where these kernels run", _best(rows)[1], "use 'auto'")
    return chosen, f"backend {chosen} was {source}"


def _best(rows: Rows) -> tuple[str, str]:
    """Return the backend that scans these rows fastest, and why it is taken."""
    if gpu_proven(rows, "scans"):
        return "triton", "the tests of the Triton kernels have passed on a GPU of this architecture"
    if rows.device.type != "cpu":
        return "torch", "the torch backend runs on every device"
    found = native_library()
    if found.library is None:
        return "torch", f"the torch backend runs on every device; {found.reason}"
    return "native", found.reason
