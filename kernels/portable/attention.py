"""The early regime on CPU: every sample carries weight and nothing needs rescoring, which is plain attention.

torch's fused CPU attention reads the rows once, but splits its work over heads and queries only. The rows of a
block are shown to it as heads of a few rows each, a view, so that few queries use every core; the heads are
partial results and merge by their log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch

from ...base.arrays import Bool, Float, Float64, Tensor
from ..common.rows import Query, Rows, Span
from ..common.state import PosteriorState
from ..common.work import Work

# up to here the operator is faster than two matrix products, which gain more from every further query; measured on two
# cores: 0.8 to 0.95 of their time for 16 and 32 queries, equal for 64, 1.1 to 1.3 for 96
MOST_QUERIES = 48

# queries the operator gives to one thread at a time
QUERY_TILE = 32

# measured on drawings and photographs: most rows still carry weight at this many times the isotropic transition
NAVIGATION = 2.5

# operand bytes of one call: rows that must be converted go through a buffer whose first touch costs as much as a
# query of one point, so that it grows with the batch
CALL_BYTES, CONVERTED_BYTES, BYTES_PER_QUERY = 48 << 20, 6 << 20, 1 << 19


def attention_applies(work: Work) -> bool:
    """Return whether fused attention can answer `work`: means of few queries on CPU, no row excluded."""
    rows, query, wanted = work.rows, work.query, work.wanted
    plain = len(query) <= MOST_QUERIES and wanted.mean and not wanted.moments and wanted.top_k == 0
    if rows.device.type != "cpu" or not plain or not has_operator():
        return False
    everyone_counts = rows.log_weights is None or bool(rows.log_weights.isfinite().all())
    return everyone_counts and not bool((query.excluded[..., 1] > query.excluded[..., 0]).any())


@cache
def has_operator() -> bool:
    """Whether torch has the operator behind its CPU attention, with the result this module reads.

    It is called by name because scaled_dot_product_attention does not return the log-sum-exp.
    """
    operator = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if operator is None:
        return False
    probe = torch.zeros(1, 3, 2, 8)
    lse = operator(probe, probe, probe, 0.0, False, attn_mask=torch.zeros(1, 3, 2, 2), scale=1.0)[1]
    return bool(lse.shape == (1, 3, 2) and (lse - math.log(2.0)).abs().max() < 1e-5)


def navigating(work: Work) -> Bool[Tensor, "B"]:
    """Return whether a large part of the samples shares the posterior of a query, [B].

    For isotropic data of variance v per dimension x_t tells samples apart once D/2 log(1 + alpha^2 v / sigma^2)
    exceeds ln n; real data, of fewer effective dimensions, do so later by about the factor NAVIGATION.
    """
    rows, query = work.rows, work.query
    variance = 2.0 * rows.half_norms.mean() / rows.dim
    information = 0.5 * rows.dim * (query.gain * query.alpha * variance).log1p()
    return information < NAVIGATION * math.log(len(work.span))


def attention_state(work: Work, call_bytes: int = CALL_BYTES) -> PosteriorState:
    """Return lse and mean over the span of `work`; meant for queries whose coarse logits need no rescoring.

    call_bytes: operand bytes of one call of the operator.

    Costs one read of the rows and 4 B n D operations in float32; memory is one block of rows and its bias.
    """
    rows, query, span = work.rows, work.query, work.span
    view = rows.raw_operand and rows.stored.dtype == torch.float32
    size = min(len(span), _call_rows(work, view, call_bytes))
    operand = torch.empty(0 if view else size, rows.dim)
    scaled = (query.gain[:, None] * query.point).float()
    lse = torch.full_like(query.alpha, -torch.inf)
    mean = torch.zeros_like(query.point)
    for start in range(span.start, span.stop, size):
        part = Span(start, min(start + size, span.stop))
        block, bias = rows.block(part.start, part.stop, operand), _bias(rows, query, part)
        for own, sums in _calls(scaled, block, bias):
            total = torch.logaddexp(lse, own)
            mean.mul_((lse - total).exp()[:, None]).addcmul_(sums.double(), (own - total).exp()[:, None])
            lse = total
    constant = 0.5 * query.inverse_variance * query.norm.square() + query.gain * (query.point @ rows.operand_centre)
    state = PosteriorState.empty(len(query), rows.dim, 0, rows.device)
    return replace(state, lse=lse - constant, mean=mean.sub_(rows.operand_centre))


def _call_rows(work: Work, view: bool, call_bytes: int) -> int:
    limit = call_bytes if view else min(call_bytes, CONVERTED_BYTES + len(work.query) * BYTES_PER_QUERY)
    return max(64, limit // (4 * work.rows.dim))


def _calls(
    scaled: Float[Tensor, "B D"], block: Float[Tensor, "n D"], bias: Float[Tensor, "B n"]
) -> Iterator[tuple[Float64[Tensor, "B"], Float[Tensor, "B D"]]]:
    # what does not divide into heads is a call of its own with a single one
    tiles = -(-len(scaled) // QUERY_TILE)
    # a single tile is cut finer than the cores ask for: shorter sums round less, at no cost
    heads = 4 * torch.get_num_threads() if tiles == 1 else -(-torch.get_num_threads() // tiles)
    whole = len(block) // heads * heads
    if whole:
        yield _attend(scaled, block[:whole], bias[:, :whole], heads)
    if whole < len(block):
        yield _attend(scaled, block[whole:], bias[:, whole:], 1)


def _bias(rows: Rows, query: Query, span: Span) -> Float[Tensor, "B n"]:
    half_norms = rows.half_norms[span.start : span.stop].float()
    factor = (-query.gain * query.alpha).float()
    if bool((factor == factor[0]).all()):
        bias = (factor[0] * half_norms).expand(len(factor), -1)  # one time for all: one row for all
    else:
        bias = torch.outer(factor, half_norms)
    return bias if rows.log_weights is None else bias + rows.log_weights[span.start : span.stop].float()


def _attend(
    scaled: Float[Tensor, "B D"], block: Float[Tensor, "n D"], bias: Float[Tensor, "B n"], heads: int
) -> tuple[Float64[Tensor, "B"], Float[Tensor, "B D"]]:
    batch, dim = scaled.shape
    key = block.view(1, heads, -1, dim)
    mask = bias.reshape(batch, heads, -1).transpose(0, 1)[None]
    means, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        scaled.expand(1, heads, batch, dim), key, key, 0.0, False, attn_mask=mask, scale=1.0
    )
    if heads == 1:
        return lse[0, 0].double(), means[0, 0]
    logs = lse[0].T.double()
    total = logs.logsumexp(1)
    shares = (logs - total[:, None]).exp().float()
    return total, torch.bmm(shares[:, None], means[0].transpose(0, 1))[:, 0]
