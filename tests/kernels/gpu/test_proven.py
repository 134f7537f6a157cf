"""Kernels answer by themselves only on GPUs on which their tests have passed."""

from __future__ import annotations

import pytest
import torch

from oracle_engine.kernels.gpu import proven_card


def test_late_answers_have_kernels_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("ORACLE_BACKEND", raising=False)
    assert proven_card(card, "scans")
    assert not proven_card(card, "late")
    monkeypatch.setenv("ORACLE_BACKEND", "triton")
    assert proven_card(card, "late")
    assert not proven_card(torch.device("cpu"), "late")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert not proven_card(card, "late")
