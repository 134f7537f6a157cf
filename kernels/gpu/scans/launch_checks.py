"""What work must be for the Triton kernels, and the launch configuration of work that is."""

from __future__ import annotations

import torch

from ....base.errors import invalid
from ...common.work import Work
from ..core.configs import LaunchConfig, choose
from ..core.devices import device_of
from ..core.tiles import AnyConfig
from ..jit.interpreter import INTERPRET
from ..operands.rows import block_dtype
from ..operands.splits import EXACT, HALF, KERNEL_DTYPES, Split, shared_bound


def checked_config(work: Work, split: Split = EXACT, *, batch: int | None = None) -> LaunchConfig:
    """Return the launch configuration for `work`, whose operands are split by `split`.

    batch: number of queries that tiles are chosen for, that of the work where None.

    Raises InputError where the kernels cannot run: on another device, for another dtype, in half precision for samples
    that are read in float32, without rows, values or queries, and for rows that are not contiguous.
    """
    rows, query, span = work.rows, work.query, work.span
    stored = rows.stored
    if not (INTERPRET or stored.is_cuda):
        raise invalid("device", "must be a CUDA device for the Triton kernels", stored.device, "use backend='torch'")
    if stored.dtype not in KERNEL_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in KERNEL_DTYPES)
        raise invalid("points", f"must be {names} for the Triton kernels", stored.dtype, "use backend='torch'")
    if split == HALF and block_dtype(rows) == torch.float32:
        received = f"{stored.dtype}, read as {block_dtype(rows)}"
        needs = "must be full for these samples: half is for 8-bit ones, and for 16-bit ones whose mean is small"
        raise invalid("precision", needs, received, "pass precision='full'")
    if rows.dim == 0 or len(span) == 0 or len(query) == 0:
        received = f"{len(query)} queries for {len(span)} x {rows.dim}"
        raise invalid("points", "must be samples of at least one value, for at least one query", received, "pass some")
    if rows.dim > 1 and stored.stride(1) != 1:
        raise invalid("points", "must be contiguous along D", f"strides {stored.stride()}", "pass points.contiguous()")
    config = choose(device_of(stored.device), block_dtype(rows), batch or len(query), rows.dim)
    check_shared_memory(config, block_dtype(rows))
    return config


def check_shared_memory(config: LaunchConfig, stored: torch.dtype) -> None:
    """Refuse configurations whose programs might need more shared memory than the device has.

    config: of a call, with its device. stored: dtype of the rows as the kernels read them.

    Raises InputError for them.
    """
    parts: list[AnyConfig] = [config.score, config.weigh]
    parts += [config.fused] if config.fused else []
    for part in parts:
        if shared_bound(part, stored) > config.device.shared_bytes:
            limit, remedy = f"{config.device.shared_bytes} bytes of shared memory", "delete its tuned file"
            raise invalid("configuration", f"must fit into {limit} of {config.device.name}", f"{part}", remedy)
