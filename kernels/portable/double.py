"""The scan in float64: narrow rows, float64 rows, and queries for which too many samples would have to be rescored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from ...base.arrays import Bool, Float64, Int64, Tensor
from ..common.accumulate import dropped_constant
from ..common.rescore import Pairs, pairs_state
from ..common.rounding import (
    FINEST_MASS,
    POINT_LIMIT,
    UNIT_ROUNDOFF,
    difference_size,
    logit_error,
    loss_shows,
    point_error,
    weight_window,
)
from ..common.state import PosteriorState, merge, without_top
from ..common.top_k import TopCandidates
from ..common.work import Work
from .blocks import BLOCK_LIMITS, Block, BlockLimits, BlockLogits
from .rescore_collector import RescoreCollector

LOG2_E = 1.0 / math.log(2.0)

# rounding of a float64 product, in nats, from which on samples with weight are rescored: late, answers differ by some
# thousand times the error of a weight
DOUBLE_LIMIT = 1e-10


def double_state(work: Work, limits: BlockLimits = BLOCK_LIMITS) -> PosteriorState:
    """Return the states over the span of `work`, in float64 throughout.

    limits: sizes of blocks. Samples that matter to queries for which products in float64 are too coarse are rescored
    from differences. Costs one read of the span and 4 B n D operations, half of them only for the blocks and queries
    that carry weight, another read where rescoring meets many samples or where the error of a product shows; memory is
    a block of rows and its logits in float64.
    """
    error = logit_error(work.rows, work.query, torch.float64)
    # beside equal rows products are exact, but not the norm of a query that is far from them
    lost = point_error(work.rows, work.query) > POINT_LIMIT
    rescored = (error > DOUBLE_LIMIT) | lost | (work.rows.radius == 0.0)
    state = _double_state(work, limits, rescored)
    if not work.wanted.mean:
        return state
    shows = loss_shows(work.rows, work.query, state.mean, torch.ones_like(error), error, dtype=torch.float64)
    index = (shows & ~rescored & (state.lse > -torch.inf)).nonzero()[:, 0]
    if len(index) == 0:
        return state
    return state.put(index, _double_state(work.take(index), limits, torch.ones_like(index, dtype=torch.bool)))


def _double_state(work: Work, limits: BlockLimits, rescored: Bool[Tensor, "B"]) -> PosteriorState:
    """Return the states over the span; rescored: for which queries samples that matter are rescored, [B]."""
    rows, query = work.rows, work.query
    coarse = rescored.nonzero()[:, 0]
    # candidates for the top-k are those for rescoring as well
    named = max(work.wanted.top_k, 1 if len(coarse) else 0)
    scores, top = BlockLogits(work, torch.float64, limits), TopCandidates(len(query), named, rows.device)
    state: PosteriorState | None = None
    for block in scores.blocks():
        logits = scores.of(block)
        found = _Scored(block, logits, logits.amax(1))
        top.offer(logits, found.largest, block.span.start)
        state = _block_state(found, work) if state is None else _joined(state, found, work)
    if state is None:
        return work.nothing()
    if len(coarse):
        floor = _weight_floor(state, work)[coarse]
        candidates, last = top.pairs(coarse, floor), top.logits[coarse, -1]
        # where even the last of the candidates has weight, there are others
        more = ((last >= floor) & (last > -torch.inf)).nonzero()[:, 0]
        part = _rescored(work.take(coarse), candidates, floor, more, limits)
    state = replace(state, lse=state.lse - dropped_constant(rows, query))
    state = top.heaviest(state, rows, query, count=work.wanted.top_k)
    if len(coarse):
        # coarse candidates name those whose logits are below the floor
        both = merge(part, without_top(state.take(coarse), part.top_rows))
        tops = {name: getattr(both, name) for name in ("top_logits", "top_rows", "top_rest")}
        state = state.put(coarse, replace(part, **tops))
    return state


def _rescored(
    work: Work, pairs: Pairs, floor: Float64[Tensor, "b"], more: Int64[Tensor, "m"], limits: BlockLimits
) -> PosteriorState:
    """Return the states over all samples whose coarse logits reach `floor`: `pairs`, unless a query is in `more`."""
    state = pairs_state(work.rows, work.query, pairs, work.wanted)
    if len(more) == 0:
        return state
    rest = work.take(more)
    scores = BlockLogits(rest, torch.float64, limits)
    listed = RescoreCollector(len(more), len(work.rows), work.rows.device)
    for block in scores.blocks():
        logits = scores.of(block)
        which, column = (logits >= floor[more, None]).nonzero().unbind(1)
        listed.add(Pairs(which, column + block.span.start, logits[which, column]))
    return state.put(more, pairs_state(rest.rows, rest.query, listed.pairs(), work.wanted))


def _weight_floor(state: PosteriorState, work: Work) -> Float64[Tensor, "B"]:
    """Return below which coarse logits rows have no weight, from a state whose lse is still that of coarse logits."""
    rows, query = work.rows, work.query
    moved = UNIT_ROUNDOFF[torch.float64] * query.gain.abs() * rows.radius * difference_size(rows, query)
    error = logit_error(rows, query, torch.float64) + moved
    return state.lse - weight_window(len(work.span), error, FINEST_MASS)


class _Scored(NamedTuple):
    """A block with its coarse logits and the largest of them for each query."""

    block: Block
    logits: Float64[Tensor, "B n"]
    largest: Float64[Tensor, "B"]


def _joined(state: PosteriorState, found: _Scored, work: Work) -> PosteriorState:
    """Return the state with a block in it, for the queries for which the block carries weight."""
    index = (found.largest >= _weight_floor(state, work)).nonzero()[:, 0]
    if len(index) == len(state.lse):
        return merge(state, _block_state(found, work))
    if len(index) == 0:
        return state
    part = _block_state(_Scored(found.block, found.logits[index], found.largest[index]), work)
    return state.put(index, merge(state.take(index), part))


def _block_state(found: _Scored, work: Work) -> PosteriorState:
    """Return the state of a block, whose lse is still that of coarse logits; uses up its logits."""
    block, wanted = found.block, work.wanted
    # finite where a query has no sample in the block
    origin = found.largest.clamp_min(torch.finfo(torch.float64).min)
    # the exponential to base e of torch takes up to a hundred times as long where it underflows
    weights = found.logits.sub_(origin[:, None]).mul_(LOG2_E).exp2_()
    mass = weights.sum(1)
    share = 1.0 / mass.clamp_min(torch.finfo(torch.float64).tiny)
    changes = {"lse": origin + mass.log()}
    if wanted.mean:
        mean = (weights @ block.operand).mul_(share[:, None])
        changes["mean"] = torch.where((mass > 0)[:, None], mean - work.rows.operand_centre, 0.0)
    if wanted.moments:
        changes["concentration"] = torch.linalg.vecdot(weights, weights) * share * share
        entropy = mass.log() - torch.xlogy(weights, weights).sum(1) * share
        changes["entropy"] = torch.where(mass > 0, entropy, 0.0)
    if wanted.moments and wanted.mean:
        square = 2.0 * (weights @ block.half_norms) * share
        changes["variance"] = (square - changes["mean"].square().sum(1)).clamp_min(0.0)
    return replace(PosteriorState.empty(len(mass), work.rows.dim, 0, work.rows.device), **changes)
