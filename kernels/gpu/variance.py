"""Triton: the trace of the posterior covariance, from the sums of a scan and the spread of what was rescored."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ...base.arrays import Float64, Tensor

# values of D that a program looks at together
VARIANCE_BLOCK = 1024


@triton.jit(do_not_specialize=["batch", "shares"])
@no_type_check
def variance_kernel(
    p_total, p_centre, p_mean, p_stats, p_spread, p_variance, batch, shares, dim,
    CENTRED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Share of what was added times its variance about the mean of all, and the spread of what was rescored.

    p_total: [B, D], of weights times rows. p_centre: [D], what is left in it. p_mean: [B, D]. p_stats: [8, B], as the
    state kernel leaves them. p_spread: [shares, B]. p_variance: [B].
    """
    i_b = tl.program_id(0).to(tl.int64)
    p_stat = p_stats + 3 * batch + i_b
    share, square, inverse = tl.load(p_stat), tl.load(p_stat + batch), 1.0 / tl.load(p_stat + 2 * batch)
    # [BLOCK]; a total is not written where nothing was added
    b_own = tl.zeros([BLOCK], dtype=tl.float64)
    b_gap = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        b_mean = tl.load(p_total + i_b * dim + o_d, mask=o_d < dim, other=0.0) * inverse
        if CENTRED:
            b_mean -= tl.load(p_centre + o_d, mask=o_d < dim, other=0.0)
        b_own += b_mean * b_mean
        b_far = b_mean - tl.load(p_mean + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        b_gap += b_far * b_far
    own = tl.maximum(square - tl.sum(b_own, axis=0), 0.0) + tl.sum(b_gap, axis=0)
    total = tl.where(share > 0.0, share * own, 0.0)
    for i_share in range(shares):
        total += tl.load(p_spread + i_share * batch + i_b)
    tl.store(p_variance + i_b, total)


def variance_of(
    stats: Float64[Tensor, "8 B"],
    total: Float64[Tensor, "B D"],
    centre: Float64[Tensor, "C"],
    mean: Float64[Tensor, "B D"],
    spread: Float64[Tensor, "S B"],
    *,
    centred: bool,
) -> None:
    """Write the traces of the posterior covariances, [B], in one launch.

    stats: [8, B], of which those from the fourth on are the share of what was added, its mean of |r|^2, and the sum of
    its weights. total: of weights times rows, [B, D]; `centre` is left in it where it is `centred`. mean: of the state,
    [B, D]. spread: of what was rescored, about that mean, [S, B]. The traces replace the last of the `stats`.
    Costs one read of both means.
    """
    batch, dim = mean.shape
    variance_kernel[(batch,)](
        total, centre, mean, stats, spread, stats[7], batch, len(spread), dim, CENTRED=centred, BLOCK=VARIANCE_BLOCK,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
