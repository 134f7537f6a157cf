"""Numbers keep their digits whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from oracle_engine.base.arrays import exact, integers, on_device

CPU = torch.device("cpu")
LATE = 0.999999


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (LATE, torch.float64),
        ([LATE], torch.float64),
        ((LATE, 1), torch.float64),
        ([[LATE], [1]], torch.float64),
        ([[LATE, 1], (0, 1)], torch.float64),
        ([np.float64(LATE), 1], torch.float64),
        ([np.float32(LATE)], torch.float32),
        (np.float64(LATE), torch.float64),
        (np.float32(LATE), torch.float32),
        (np.longdouble(LATE), torch.float64),
        (np.array([LATE], "<f4"), torch.float32),
        (np.array([LATE], ">f8"), torch.float64),
        (np.array([LATE], ">f2"), torch.float16),
        (np.array([LATE, 1.0, 2.0])[::-1], torch.float64),
        (np.broadcast_to(np.array(LATE), (3,)), torch.float64),
        ([torch.tensor(LATE), torch.tensor(1.0)], torch.float32),
        ([torch.tensor(LATE), LATE], torch.float64),
        (3, torch.int64),
        (True, torch.bool),
        ([True, False], torch.bool),
        ([True, 2], torch.int64),
        (range(3), torch.int64),
        ([], torch.int64),
        ([np.int32(3)], torch.int32),
        (np.array([1, 2], ">i4"), torch.int32),
        (np.array([1, 2], ">u2"), torch.uint16),
        (torch.tensor([LATE]), torch.float32),
        (torch.tensor([LATE]).bfloat16(), torch.bfloat16),
    ],
)
def test_every_container_keeps_the_digits_it_has(value: Any, dtype: torch.dtype) -> None:
    found = on_device(value, CPU)
    assert found.dtype == dtype
    held = value.double() if isinstance(value, torch.Tensor) else value
    assert found.tolist() == np.asarray(held, dtype=np.float64).tolist()
    assert exact(value).tolist() == found.double().tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from([list, tuple, np.array, "column"]))
def test_python_floats_are_float64_everywhere(numbers: list[float], container: Any) -> None:
    held = [[number] for number in numbers] if container == "column" else container(numbers)
    assert on_device(held, CPU).reshape(-1).tolist() == numbers


@pytest.mark.parametrize(
    "value",
    ["0.5", None, {}, {0.5}, object(), [None], [0.1, None], ["a"], np.array(["a"]), [[1, 2], [3]], 2**64, [2**64],
     [torch.zeros(2), torch.zeros(3)], np.array([None]),
     np.ma.array([1, 2], mask=[False, True]), np.zeros(2, dtype=[("a", "f4")]), np.array(["2020"], "M8")],
)  # fmt: skip
def test_what_is_no_number_is_refused(value: Any) -> None:
    with refused(r"`t` must be a number, a tensor, an array or a list of numbers; received \w+ \("):
        on_device(value, CPU, "t")


def test_whole_numbers_are_int64() -> None:
    for value in (
        [3, 1],
        (3, 1),
        np.array([3, 1], ">u4"),
        torch.tensor([3, 1], dtype=torch.uint8),
        torch.tensor([3, 1]),
    ):
        found = integers("labels", value, CPU, "pass labels.long()")
        assert (found.dtype, found.tolist()) == (torch.int64, [3, 1])
    refusals: list[Any] = [[0.0], [True], torch.zeros(2), torch.zeros(2, dtype=torch.complex64)]
    for value in refusals:
        with refused("`labels` must be integers; received torch"):
            integers("labels", value, CPU, "pass labels.long()")
    with refused(r"`labels` must be integers below 2\^63; received a larger one"):
        integers("labels", np.array([2**63], dtype=np.uint64), CPU, "pass labels.long()")
