"""Products of rows of 8-bit numbers with queries: in integers where a machine multiplies those sooner than floats.

A query is rounded to two signed base-128 digits, q = step (128 h + l) with |h| <= 127 and -64 <= l < 64; each is
multiplied with the rows in exact 32-bit sums. Elsewhere rows are converted to float32 block by block, in cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from ....base.arrays import Float, Float64, Shaped, Tensor
from ...common.matmul import ieee_products, score_product
from ...common.rounding import DRIFTING_SUM
from ...native.library import native_library

BASE = 128
LARGEST = 127 * BASE + 63

# digits of queries that native kernels multiply all codes of a screen with; rows that may matter take two
SCREENING_DIGITS = 1

# sums of products of digits stay within 32 bits up to so many coordinates
MOST_COORDINATES = (2**31 - 1) // (127 * BASE)

# the integer product of torch wants sizes of this multiple, and on CUDA more than 16 rows
MULTIPLE, FEWEST_ROWS = 8, 17

# values converted at once: 16 MB in float32
CONVERTED_VALUES = 1 << 22

# libraries that multiply bytes four at a time, and the time of a product with a digit over that with float32: a quarter
# of the multiplications, measured .25 to .28. Screens take no matrix units: their code is the same in both
NATIVE_TARGETS, NATIVE_COST = ("v4", "amx"), 0.27

# rows, coordinates and queries of the products that are timed; each is tried a few times, unless the first takes many
# times as long as it would have to
TRIAL = (512, 1024, 64)
TRIALS, HOPELESS = 4, 8.0


@cache
def product_cost(device: torch.device) -> float:
    """Return the time of a product with two digits over that with float32, converted or not, on `device`: at most 1.

    Timed once for each device, in some milliseconds; at 1 the products are taken in float32.
    """
    count, dim, batch = TRIAL
    codes = torch.ones(count, dim, dtype=torch.int8, device=device)
    digits = torch.ones(2 * batch, dim, dtype=torch.int8, device=device)
    rows, queries = codes.float(), digits[:batch].float()
    with ieee_products(device.type):
        floats = _seconds(lambda: rows @ queries.T)
    try:
        return min(1.0, _seconds(lambda: torch._int_mm(codes, digits.T), HOPELESS * floats) / floats)
    except RuntimeError:
        return 1.0


def given_or_timed(cost: float | None, device: torch.device, digits: int = 2) -> float:
    """Return `cost`, or where that is None what native kernels take for so many `digits`, or else what torch takes.

    cost: time of a product with rows of 8-bit numbers over that with float32 rows, in (0, 1]. device: where it runs.
    digits: of a query that native kernels multiply with, 1 or 2.
    """
    if cost is None and native_bytes(device):
        return NATIVE_COST * digits
    return product_cost(device) if cost is None else cost


def native_bytes(device: torch.device) -> bool:
    """Return whether native kernels multiply bytes on `device` sooner than floats."""
    return device.type == "cpu" and native_library().target in NATIVE_TARGETS


def integers_pay(cost: float, dim: int) -> bool:
    """Return whether rows of `dim` 8-bit values are multiplied as integers for a :func:`product_cost` of `cost`."""
    return dim % MULTIPLE == 0 and dim <= MOST_COORDINATES and cost < 1.0


def relative_cost(cost: float, dim: int) -> float:
    """Return the time of a product with rows of `dim` 8-bit values over that with float32 rows, at most 1.

    cost: the :func:`product_cost`. dim: values of a row.
    """
    return cost if integers_pay(cost, dim) else 1.0


def two_digits(values: Float64[Tensor, "b K"]) -> Float64[Tensor, "b K"]:
    """Return the nearest values to `values`, [b, K] float64, that two digits hold; those of a row share their step."""
    step = _step(values)
    return (values / step).round() * step


def products(
    codes: Shaped[Tensor, "n K"], factors: Float64[Tensor, "b K"], out: Float[Tensor, "n b"], *, integers: bool
) -> None:
    """Write the products of `codes` with `factors` into `out`.

    codes: rows of 8-bit numbers, [n, K] int8 or uint8. factors: what they are multiplied with, [b, K] float64.
    out: [n, b] float32. integers: whether to multiply in integers; `factors` have to be what :func:`two_digits` gives
    then, and their sums are exact. Costs 2 n b K operations in float32, or 4 n b K in 8-bit integers.
    """
    multiply = _integer if integers else _floating
    multiply(codes, factors, out)


def _floating(codes: Shaped[Tensor, "n K"], factors: Float64[Tensor, "b K"], out: Float[Tensor, "n b"]) -> None:
    size = max(1, CONVERTED_VALUES // codes.shape[1])
    buffer = torch.empty(min(size, len(codes)), codes.shape[1], device=codes.device)
    narrow = factors.float()
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        out[start : start + size] = score_product(buffer[: len(part)].copy_(part), narrow, DRIFTING_SUM)


def _integer(codes: Shaped[Tensor, "n K"], factors: Float64[Tensor, "b K"], out: Float[Tensor, "n b"]) -> None:
    step = _step(factors)
    whole = (factors / step).round()
    high = ((whole + BASE // 2) / BASE).floor()
    digits = torch.cat([high, whole - BASE * high]).to(torch.int8)
    digits = _padded(digits, -(-len(digits) // MULTIPLE) * MULTIPLE)
    # uint8 rows are read as int8 rows that are 128 lower
    lower = 0 if codes.dtype == torch.int8 else BASE
    shift, batch = (lower * whole.sum(1)).long(), len(factors)
    size = max(FEWEST_ROWS, 4 * CONVERTED_VALUES // codes.shape[1])
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        signed = part if lower == 0 else part.bitwise_xor(BASE).view(torch.int8)
        sums = torch._int_mm(_padded(signed, FEWEST_ROWS), digits.T)[: len(part)].long()
        total = BASE * sums[:, :batch] + sums[:, batch : 2 * batch] + shift
        out[start : start + size] = total * step[:, 0]


def _padded(rows: Shaped[Tensor, "n K"], count: int) -> Shaped[Tensor, "m K"]:
    missing = max(0, count - len(rows))
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows


def _step(values: Float64[Tensor, "b K"]) -> Float64[Tensor, "b 1"]:
    return values.abs().amax(1, keepdim=True).clamp_min(1e-300) / LARGEST


def _seconds(run: Callable[[], Tensor], hopeless: float = float("inf")) -> float:
    """Return the seconds of the quickest of some runs, of the first alone where that takes longer than `hopeless`."""
    best = float("inf")
    for trial in range(TRIALS):
        if trial and best > hopeless:
            break
        begin = time.perf_counter()
        run()[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return best
