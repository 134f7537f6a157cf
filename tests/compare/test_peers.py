"""Peers answer what the engine answers, or say that they cannot."""

from __future__ import annotations

import pytest
import torch
from truth_cases import exact_velocity

from oracle_engine import OracleDataset, OracleEngine, load_dataset
from oracle_engine.compare.peers import (
    CLASSES,
    NUMPY,
    TORCH,
    Centred,
    UnavailableError,
    build_peer,
    default_peers,
    numpy_peers,
)
from oracle_engine.compare.truth import BAR, relative_error
from oracle_engine.compare.workloads import LABELLED, Workload

CPU = torch.device("cpu")

# the others need a compiler, another device or more digits than they have
EXACT = ("eager", "eager-columns", "eager-transposed", "sdpa", *NUMPY)


@pytest.fixture(scope="module")
def digits() -> OracleDataset:
    return load_dataset("digits", count=900)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for NumPy, the last of them short."""
    monkeypatch.setattr(numpy_peers, "CACHED_BYTES", 64 << 10)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("t", [0.05, 0.5, None])
def test_a_peer_meets_the_bar(
    digits: OracleDataset, name: str, t: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks, the last of them short
    monkeypatch.setattr(numpy_peers, "CACHED_BYTES", 64 << 10)
    batch = Workload(digits, 7, t).draw()
    answer = build_peer(name, Centred.of(digits))(batch.x, batch.t)
    assert answer.shape == batch.x.shape
    assert relative_error(answer, exact_velocity(digits, batch)) <= BAR


def test_numpy_is_a_peer_on_the_cpu_alone() -> None:
    assert set(NUMPY) <= set(default_peers(CPU))
    assert not set(NUMPY) & set(default_peers(torch.device("cuda")))
    assert set(default_peers(CPU)) <= {*TORCH, *NUMPY}


@pytest.fixture(scope="module")
def classes() -> OracleDataset:
    """Classes of other sizes, one of them of a single sample, with names that leave gaps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([7] + [2] * 30 + [5] * 11 + [40] * 58)[torch.randperm(100, generator=generator)]
    return OracleDataset(torch.randn(100, 12, generator=generator), labels)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_peer_agrees_with_the_engine(classes: OracleDataset, name: str) -> None:
    peer, engine = build_peer(name, Centred.of(classes)), OracleEngine(classes)
    # batches of two sizes: memory is kept from one to the next
    for size in (40, 3):
        batch = Workload(classes, size, 0.3, LABELLED).draw()
        assert batch.labels is not None
        truth = exact_velocity(classes, batch)
        for answer in (
            peer(batch.x, batch.t, **batch.conditions),
            engine.velocity(batch.x, batch.t, **batch.conditions),
        ):
            assert relative_error(answer, truth) <= BAR


def test_a_class_peer_needs_classes(digits: OracleDataset) -> None:
    plain = OracleDataset(digits[:])
    for name in CLASSES:
        with pytest.raises(UnavailableError, match="no labels"):
            build_peer(name, Centred.of(plain))
