"""How far an estimate may be off by rows that were not drawn because a screen gives them too little weight.

A row of logit l in the screen has the logit l + tau g, g about Gaussian: the product of what both query and row have
beyond the leading coordinates is |y| |e| times a cosine, and how large cosines are the rows weighed exactly tell. A
row that is not drawn and holds the share s of the posterior moves the mean by s times its distance. What the screen
foresees of E[s^2], the spread of the draws tells; the rest they cannot know.
"""

from __future__ import annotations

import math

import torch

from ....base.arrays import Float64, Tensor
from ...common.state import PosteriorState
from .proposal import Rest
from .shortlist import query_term

# rows this many deviations and this many nats below the whole posterior hold nothing that shows
DEVIATIONS, LIGHT = 5.0, 5.0

# leading coordinates that tell how far rows are from a mean
COORDINATES = 64


def unseen_error(rest: Rest, state: PosteriorState, draws: int) -> Float64[Tensor, "b"]:
    """Return how far the mean of `state` may be off by rows of `rest` that were not drawn, root mean square, [b].

    rest: the rows that are not weighed exactly. state: the estimate, whose mean is in row units. draws: from the rest.
    """
    work, size = rest.work, state.mean.square().sum(1)
    partition = (state.lse - query_term(work.query)).float()
    below, deviation = rest.logits - partition[:, None], torch.outer(rest.spread.float(), rest.residual)
    some = below > -(DEVIATIONS * deviation + LIGHT)
    which, place = some.nonzero().unbind(1)
    missed = (1.0 - draws * rest.shares[some].double()).clamp_min(0.0)
    missed = missed * unforeseen_square(below[some].double(), deviation[some].double())
    few = rest.leading[:, :COORDINATES]
    products = ((state.mean @ rest.basis[:, :COORDINATES]).float() @ few.T)[some].double()
    distance = 2.0 * (work.rows.half_norms[work.span.start + place] - products) + size[which]
    zeros = torch.zeros_like(size)
    total = zeros.index_add(0, which, missed)
    square: Tensor = zeros.index_add(0, which, missed * distance.clamp_min(0.0)) / total.clamp_min(1.0)
    return square.sqrt()


def unforeseen_square(below: Float64[Tensor, "P"], deviation: Float64[Tensor, "P"]) -> Float64[Tensor, "P"]:
    """Return E[min(1, e^(a + tau g))^2] - min(1, e^a)^2 with g Gaussian, [P].

    below: a, [P]. deviation: tau, [P], at least 0.
    """
    deviation = deviation.clamp_min(1e-9)
    scaled = below / deviation
    far = scaled + 2.0 * deviation
    # e^(2 a + 2 tau^2) Phi(-far), which neither overflows nor cancels
    near = 0.5 * torch.special.erfcx(far.clamp_min(0.0) / math.sqrt(2.0)) * (-0.5 * scaled.square()).exp()
    light = (2.0 * below + 2.0 * deviation.square()).clamp_max(0.0).exp() * torch.special.ndtr(-far)
    square = torch.special.ndtr(scaled) + torch.where(far > 0.0, near, light)
    return torch.sub(square, (2.0 * below.clamp_max(0.0)).exp()).clamp_min(0.0)
