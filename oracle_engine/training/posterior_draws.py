"""Samples drawn from the posterior of each query, exactly, in one streaming pass over the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from ..base.arrays import Float64, Int64, Numbers, Tensor
from ..base.calls.transforms import traced
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..engine import compiled
from ..engine.arguments import check_engine
from ..engine.autograd import refuse_transforms
from ..engine.engine import OracleEngine
from ..kernels import Query, Rows, Span
from ..paths.predictions import marginal_variance
from ..queries.classes import batch_slices, scan_tasks
from ..queries.conditions import Conditions
from ..queries.request import Request, nothing_scored
from ..scans.sharded import ShardedScan
from .random_rows import inverted, uniforms
from .sharded_draws import draw_over_shards

# float64 values of a block of rows, and of its logits: 32 MB each
SCORED_VALUES = 1 << 22


@dataclass(frozen=True)
class Draw:
    """One sample for each query, drawn from its posterior over a subset of the samples.

    lse: log of the sum of the weights of the subset, [B] float64, -inf where it is empty.
    row: the row of the sample drawn, [B] int64, -1 where the subset is empty.
    """

    lse: Float64[Tensor, "B"]
    row: Int64[Tensor, "B"]


def merge_draws(first: Draw, second: Draw, uniform: Float64[Tensor, "B"]) -> Draw:
    """Return a draw over the union of two disjoint subsets from a draw over each.

    first, second: draws of the same B queries.
    uniform: independent numbers, [B] float64 in [0, 1); below the second subset's share of the weight, its draw stays.
    Returns a Draw of [B] queries. This is weighted reservoir sampling with a reservoir of one (Chao 1982).
    """
    # from the difference: it stays right where the sums of the weights overflow
    share = torch.where(second.lse == -torch.inf, 0.0, torch.sigmoid(second.lse - first.lse))
    return Draw(torch.logaddexp(first.lse, second.lse), torch.where(uniform < share, second.row, first.row))


def posterior_draw(
    engine: OracleEngine,
    x: Tensor,
    t: Numbers,
    *,
    labels: Numbers | None = None,
    exclude: Numbers | None = None,
    generator: torch.Generator | None = None,
    block_values: int = SCORED_VALUES,
) -> Int64[Tensor, "B"]:
    """Return the index of one sample for each query, drawn with the probabilities of its posterior weights.

    engine: over the samples to draw from.
    x: queries, [B, *sample_shape], any floating dtype, on the device of the data.
    t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
    labels: draw from a class, as in OracleEngine.velocity: an integer, [B], [B, U], or one-hot rows; -1 for none.
    exclude: index of a sample that does not count, one for all or [B], -1 for none (leave-one-out).
    generator: of the draws, on any device; the global one of the data's device unless given.
    block_values: float64 values of a block of rows and of its logits, at least 1; it bounds the memory. Compiled code
        takes the default.
    Returns [B] int64. P(index = j) = gamma_j(x, t), the softmax weight of sample j, so that the expectation of
    data[index] is the denoiser where point_std = 0.
    Raises InputError as OracleEngine.velocity does, for `block_values` below 1, where no sample that a query may use
    has a positive weight, inside transforms of torch.func, and for a `generator` in compiled code.
    Costs 2 B N D operations in float64 and 16 bytes for each of `block_values`, 64 MB unless given: blocks of rows are
    scored, one row of each is drawn, and the draws are merged by the weights of the blocks.

    >>> import torch, oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.load_dataset(torch.eye(4)))
    >>> oe.posterior_draw(engine, 0.99 * torch.eye(4), 0.99)
    tensor([0, 1, 2, 3])
    """
    check_engine(engine)
    if block_values < 1:
        raise invalid("block_values", "must be at least 1", block_values, "leave it out")
    if traced():
        return _traced_draw(engine, x, t, conditions=Conditions(labels, exclude=exclude), generator=generator)
    refuse_transforms("posterior_draw", x, t)
    request = engine.request_builder.request(x, t, Conditions(labels, exclude=exclude))
    return draw_with_density(engine, request, generator, block_values=block_values)[0]


def _traced_draw(
    engine: OracleEngine, x: Tensor, t: Numbers, *, conditions: Conditions, generator: torch.Generator | None
) -> Int64[Tensor, "B"]:
    """Return the samples that are drawn, as an operator that compiled code keeps."""
    if generator is not None:
        raise invalid("generator", "must be None in compiled code", "a generator", "seed torch with torch.manual_seed")
    call = compiled.call_of(engine._handle, "draw", x, t, conditions=conditions)
    result: Tensor = _draw_operator(call.x.detach(), call.t, call.labels, call.exclude, call.engine)
    return result


@torch.library.custom_op(
    "oracle_engine::posterior_draw",
    mutates_args=(),
    schema="(Tensor x, Tensor t, Tensor? labels, Tensor? exclude, int engine) -> Tensor",
    tags=compiled.READS_VALUES,
)
def _draw_operator(x: Tensor, t: Tensor, labels: Tensor | None, exclude: Tensor | None, engine: int) -> Tensor:
    return posterior_draw(compiled.live(engine), x, t, labels=labels, exclude=exclude).clone()


@_draw_operator.register_fake
def _(x: Tensor, t: Tensor, labels: Tensor | None, exclude: Tensor | None, engine: int) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


def draw_with_density(
    engine: OracleEngine, request: Request, generator: torch.Generator | None, *, block_values: int = SCORED_VALUES
) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return what :func:`posterior_draw` does, and log p_t(x), which the same pass yields.

    engine: over the samples to draw from.
    request: B queries of this engine, as its request builder makes them.
    generator: of the draws, on any device; None for the global one.
    block_values: as in :func:`posterior_draw`, at least 1.
    Returns the indices drawn, [B] int64, and the log densities in nats, [B] float64.
    Raises InputError where no sample that a query may use has a positive weight. Costs as :func:`posterior_draw`.
    """
    drawn = _over_shards(engine, request, generator, block_values)
    if bool((drawn.row < 0).any()):
        raise nothing_scored(request, engine.data, drawn.row >= 0)
    variance = marginal_variance(request.at, engine.point_std)
    density = drawn.lse - request.log_mass(engine.data) - 0.5 * engine.data.dim * (2 * math.pi * variance).log()
    return engine.data.index_of(drawn.row), density


