"""Triton: one step of a softmax with a moving origin, for queries of any number."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def softmax_step(top, mass, squares, first_logit, b_logits):
    """Return the weights of some rows, what earlier sums are multiplied by, and the sums with these rows.

    b_logits: [rows], or [rows, queries], -inf for what does not count. The sums, of all rows so far, are numbers or
    [queries]: `top`, the largest logit l, and `mass`, `squares` and `first_logit`, of w, w^2 and w (l - top) with
    w = exp(l - top). Weights are relative to the new top, the first of the sums that are returned.
    """
    raised = tl.maximum(top, tl.max(b_logits, axis=0))
    origin = tl.where(raised == float("-inf"), 0.0, raised)
    step = tl.where(mass > 0.0, top - origin, 0.0)
    factor = tl.exp(step)
    b_gap = tl.where(b_logits > float("-inf"), b_logits - origin, 0.0)
    b_weights = tl.where(b_logits > float("-inf"), tl.exp(b_gap), 0.0)
    first_logit = factor * (first_logit + step * mass) + tl.sum(b_weights * b_gap, axis=0)
    squares = factor * factor * squares + tl.sum(b_weights * b_weights, axis=0)
    return b_weights, factor, raised, factor * mass + tl.sum(b_weights, axis=0), squares, first_logit


@triton.jit
@no_type_check
def joining(added, kept):
    """Return what `spread_step` takes of the weights of some rows and of earlier ones.

    One over each, zero weights aside, and their product over their sum.
    """
    both = added + kept
    own, before = 1.0 / tl.where(added > 0.0, added, 1.0), 1.0 / tl.where(kept > 0.0, kept, 1.0)
    return own, before, added * kept / tl.where(both > 0.0, both, 1.0)


@triton.jit
@no_type_check
def spread_step(b_values, b_weights, b_sum, b_kept, joined):
    """Return what some rows add to a weighted sum of squares about the mean, for values of any number.

    b_values, b_weights: [rows, values], or one of both for all. b_sum: the sums of weights times values, and b_kept:
    those of earlier rows, relative to the same top. joined: of their weights, see `joining`. What is returned is the
    sum of squares of the rows about their own mean, and that of both means about their common one.
    """
    own, before, both = joined
    b_own = b_sum * own
    b_gap, b_step = b_values - b_own[None, :], b_own - b_kept * before
    return tl.sum(b_weights * b_gap * b_gap, axis=0) + both * b_step * b_step
