"""Draws from posteriors over shards: one of each shard, and of these the one with the largest key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..data.dataset import OracleDataset
from ..kernels import Wanted
from ..queries.request import Request
from ..scans.exchange import Codec
from ..scans.sharded import ShardedScan
from ..scans.shards import HeldShards

# seeds are whole numbers below this; those of shards are this far apart, 2^64 over the golden ratio
SEEDS, SEED_STEP = 1 << 62, 0x9E3779B97F4A7C15
# what ranks are asked for, in words
DRAW = "a draw"

# draws the row of a data set for each query, [B] int64, -1 for none, with the log of the weight of all, [B] float64
LocalDraw = Callable[[OracleDataset, Request, torch.Generator], tuple[Tensor, Tensor]]


class ShardDraw(NamedTuple):
    """One row for each query over some shards.

    lse: log of the sum of their weights, [B] float64. key: log-weight of the shard of the row and Gumbel noise, [B]:
    the largest of several is that of a shard drawn by its weight. row: [B] int64 of the whole data, -1 for none.
    """

    lse: Float64[Tensor, "B"]
    key: Float64[Tensor, "B"]
    row: Int64[Tensor, "B"]


class DrawCodec:
    """How draws are sent and merged; see Codec of scans.exchange."""

    def __init__(self, device: torch.device) -> None:
        """Take the device of the draws."""
        self.device = device

    def pack(self, draw: ShardDraw) -> Float64[Tensor, "B 3"]:
        """Return the draws as rows."""
        return torch.stack([draw.lse, draw.key, draw.row.view(torch.float64)], dim=1).cpu()

    def unpack(self, rows: Float64[Tensor, "B 3"]) -> ShardDraw:
        """Return what :meth:`pack` was given."""
        lse, key, row = (part.contiguous() for part in rows.to(self.device).unbind(1))
        return ShardDraw(lse, key, row.view(torch.int64))

    def merge(self, first: ShardDraw, second: ShardDraw) -> ShardDraw:
        """Return draws over the union of two sets of shards."""
        later = second.key > first.key
        key, row = (torch.where(later, *pair) for pair in ((second.key, first.key), (second.row, first.row)))
        return ShardDraw(torch.logaddexp(first.lse, second.lse), key, row)


@dataclass(frozen=True)
class DrawQuestion:
    """One row of a shard for each query of `request`, drawn from its posterior by `draw`.

    seed: of all shards, each of which has a generator of its own. Maddison, Tarlow and Minka (2014), A* sampling.
    """

    request: Request
    draw: LocalDraw
    seed: int
    operation: str = DRAW

    @property
    def codec(self) -> Codec[ShardDraw]:
        """See ShardQuestion."""
        return DrawCodec(self.request.x.device)

    def part(self, held: HeldShards, number: int) -> ShardDraw:
        """Draw from one shard, with a Gumbel variable for the choice among shards."""
        some = held.within(self.request, number)
        nothing = torch.full_like(some.times, -torch.inf)
        if number not in held.data.shards:
            return ShardDraw(nothing, nothing, torch.full_like(some.exclude, -1))
        generator = torch.Generator().manual_seed((self.seed + number * SEED_STEP) % (1 << 63))
        lse, row = self.draw(held.data.shards[number], some, generator)
        noise = -(-torch.rand(len(some), generator=generator, dtype=torch.float64).log()).log()
        return ShardDraw(lse, lse + noise.to(lse.device), held.data.deal.rows_of(number, row))


def draw_over_shards(
    scan: ShardedScan, request: Request, generator: torch.Generator | None, draw: LocalDraw
) -> ShardDraw:
    """Return one row of the whole data for each query of `request`, drawn from its posterior; a collective.

    generator: of the seed, which rank 0 draws for all, so that draws do not depend on how many ranks there are. draw:
    draws from one shard; it can be pickled.
    """
    place = torch.device("cpu") if generator is None else generator.device
    own = int(torch.randint(SEEDS, (), generator=generator, device=place))
    seed = scan.data.ranks.compare(DRAW, [], [own])[0][0]
    whole, counts = scan.requested(DRAW, request, Wanted())
    return scan.answered(DrawQuestion(whole, draw, seed), counts)
