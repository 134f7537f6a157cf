"""Matrix products that mean what they say, whatever the caller has switched on around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..arrays import Float, Tensor

# up to this many queries a CPU product is bound by reading the rows, and one call leaves all but one core idle
FEW_QUERIES = 16

# rows summed in one go for few queries: MKL adds them one after the other, and rounding grows with their number
SUM_ROWS = 512

# rows of one product for more queries, in bytes: what a core's caches hold
PRODUCT_BYTES = 4 << 20


# torch's precision is one setting for all threads: it is restored when the last of them leaves
_lock = threading.Lock()
_inside = 0
_saved: list[str] = []


@contextmanager
def ieee_products(device_type: str) -> Iterator[None]:
    """Run float32 products in float32: no autocast, no TF32 or bf16 inside; settings are restored on exit."""
    _enter()
    try:
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        _leave()


def _settings() -> list[Any]:
    cpu: Any = torch.backends.mkldnn  # without annotations in torch
    return [torch.backends.cuda.matmul, cpu.matmul]


def _enter() -> None:
    global _inside  # noqa: PLW0603  one setting for all threads, one counter
    with _lock:
        if _inside == 0:
            _saved[:] = [setting.fp32_precision for setting in _settings()]
            for setting, precision in zip(_settings(), _saved, strict=True):
                if precision not in ("ieee", "none"):
                    setting.fp32_precision = "ieee"
        _inside += 1


def _leave() -> None:
    global _inside  # noqa: PLW0603
    with _lock:
        _inside -= 1
        if _inside == 0:
            for setting, precision in zip(_settings(), _saved, strict=True):
                if setting.fp32_precision != precision:
                    setting.fp32_precision = precision


def score_product(block: Float[Tensor, "n D"], queries: Float[Tensor, "B D"], longest: int) -> Float[Tensor, "n B"]:
    """Return block @ queries.T: data times queries, up to 1.6x faster on CPU than queries times data.

    longest: coordinates that one sum may have where a library adds them one after the other, see `longest_sum`.
    """
    product = torch.empty(len(block), len(queries), dtype=block.dtype, device=block.device)
    if block.is_cuda:
        return torch.mm(block, queries.T, out=product)
    if len(queries) > FEW_QUERIES:
        size = max(64, PRODUCT_BYTES // (block.shape[1] * block.dtype.itemsize))
        for start in range(0, len(block), size):
            torch.mm(block[start : start + size], queries.T, out=product[start : start + size])
        return product
    parts, whole = _parts(len(block), torch.get_num_threads())
    shared = queries.T.expand(parts, *queries.T.shape)
    pieces, sums = block[:whole].view(parts, -1, block.shape[1]), product[:whole].view(parts, -1, len(queries))
    dim = block.shape[1]
    length = -(-dim // -(-dim // longest))
    torch.bmm(pieces[:, :, :length], shared[:, :length], out=sums)
    for start in range(length, dim, length):
        some = slice(start, start + length)
        sums.baddbmm_(pieces[:, :, some], shared[:, some])
    torch.mm(block[whole:], queries.T, out=product[whole:])
    return product


def mean_product(weights: Float[Tensor, "B n"], block: Float[Tensor, "n D"]) -> Float[Tensor, "B D"]:
    """Return weights @ block."""
    if block.is_cuda or len(weights) > FEW_QUERIES:
        return weights @ block
    parts, whole = _parts(len(block), -(-len(block) // SUM_ROWS))
    pieces = weights[:, :whole].reshape(len(weights), parts, -1).transpose(0, 1)
    sums = torch.bmm(pieces, block[:whole].view(parts, -1, block.shape[1])).sum(0)
    return sums.addmm_(weights[:, whole:], block[whole:])


def _parts(count: int, wanted: int) -> tuple[int, int]:
    # how many equal parts to cut `count` rows into, and how many rows these cover
    parts = max(1, min(wanted, count))
    return parts, count // parts * parts
