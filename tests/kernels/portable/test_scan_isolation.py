"""The bits of the streaming kernel depend on no settings of the caller, other threads or unwritten memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from closed_form import normal, stored_as
from row_cases import EVERYTHING, MEAN_ONLY, SMALL_BLOCKS, assert_identical, assert_parity, make_query, whole

from oracle_engine.kernels import posterior_state, prepare_rows
from oracle_engine.kernels.common.matmul import ieee_products
from oracle_engine.kernels.common.work import Work


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that was allocated and not yet written reads as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert bool(torch.empty(5).isnan().all())
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_memory_that_nobody_wrote_is_never_read(generator: torch.Generator, dtype: torch.dtype, offset: float) -> None:
    rows = prepare_rows(stored_as(normal(333, 40, generator), dtype) + torch.tensor(offset).to(dtype), None)
    query = make_query(rows, generator, excluded=1)
    assert_parity(rows, query, limits=SMALL_BLOCKS)
    assert_parity(rows, make_query(rows, generator), wanted=MEAN_ONLY, limits=SMALL_BLOCKS)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_settings_of_the_caller_change_no_bit_and_survive(generator: torch.Generator, precision: str) -> None:
    rows = prepare_rows(normal(500, 100, generator).float(), None)
    query = make_query(rows, generator)
    for wanted in (EVERYTHING, MEAN_ONLY):
        plain = posterior_state(Work(rows, query, whole(rows), wanted))
        torch.set_float32_matmul_precision(precision)
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert_identical(posterior_state(Work(rows, query, whole(rows), wanted)), plain)
            assert torch.get_float32_matmul_precision() == precision
        finally:
            torch.set_float32_matmul_precision("highest")


def cpu_precision() -> str:
    """Return what float32 products on CPU run in, whichever of torch's ways set it."""
    backends: Any = torch.backends
    return str(backends.mkldnn.matmul.fp32_precision)


def test_products_stay_exact_for_a_thread_while_another_one_leaves() -> None:
    inside, left = threading.Event(), threading.Event()

    def stay() -> str:
        with ieee_products("cpu"):
            inside.set()
            assert left.wait(10)
            return cpu_precision()

    torch.set_float32_matmul_precision("medium")
    before = cpu_precision()
    try:
        with ThreadPoolExecutor(1) as pool:
            with ieee_products("cpu"):
                staying = pool.submit(stay)
                assert inside.wait(10)
            left.set()
            assert staying.result() in ("ieee", "none")
        assert cpu_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("where", ["torch.backends", "torch.backends.mkldnn.matmul", "torch.backends.cuda.matmul"])
def test_products_stay_exact_under_the_settings_of_each_backend(generator: torch.Generator, where: str) -> None:
    scope: Any = torch.backends
    for name in where.split(".")[2:]:
        scope = getattr(scope, name)
    if not hasattr(scope, "fp32_precision"):
        pytest.skip("this version of torch has no such setting")
    rows = prepare_rows(normal(300, 100, generator).float(), None)
    query = make_query(rows, generator)
    plain = posterior_state(Work(rows, query, whole(rows), MEAN_ONLY))
    before = scope.fp32_precision
    scope.fp32_precision = "tf32" if "cuda" in where else "bf16"
    chosen = scope.fp32_precision
    try:
        with ieee_products("cpu"):
            assert cpu_precision() in ("ieee", "none")
        assert_identical(posterior_state(Work(rows, query, whole(rows), MEAN_ONLY)), plain)
        assert scope.fp32_precision == chosen
    finally:
        scope.fp32_precision = before
