"""Queries so far from all samples that not even twice the digits of float64 may tell which one is the nearest.

Velocities hardly depend on that, posteriors and their means do.
"""

from __future__ import annotations

from ..base.arrays import Bool, Float64, Tensor
from ..base.calls.checked import above, check
from ..base.errors import InputError, invalid
from ..data.dataset import OracleDataset
from ..kernels import COMPENSATED_WINDOW, FARTHEST, Wanted, difference_error
from ..queries.request import Request
from ..scans.exact import ExactScan, WholeScan

# a rounding of twice the digits, relative to one of float64
TWICE = 2.0**-53


def check_told_apart(request: Request, data: OracleDataset, lse: Float64[Tensor, "B"], exact: WholeScan) -> None:
    """Check that it is known which samples the posteriors of queries are made of.

    request, data: the queries and the samples. lse: log-partitions, [B]. exact: the scan of all samples, which looks
    again; those of several processes are asked together or not at all, so that there no second look is taken.
    Raises InputError for queries so far away that the nearest samples differ by less than twice the digits of float64
    hold. Costs one comparison where no query is as far as that.
    """
    check(lambda: above(lse, FARTHEST), lambda: _refusal(request, data, lse, exact))


def _refusal(request: Request, data: OracleDataset, lse: Float64[Tensor, "B"], exact: WholeScan) -> InputError | None:
    far = (lse <= FARTHEST).nonzero()[:, 0]
    if isinstance(exact, ExactScan) and len(far):
        far = far[~_told_apart(request.take(far), data, exact)]
    if len(far) == 0:
        return None
    distance = (-2.0 * lse[far[0]]).sqrt().item()
    found = f"{distance:.3g} sigma from all of them in query {int(far[0])}"
    requirement = "must be near enough to the samples for their distances to differ"
    return invalid("x", requirement, found, "rescale x, or ask for a velocity, a score or noise")


def _told_apart(request: Request, data: OracleDataset, exact: ExactScan) -> Bool[Tensor, "B"]:
    """Return for which queries the heaviest sample is above all others by more than rounding, [B]."""
    state = exact.part(request, Wanted(mean=False, top_k=2))
    gap = (state.top_logits[:, 0] - state.top_logits[:, 1]) + (state.top_rest[:, 0] - state.top_rest[:, 1])
    error = TWICE * difference_error(data.rows, request.query(data), state.top_logits[:, 0])
    told: Tensor = gap > COMPENSATED_WINDOW + 2.0 * error
    return told
