"""The posterior in float64 by direct difference, straight from the formula: the truth every other route answers to."""

from __future__ import annotations

import torch

from ..base.arrays import Float64, Tensor
from .common.rows import Query, Rows, Span
from .common.state import PosteriorState, Wanted
from .common.work import Work


def reference_logits(rows: Rows, query: Query, span: Span) -> Float64[Tensor, "B n"]:
    """Return log w_j - |q - alpha r_j|^2 inverse_variance / 2 for the rows of `span`, -inf inside excluded ranges.

    float64 throughout; differentiable in the query. Costs B n D operations and n D values of memory.
    """
    index = torch.arange(span.start, span.stop, device=rows.device)
    samples = rows.gather(index) - rows.centre
    pairs = zip(query.point, query.alpha, strict=True)
    squares = torch.stack([(point - alpha * samples).square().sum(1) for point, alpha in pairs])
    logits = -0.5 * query.inverse_variance[:, None] * squares
    if rows.log_weights is not None:
        logits = logits + rows.log_weights[index]
    inside = (index >= query.excluded[..., :1]) & (index < query.excluded[..., 1:])
    return logits.masked_fill(inside.any(1), -torch.inf)


def reference_state(work: Work) -> PosteriorState:
    """Return the state of the span for every query; the same meaning as every other implementation, without blocks."""
    rows, span = work.rows, work.span
    if len(work.query) == 0:
        return work.nothing()
    logits = reference_logits(rows, work.query, span)
    samples = rows.gather(torch.arange(span.start, span.stop, device=rows.device)) - rows.centre
    return state_from_logits(logits, samples, span, work.wanted)


def reference_memory(rows: Rows, batch: int) -> int:
    """Return the bytes that the reference needs beyond the data for `batch` queries over all `rows`.

    It holds all samples in float64, twice over, and all logits.
    """
    return 8 * len(rows) * (3 * rows.dim + 4 * batch)


def state_from_logits(
    logits: Float64[Tensor, "B n"], samples: Float64[Tensor, "n D"], span: Span, wanted: Wanted
) -> PosteriorState:
    """Return the state whose weights are softmax(logits) over `samples`, the rows of `span`; what of it is `wanted`."""
    weights = logits.softmax(1).nan_to_num(0.0)  # a query without a single sample has no weights
    mean = weights @ samples
    spread = (samples.square().sum(1)[None] - 2 * mean @ samples.T + mean.square().sum(1)[:, None]).clamp_min(0)
    top = logits.topk(min(wanted.top_k, len(span)), dim=1)
    missing = wanted.top_k - top.values.shape[1]
    return PosteriorState(
        lse=logits.logsumexp(1),
        mean=mean,
        concentration=weights.square().sum(1),
        entropy=-torch.xlogy(weights, weights).sum(1),
        variance=(weights * spread).sum(1),
        top_logits=torch.nn.functional.pad(top.values, (0, missing), value=-torch.inf),
        top_rows=torch.nn.functional.pad(
            (top.indices + span.start).masked_fill(top.values == -torch.inf, -1), (0, missing), value=-1
        ),
        lse_rest=torch.zeros_like(mean[:, 0]),
        top_rest=logits.new_zeros(len(logits), wanted.top_k),
    )
