"""What a scan by the Triton kernels needs beyond the data."""

from __future__ import annotations

from ...common.rows import Rows
from ..core.configs import choose
from ..core.devices import device_of
from ..core.limits import DEFAULT_LIMITS, ScanLimits
from ..operands.rows import block_dtype, copy_bytes
from ..products.weights import weights_rows
from ..rescore.rescored import rescore_memory
from ..states.top import top_memory
from .narrow import NARROW_DIM, narrow_memory
from .scan import FusedScan, TwoPhaseScan


def triton_memory(rows: Rows, batch: int, *, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return the most bytes that posterior means need beyond the data.

    rows: of the data set, [N, D]. batch: number of queries. limits: those of :func:`triton_state`.
    """
    if rows.dim <= NARROW_DIM:
        return narrow_memory(rows, batch, limits)
    config = choose(device_of(rows.device), block_dtype(rows), batch, rows.dim)
    pair_bytes = (TwoPhaseScan if config.fused is None else FusedScan).pair_bytes
    count = min(limits.block_rows(batch, pair_bytes, copy_bytes(rows)), len(rows))
    padded, values = -(-batch // 16) * 16, batch * rows.dim
    # norms and weights of the rows, and a centred copy where one is needed
    held = 8 * len(rows) + count * copy_bytes(rows)
    if config.fused is None:
        slices, shares = (part(count, batch, rows.dim) for part in (config.score_slices, config.weigh_shares))
        tiles_b = -(-batch // config.weigh.block_b)
        # logits and slices of them, weights, and those that are gathered; both weights may be for more queries
        held += count * (padded * (4 + (4 * slices if slices > 1 else 0)) + 8 * tiles_b * config.weigh.block_b)
        # statistics of tiles, and the rows with weight of each tile
        held += 96 * padded * -(-count // min(config.score.block_n, weights_rows(config.weigh.block_b)))
        held += 16 * (count + 1024) * tiles_b
    else:
        shares = config.fused_shares(count, batch)
        held += 8 * padded * -(-count // config.parts.block_n) + 4 * padded * shares
    held += 12 * batch * limits.listed(len(rows))
    listed = limits.listed(len(rows))
    held += rescore_memory(rows, batch, listed) + top_memory(batch, listed, len(rows), limits)
    # queries and their parts, sums and means, most of them in float64, and the sum of every share
    return held + values * (16 * 8 + 4 * shares)
