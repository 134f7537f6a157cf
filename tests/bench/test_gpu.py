from __future__ import annotations

import pytest
import torch

from bench import gpu, gpu_cases
from bench.comparison import Comparison
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.record import OURS
from oracle_engine.kernels.gpu.core.configs import scored_with

ROWS = gpu_cases.Case(1000, 784, torch.uint8, (64,))


def test_8_bit_data_are_measured_with_either_operand_or_both() -> None:
    half = gpu_cases.Case(1000, 784, torch.float16, (64,))
    assert gpu.operands(ROWS, None) == (None,)
    assert gpu.operands(ROWS, "parts") == ("parts",)
    assert gpu.operands(ROWS, "both") == ("digits", "parts")
    assert gpu.operands(half, "both") == (None,)


def test_nothing_is_copied_where_no_peer_asks() -> None:
    data = gpu_cases.draw(gpu_cases.Case(50, 8, torch.uint8, (2,)), torch.device("cpu"))
    contest = Comparison(data, (OURS,), print, centre=lambda *_: pytest.fail("copied"))
    assert list(contest.velocities) == [OURS]


def test_a_row_says_what_ran() -> None:
    device = torch.device("cpu")
    used = []
    for operand in gpu.operands(ROWS, "both"):
        with scored_with(operand):
            used.append(gpu.operand_used(ROWS, 64, device))
    assert used == ["digits", "parts"]
    assert gpu.operand_used(gpu_cases.Case(1000, 16, torch.uint8, (64,)), 64, device) == "parts"


def test_three_bytes_of_a_query_take_less_than_two_parts() -> None:
    rates = Rates(1e12, 1e15, "copy", "product")
    parts, digits = (rates.floor(gpu.need_of(ROWS, 64, operand)) for operand in ("parts", "digits"))
    assert parts.read_ms == digits.read_ms == pytest.approx(1e3 * 784_000 / 1e12)
    assert parts.products_ms == pytest.approx(1e3 * 2 * 4 * 64 * 784_000 / 1e15)
    assert digits.products_ms == pytest.approx(3.5 / 4 * parts.products_ms)
