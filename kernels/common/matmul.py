"""Matrix products that mean what they say, whatever the caller has switched on around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...base.arrays import Float, Tensor

# up to this many queries MKL adds the products of a sum one after the other, and rounding grows with their number
SERIAL_QUERIES = 16

# rows summed in one go for so few
SUM_ROWS = 512


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
    """Ask for full float32 products from the first caller on, and remember what was set before."""
    global _inside  # noqa: PLW0603  one setting for all threads, one counter
    with _lock:
        if _inside == 0:
            _saved[:] = [setting.fp32_precision for setting in _settings()]
            for setting, precision in zip(_settings(), _saved, strict=True):
                if precision not in ("ieee", "none"):
                    setting.fp32_precision = "ieee"
        _inside += 1


def _leave() -> None:
    """Restore the settings when the last caller leaves."""
    global _inside  # noqa: PLW0603
    with _lock:
        _inside -= 1
        if _inside == 0:
            for setting, precision in zip(_settings(), _saved, strict=True):
                if setting.fp32_precision != precision:
                    setting.fp32_precision = precision


def score_product(block: Float[Tensor, "n D"], queries: Float[Tensor, "B D"], longest: int) -> Float[Tensor, "n B"]:
    """Return block @ queries.T.

    longest: coordinates that one sum may have where a library adds them one after the other, see `longest_sum`.
    """
    dim = block.shape[1]
    if block.is_cuda or len(queries) > SERIAL_QUERIES or dim <= longest:
        return block @ queries.T
    # sums of equal length
    length = -(-dim // -(-dim // longest))
    product = block[:, :length] @ queries[:, :length].T
    for start in range(length, dim, length):
        some = slice(start, start + length)
        product.addmm_(block[:, some], queries[:, some].T)
    return product


def mean_product(weights: Float[Tensor, "B n"], block: Float[Tensor, "n D"]) -> Float[Tensor, "B D"]:
    """Return weights @ block."""
    if block.is_cuda or len(weights) > SERIAL_QUERIES or len(block) <= SUM_ROWS:
        return weights @ block
    parts = -(-len(block) // SUM_ROWS)
    whole = len(block) // parts * parts
    pieces = weights[:, :whole].reshape(len(weights), parts, -1).transpose(0, 1)
    sums = torch.bmm(pieces, block[:whole].view(parts, -1, block.shape[1])).sum(0)
    return sums.addmm_(weights[:, whole:], block[whole:])