def _over_shards(engine: OracleEngine, request: Request, generator: torch.Generator | None, block_values: int) -> Draw:
    """Return the rows that are drawn, over all shards where there are some."""
    scan = engine.responder.router.exact
    if not isinstance(scan, ShardedScan):
        return _in_slices(engine.data, request, generator, block_values)
    drawn = draw_over_shards(scan, request, generator, partial(_drawn_of_shard, block_values=block_values))
    return Draw(drawn.lse, drawn.row)


def _drawn_of_shard(
    shard: OracleDataset, request: Request, generator: torch.Generator, *, block_values: int
) -> tuple[Float64[Tensor, "B"], Int64[Tensor, "B"]]:
    """Draw from one shard; see LocalDraw."""
    found = _in_slices(shard, request, generator, block_values)
    return found.lse, found.row


def _in_slices(data: OracleDataset, request: Request, generator: torch.Generator | None, block_values: int) -> Draw:
    """Return a row for each query, a slice of the batch at a time."""
    parts = [
        _in_blocks(data, request.take(part), generator, block_values) for part in batch_slices(len(request), data.dim)
    ]
    if not parts:
        # of no queries: an empty float64 and an empty int64 tensor
        return Draw(request.times, request.exclude)
    return Draw(torch.cat([part.lse for part in parts]), torch.cat([part.row for part in parts]))


def _in_blocks(data: OracleDataset, request: Request, generator: torch.Generator | None, block_values: int) -> Draw:
    """Draw a row for each query, a block of rows at a time, of which each may take the place of the last."""
    query = request.query(data)
    nothing = torch.full((len(query),), -torch.inf, dtype=torch.float64, device=data.device)
    drawn = Draw(nothing, torch.full_like(request.exclude, -1))
    for task in scan_tasks(request.labels, data.segments, len(data), torch.arange(len(query), device=data.device)):
        part = query.take(task.query)
        size = max(1, block_values // max(data.dim, len(part)))
        for start in range(task.span.start, task.span.stop, size):
            block = _from_block(data.rows, part, Span(start, min(start + size, task.span.stop)), generator)
            before = Draw(drawn.lse[task.query], drawn.row[task.query])
            merged = merge_draws(before, block, uniforms(len(part), generator, data.device))
            drawn = Draw(
                drawn.lse.index_copy(0, task.query, merged.lse), drawn.row.index_copy(0, task.query, merged.row)
            )
    return drawn


def _from_block(rows: Rows, query: Query, span: Span, generator: torch.Generator | None) -> Draw:
    """Draw a row of one block for each query."""
    index = torch.arange(span.start, span.stop, device=rows.device)
    samples = rows.gather(index) - rows.centre
    bias = query.alpha * query.gain
    logits = query.gain[:, None] * (query.point @ samples.T) - bias[:, None] * rows.half_norms[index]
    logits -= 0.5 * (query.inverse_variance * query.norm.square())[:, None]
    if rows.log_weights is not None:
        logits += rows.log_weights[index]
    inside = (index >= query.excluded[..., :1]) & (index < query.excluded[..., 1:])
    logits.masked_fill_(inside.any(1), -torch.inf)
    largest = logits.amax(1, keepdim=True)
    weights = (logits - largest.clamp_min(-torch.finfo(torch.float64).max)).exp_()
    lse = largest[:, 0] + weights.sum(1).log()
    place = uniforms(len(query), generator, rows.device)
    row = span.start + inverted(weights, place[:, None])[:, 0]
    return Draw(lse, torch.where(lse == -torch.inf, -1, row))
