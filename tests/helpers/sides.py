"""Where tests of CUDA run: on a card at real sizes, in small on the CPU and in Triton's interpreter."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from oracle_engine import OracleDataset, OracleEngine

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Side:
    """A device, a backend, and whether sizes are those of real data."""

    device: torch.device
    backend: str

    @property
    def real(self) -> bool:
        return self.device.type == "cuda"

    def size(self, real: int, small: int) -> int:
        """Return how large something is here."""
        return real if self.real else small

    def engine(self, data: OracleDataset) -> OracleEngine:
        """Return the engine under test."""
        return OracleEngine(data, device=self.device, backend=self.backend)

    def truth(self, data: OracleDataset) -> OracleEngine:
        """Return the engine of the float64 reference."""
        return OracleEngine(data, device=self.device, backend="reference")

    def generator(self) -> torch.Generator:
        """Return a generator on the device, with the same seed in every test."""
        return torch.Generator(self.device).manual_seed(20251202)


NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")


def sides() -> list[ParameterSet]:
    """Return where to run; in CI the torch backend stands for the others, and the interpreter has its own process."""
    if INTERPRETED:
        return [pytest.param(Side(torch.device("cpu"), "triton"), id="interpreter")]
    places = [pytest.param(Side(torch.device("cpu"), "torch"), id="cpu-torch")]
    return places + ([card_side("triton"), card_side("torch")] if torch.cuda.is_available() else [])


def card_side(backend: str) -> ParameterSet:
    """Return a card with this backend, skipped where there is none."""
    return pytest.param(Side(torch.device("cuda"), backend), id=f"cuda-{backend}", marks=[pytest.mark.gpu, NO_CARD])
