"""Matrix units as they round, for the interpreter, which sums in float32 to nearest: what a card does to the bits.

The arithmetic is that of arXiv 2511.10909, whose models were compared with hardware bit by bit, but for subnormal
operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

# below every exponent that occurs
NO_EXPONENT = -10_000


@dataclass(frozen=True)
class MatrixUnit:
    """A unit that adds products and a float32 at once: aligned to the largest, cut `bits` below it, cut to float32.

    depth: products of 16-bit numbers added at once; of TF32 numbers half as many.
    """

    depth: int
    bits: int

    def sum_of(self, left: Numbers, right: Numbers, total: Numbers, depth: int) -> Numbers:
        """Return total [m, n] plus the product of left [m, k] and right [k, n], `depth` of k at a time."""
        for start in range(0, left.shape[1], depth):
            part = slice(start, start + depth)
            total = self._step(left[:, None, part], right.T[None, :, part], total)
        return total

    def _step(self, left: Numbers, right: Numbers, total: Numbers) -> Numbers:
        largest = np.maximum((exponent(left) + exponent(right)).max(2), exponent(total))
        # nothing to add
        largest = np.maximum(largest, -900)
        scale = np.ldexp(1.0, self.bits - largest)
        aligned = np.trunc(left * right * scale[:, :, None]).sum(2) + np.trunc(total * scale)
        found: Numbers = cut(aligned, 24) / scale
        return found

    def dot(self, left: Any, right: Any, total: Any, precision: str) -> Numbers:
        """Return what Triton compiles `tl.dot` to: one product of 16-bit numbers, or one or three of TF32."""
        first, second, added = (np.asarray(values, dtype=np.float64) for values in (left, right, total))
        if precision == "IEEE":
            assert all(np.array_equal(cut(values, 11), values) for values in (first, second))
            return self.sum_of(first, second, added, self.depth)
        if precision == "TF32":
            return self.sum_of(cut(first, 11), cut(second, 11), added, self.depth // 2)
        assert precision == "TF32x3"
        large, small = zip(*(tf32_parts(values) for values in (first, second)), strict=True)
        sums = np.zeros_like(added)
        for one, other in ((small[0], large[1]), (large[0], small[1]), (large[0], large[1])):
            sums = self.sum_of(one, other, sums, self.depth // 2)
        rounded: Numbers = (sums + added).astype(np.float32).astype(np.float64)
        return rounded


UNITS = {"sm_80": MatrixUnit(depth=8, bits=24), "sm_90": MatrixUnit(depth=16, bits=25)}


def exponent(values: Numbers) -> NDArray[np.int32]:
    """Return the exponents of the leading bits."""
    _, found = np.frexp(values)
    return np.where(values == 0.0, NO_EXPONENT, found - 1).astype(np.int32)


def cut(values: Numbers, bits: int) -> Numbers:
    """Cut to significands of `bits`, towards zero."""
    significand, power = np.frexp(values)
    cut_off: Numbers = np.ldexp(np.trunc(np.ldexp(significand, bits)), power - bits)
    return cut_off


def tf32_parts(values: Numbers) -> tuple[Numbers, Numbers]:
    """Return float32 values as a TF32 number, the nearest, and as much of the rest as another one holds."""
    significand, power = np.frexp(values)
    # ties away from zero
    nearest = np.trunc(np.ldexp(significand, 11) + np.copysign(0.5, significand))
    large: Numbers = np.ldexp(nearest, power - 11)
    return large, cut(values - large, 11)


def imitate(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter sum products of floating point numbers as `unit` does."""
    from triton.runtime import interpreter

    exact = interpreter.InterpreterBuilder.create_dot

    def create_dot(builder: Any, left: Any, right: Any, total: Any, precision: Any, imprecise: int) -> Any:
        if not np.issubdtype(left.data.dtype, np.floating):
            return exact(builder, left, right, total, precision, imprecise)
        found = unit.dot(left.data, right.data, total.data, precision.name)
        return interpreter.TensorHandle(found.astype(np.float32), total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
