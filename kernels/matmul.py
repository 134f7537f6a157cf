"""Matrix products that mean what they say, whatever the caller has switched on around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ieee_products(device_type: str) -> Iterator[None]:
    """Run float32 products in float32: no autocast, no TF32 or bf16 inside; settings are restored on exit."""
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
