"""Matrix products that mean what they say, whatever the caller has switched on around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...base.arrays import Float, Tensor

# up to this many queries a CPU product is bound by reading the rows, and one call leaves all but one core idle
FEW_QUERIES = 16

# a CPU product with one query less than a multiple of this many takes up to 1.6 times as long as with that many
QUERY_MULTIPLE = 8

# rows summed in one go for few queries: MKL adds them one after the other, and rounding grows with their number
SUM_ROWS = 512

# rows of one of several products that run side by side, in bytes: what a core's caches hold
PRODUCT_BYTES = 4 << 20

# weighted sums that several cores hold before they are added up, in bytes
SUMS_BYTES = 32 << 20


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
    if block.is_cuda:
        return block @ queries.T
    many = len(queries) > FEW_QUERIES
    asked = torch.nn.functional.pad(queries, (0, 0, 0, -len(queries) % QUERY_MULTIPLE)) if many else queries
    product = torch.empty(len(block), len(asked), dtype=block.dtype)
    threads, dim = torch.get_num_threads(), block.shape[1]
    parts, whole = _parts(len(block), threads * -(-block.nbytes // (threads * PRODUCT_BYTES)))
    shared = asked.T.expand(parts, *asked.T.shape)
    pieces, sums = block[:whole].view(parts, -1, dim), product[:whole].view(parts, -1, len(asked))
    # sums of equal length; for many queries libraries block them anyway
    length = dim if many else -(-dim // -(-dim // longest))
    torch.bmm(pieces[:, :, :length], shared[:, :length], out=sums)
    for start in range(length, dim, length):
        some = slice(start, start + length)
        sums.baddbmm_(pieces[:, :, some], shared[:, some])
    torch.mm(block[whole:], asked.T, out=product[whole:])
    return product[:, : len(queries)]


def mean_product(weights: Float[Tensor, "B n"], block: Float[Tensor, "n D"]) -> Float[Tensor, "B D"]:
    """Return weights @ block."""
    if block.is_cuda:
        return weights @ block
    # a core each, while the sums of all of them are small; for few queries as many as rounding asks for
    most = max(1, SUMS_BYTES // (len(weights) * block.shape[1] * block.dtype.itemsize + 1))
    wanted = min(torch.get_num_threads(), most) if len(weights) > FEW_QUERIES else -(-len(block) // SUM_ROWS)
    parts, whole = _parts(len(block), wanted)
    pieces = weights[:, :whole].reshape(len(weights), parts, -1).transpose(0, 1)
    sums = torch.bmm(pieces, block[:whole].view(parts, -1, block.shape[1])).sum(0)
    return sums.addmm_(weights[:, whole:], block[whole:])


def _parts(count: int, wanted: int) -> tuple[int, int]:
    # how many equal parts to cut `count` rows into, and how many rows these cover
    parts = max(1, min(wanted, count))
    return parts, count // parts * parts
