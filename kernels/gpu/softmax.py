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
