from __future__ import annotations

import torch

from oracle_engine.base.calls.early import EarlyNumber


def test_a_number_is_read() -> None:
    assert EarlyNumber(torch.tensor([7])).read() == 7
