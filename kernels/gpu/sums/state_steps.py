"""Triton: the steps from running sums and what was rescored to a posterior: its log-partition, shares and mean."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..jit.compensated import twice_sum
from ..jit.masks import where_positive
from .running_sums import added_partials

# shares of rescored samples and values of D that a program looks at together
SHARE_BLOCK, STATE_BLOCK = 32, 1024


@triton.jit
@no_type_check
def rescored_sums(p_sums, i_b, used_shares, shares, batch, BLOCK: tl.constexpr):
    """Return the largest logit of the rescored samples of a query, and their sums, of `used_shares` shares."""
    top = tl.cast(float("-inf"), tl.float64)
    for start in range(0, used_shares, BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.max(tl.load(p_sums + o_s * batch + i_b, mask=o_s < used_shares, other=float("-inf"))))
    origin = tl.where(top == float("-inf"), 0.0, top)
    stride = shares.to(tl.int64) * batch
    mass = tl.cast(0.0, tl.float64)
    squares = tl.cast(0.0, tl.float64)
    first_logit = tl.cast(0.0, tl.float64)
    for start in range(0, used_shares, BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        m_s = o_s < used_shares
        p_share = p_sums + o_s * batch + i_b
        b_mass = tl.load(p_share + stride, mask=m_s, other=0.0)
        b_step = tl.where(b_mass > 0.0, tl.load(p_share, mask=m_s, other=0.0) - origin, 0.0)
        b_factor = tl.exp(b_step)
        mass += tl.sum(b_factor * b_mass)
        squares += tl.sum(b_factor * b_factor * tl.load(p_share + 2 * stride, mask=m_s, other=0.0))
        first_logit += tl.sum(b_factor * (tl.load(p_share + 3 * stride, mask=m_s, other=0.0) + b_step * b_mass))
    return origin, mass, squares, first_logit


@triton.jit
@no_type_check
def log_mass(origin, mass):
    """Return origin + log(mass), -inf where there is no mass."""
    return tl.where(mass > 0.0, origin + tl.log(tl.where(mass > 0.0, mass, 1.0)), float("-inf"))


@triton.jit
@no_type_check
def added_sums(
    p_scalars, p_partials, p_facts, p_alpha, p_precision, i_b, parts, batch, count, PARTS: tl.constexpr
):  # fmt: skip
    """Return what was added for a query: log-partition, whether there is anything, and the sums, its mass not zero.

    Nothing was where the `count` of the query says that its list overflowed.
    """
    o_b = i_b + tl.arange(0, 1)
    one = where_positive(o_b >= 0, count + 1)
    sums = added_partials(p_scalars + o_b, p_partials + o_b, parts, batch, one, PARTS)
    mass, squares, first_logit, half_norm = tl.sum(sums[0]), tl.sum(sums[1]), tl.sum(sums[2]), tl.sum(sums[3])
    some = mass > 0.0
    mass = tl.where(some, mass, 1.0)
    precision = tl.load(p_precision + i_b)
    dropped = 0.5 * precision * tl.load(p_facts + i_b)
    dropped += tl.load(p_alpha + i_b) * precision * tl.load(p_facts + 2 * batch + i_b)
    lse = tl.where(some, tl.load(p_scalars + batch + i_b) + tl.log(mass) - dropped, float("-inf"))
    return lse, some, mass, squares, first_logit, half_norm


@triton.jit
@no_type_check
def shares_of_mass(coarse, fine, base):
    """Return the shares of two masses, the log of their sum, -inf without any, and what float64 cut off that log.

    coarse, fine: logs of the masses less `base`; their difference alone makes the shares, however large they are.
    """
    top = tl.maximum(coarse, fine)
    origin = tl.where(top == float("-inf"), 0.0, top)
    own = tl.exp(coarse - origin)
    other = tl.exp(fine - origin)
    both = own + other
    some = both > 0.0
    lse, rest = twice_sum(base, tl.where(some, origin + tl.log(tl.where(some, both, 1.0)), 0.0))
    both = tl.where(some, both, 1.0)
    return own / both, other / both, tl.where(some, lse, float("-inf")), tl.where(some, rest, 0.0)


@triton.jit
@no_type_check
def rescored_spread(p_sums, i_b, used_shares, shares, batch, origin, BLOCK: tl.constexpr):
    """Return the weighted squares of the rescored samples of a query about the means of their shares."""
    spread = tl.cast(0.0, tl.float64)
    stride = shares.to(tl.int64) * batch
    for start in range(0, used_shares, BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        m_s = o_s < used_shares
        p_share = p_sums + o_s * batch + i_b
        m_s = m_s & (tl.load(p_share + stride, mask=m_s, other=0.0) > 0.0)
        b_factor = tl.exp(tl.load(p_share, mask=m_s, other=float("-inf")) - origin)
        spread += tl.sum(b_factor * tl.load(p_share + 4 * stride, mask=m_s, other=0.0))
    return spread


@triton.jit
@no_type_check
def added_slice(added, o_d, dim, CENTRED: tl.constexpr):
    """Return the values `o_d` of the mean of a query over what was added, [BLOCK_D]; see `mean_slice`."""
    p_total, p_centre, added_mass, own = added
    m_d = o_d < dim
    b_mean = tl.load(p_total + o_d, mask=where_positive(m_d, own), other=0.0) / added_mass
    if CENTRED:
        b_mean -= tl.load(p_centre + o_d, mask=m_d, other=0.0)
    return b_mean


@triton.jit
@no_type_check
def mean_slice(added, rescored, o_d, dim, batch, CENTRED: tl.constexpr):
    """Return the values `o_d` of the mean of a query over what was added and what was rescored, [BLOCK_D].

    added: the total of the query, [D], the centre that is left in it where it is CENTRED, its mass, not zero, and the
    share of what was added. rescored: the largest logits of the shares of the query, their sums of rows, the origin of
    these logits, the share of what was rescored, its mass, not zero, and how many shares there are.
    """
    p_sum, p_part, origin, other, mass, shares = rescored
    m_d, own = o_d < dim, added[3]
    b_mean = tl.where(own > 0.0, own * added_slice(added, o_d, dim, CENTRED), 0.0)
    p_part += o_d
    for _ in range(shares):
        weight = tl.exp(tl.load(p_sum) - origin) * other / mass
        b_part = tl.load(p_part, mask=where_positive(m_d, weight), other=0.0)
        b_mean += tl.where(weight > 0.0, weight * b_part, 0.0)
        p_sum += batch
        p_part += batch.to(tl.int64) * dim
    return b_mean


@triton.jit
@no_type_check
def far_slice(added, rescored, stride, b_mean, o_d, dim, batch, CENTRED: tl.constexpr):
    """Return, at the values `o_d`, the square of the mean of what was added, and how far means are from that of all.

    added, rescored: as in `mean_slice`, which gave b_mean. stride: between the sums of a share. The squares of the
    distances, [BLOCK_D], are weighted by the share of the posterior that each mean is of.
    """
    p_sum, p_part, origin, other, mass, shares = rescored
    m_d, own = o_d < dim, added[3]
    b_own = tl.where(m_d, added_slice(added, o_d, dim, CENTRED), 0.0)
    b_far = tl.where(own > 0.0, own * (b_own - b_mean) * (b_own - b_mean), 0.0)
    p_part += o_d
    for _ in range(shares):
        part = tl.load(p_sum + stride)
        some = tl.where(part > 0.0, part, 1.0)
        weight = tl.exp(tl.load(p_sum) - origin) * other / mass * part
        b_gap = tl.load(p_part, mask=where_positive(m_d, weight), other=0.0) / some - b_mean
        b_far += tl.where(weight > 0.0, weight * b_gap * b_gap, 0.0)
        p_sum += batch
        p_part += batch.to(tl.int64) * dim
    return b_own * b_own, tl.where(m_d, b_far, 0.0)
