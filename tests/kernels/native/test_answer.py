"""Answers in one call are those of a scan and of the combination of its means, in every dtype and shape."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal, stored_as
from tolerances import assert_close
from torch import Tensor

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import (
    Combination,
    GivenPoints,
    NativeAnswers,
    Rows,
    Span,
    ValueQuery,
    ValueSpace,
    Work,
    combined,
    native_library,
    native_state,
    prepare_rows,
)
from oracle_engine.kernels.native.answer import STORAGE
from oracle_engine.kernels.native.library import usable_targets

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

SCALE, OFFSET = 0.5, -0.25


def space_of(rows: Rows, point_std: float = 0.0) -> ValueSpace:
    return ValueSpace(SCALE, OFFSET, SCALE * rows.centre + OFFSET, point_std, 1e-290)


def step_by_step(rows: Rows, x: Tensor, coefficients: Tensor, point_std: float = 0.0) -> Tensor:
    """Return E[a X + b eps | x], [B, D] in the dtype of x; coefficients: alpha, sigma, a and b, [4, B]."""
    alpha, sigma, of_sample, of_noise = coefficients
    variance = sigma.square() + (alpha * point_std).square()
    base, wide = SCALE * rows.centre + OFFSET, x.double()
    nothing = torch.empty(len(x), 0, 2, dtype=torch.int64)
    query = ValueQuery(GivenPoints(wide, SCALE, OFFSET), alpha, variance, nothing, base)
    mean = native_state(Work(rows, query, Span(0, len(rows)))).mean
    gap = (of_noise * sigma + of_sample * alpha * point_std**2) / variance
    return combined(Combination(wide, alpha, of_sample, gap, SCALE, base), mean, x.dtype)


@pytest.mark.parametrize("dim", [1, 17, 65])
@pytest.mark.parametrize("count", [1, 2, 63])
def test_parity_on_odd_shapes(generator: torch.Generator, target: str, count: int, dim: int) -> None:
    rows = prepare_rows(normal(count, dim, generator).float(), None)
    answers = NativeAnswers(rows, space_of(rows), None)
    for batch in (1, 2, 3, 17):
        x = normal(batch, dim, generator).float()
        coefficients = torch.rand(4, batch, generator=generator, dtype=torch.float64) + 0.1
        out = torch.full_like(x, torch.nan)
        assert answers.write(x, coefficients, out)
        assert_close(out, step_by_step(rows, x, coefficients), "float32 output", scale=10.0)
        one = coefficients[:, :1]
        assert answers.write(x, one.flatten().tolist(), out)
        assert_close(out, step_by_step(rows, x, one.repeat(1, batch)), "float32 output", scale=10.0)


def test_another_library_may_be_chosen_between_calls(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare_rows(stored_as(normal(63, 130, generator), torch.uint8), None)
    answers = NativeAnswers(rows, space_of(rows), None)
    # some batches are few for one library and many for another
    for batch in range(1, 9):
        x = normal(batch, 130, generator).float()
        coefficients = torch.rand(4, batch, generator=generator, dtype=torch.float64) + 0.1
        for name in usable_targets():
            monkeypatch.setenv("ORACLE_NATIVE", name)
            if native_library().library is None:
                continue
            out = torch.full_like(x, torch.nan)
            assert answers.write(x, coefficients, out)
            assert_close(out, step_by_step(rows, x, coefficients), "float32 output", scale=10.0)


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
@pytest.mark.parametrize("dtype", list(STORAGE))
def test_parity_for_every_storage_and_dtype(
    generator: torch.Generator, target: str, storage: torch.dtype, dtype: torch.dtype
) -> None:
    rows = prepare_rows(stored_as(normal(50, 33, generator), storage), None)
    x = normal(3, 33, generator).to(dtype)
    coefficients = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1
    out = torch.full_like(x, torch.nan)
    assert NativeAnswers(rows, space_of(rows, 0.2), None).write(x, coefficients, out)
    expected = step_by_step(rows, x, coefficients, 0.2)
    tolerance = "float64" if dtype == torch.float64 else f"{str(dtype).removeprefix('torch.')} output"
    assert_close(out, expected, tolerance, scale=expected.double().abs().amax().clamp_min(1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_are_rounded_as_torch_rounds_none_other(
    generator: torch.Generator, target: str, dtype: torch.dtype
) -> None:
    # one sample at zero, so that the answer is a multiple of x: halfway cases, subnormal numbers, the largest ones
    rows = prepare_rows(torch.zeros(1, 8, dtype=torch.float64), None)
    answers = NativeAnswers(rows, ValueSpace(1.0, 0.0, rows.centre, 0.0, 1e-290), None)
    x = torch.tensor([[1.0, 3.0, 5.0, 1e-7, -6e-5, 257.0, 2049.0, -0.0]]).to(dtype)
    for factor in (1.0, 1.0 + 2**-9, 1.0 + 2**-8 + 2**-12, 1.0 + 3 * 2**-12, 1 / 3):
        out = torch.empty_like(x)
        assert answers.write(x, [0.5, 1.0, 0.0, factor], out)
        assert torch.equal(out, (factor * x.double()).to(dtype))
    assert not answers.write(x, [0.5, 1.0, 0.0, 1e36], out)
