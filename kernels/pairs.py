"""Named samples of each query, rescored by the kernels of the device that their rows are on."""

from __future__ import annotations

from .common.rescore import Pairs
from .common.rows import Query, Rows
from .common.state import PosteriorState, Wanted
from .gpu import gpu_pairs_state, gpu_proven
from .native.pairs import native_pairs_state


def pairs_state(rows: Rows, query: Query, pairs: Pairs, wanted: Wanted) -> PosteriorState:
    """Return the states of the samples that `pairs` names, [B], each scored by direct difference in float64.

    rows, query: the samples and B queries. wanted: of the states. Logits are in twice the digits where the gaps
    between them ask for it. Costs one read of P rows, a second of those with weight for the mean.
    """
    if gpu_proven(rows, "late"):
        return gpu_pairs_state(rows, query, pairs, wanted)
    return native_pairs_state(rows, query, pairs, wanted)
