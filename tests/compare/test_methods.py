"""Methods in use elsewhere answer what their formula says: exactly, or from the samples that they look at."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from truth_cases import exact_velocity

from oracle_engine import OracleDataset, load_dataset
from oracle_engine.compare.peers import Centred, UnavailableError, methods
from oracle_engine.compare.peers.libraries import ideal_denoiser, kernel_density
from oracle_engine.compare.peers.methods import METHODS, difference_tensor, mean_of_chunks
from oracle_engine.compare.peers.nearest import FLAT, HNSW, IVF, nearest_peer
from oracle_engine.compare.truth import BAR, log_density_of, relative_error
from oracle_engine.compare.workloads import Batch, Workload


@pytest.fixture(scope="module")
def digits() -> OracleDataset:
    return load_dataset("digits", count=900)


def only(data: OracleDataset, rows: Tensor, batch: Batch) -> Tensor:
    """Return the exact velocity over some of the rows alone."""
    chosen = data.rows.stored[rows].reshape(-1, *data.sample_shape)
    return exact_velocity(OracleDataset(chosen, value_map=data.value_map), batch)


@pytest.mark.parametrize("t", [0.1, 0.6, 0.95])
def test_differences_of_all_pairs_are_exact(digits: OracleDataset, t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # pieces of two queries, the last of one
    monkeypatch.setattr(methods, "HELD", 2 * 4 * len(digits) * digits.dim)
    batch = Workload(digits, 5, t).draw()
    assert relative_error(difference_tensor(Centred.of(digits)).velocity(batch), exact_velocity(digits, batch)) <= BAR


def test_differences_that_no_memory_holds_are_refused(digits: OracleDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "memory_bytes", lambda: 1000)
    with pytest.raises(UnavailableError, match="one query need"):
        difference_tensor(Centred.of(digits))


def test_chunks_count_alike_whatever_they_weigh(digits: OracleDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "CHUNK", 300)
    batch = Workload(digits, 4, 0.5).draw()
    parts = torch.stack([only(digits, rows, batch) for rows in torch.arange(900).split(300)])
    # the velocity is linear in the mean
    assert relative_error(mean_of_chunks(Centred.of(digits)).velocity(batch), parts.mean(0)) <= BAR
    assert relative_error(parts.mean(0), exact_velocity(digits, batch)) > 0.01


@pytest.mark.parametrize("name", [name for name in METHODS if name != "mean-of-chunks"])
@pytest.mark.parametrize("t", [0.3, 0.9])
def test_an_estimate_is_the_oracle_of_its_candidates(digits: OracleDataset, name: str, t: float) -> None:
    method = METHODS[name](Centred.of(digits))
    batch = Workload(digits, 4, t).draw()
    rows = method.candidates(batch)
    assert rows.shape[0] == 4
    truth = torch.cat([only(digits, rows[one], batch[one : one + 1]) for one in range(4)])
    assert relative_error(method.velocity(batch), truth) <= BAR


def test_candidates_are_what_the_papers_take(digits: OracleDataset) -> None:
    centred, batch = Centred.of(digits), Workload(digits, 4, 0.9).draw()
    assert batch.source is not None
    references = METHODS["reference-batch"](centred).candidates(batch)[0]
    assert set(digits.row_of(batch.source).tolist()) <= set(references.tolist())
    assert METHODS["fixed-200"](centred).candidates(batch).shape == (4, 200)
    nearest = METHODS["fixed-200"](centred).candidates(batch)[:, 0]
    distance = torch.cdist(batch.x.flatten(1), 0.9 * digits.sample_values(torch.arange(900)).flatten(1))
    assert torch.equal(nearest, distance.argmin(1))


@pytest.mark.parametrize("kind", [FLAT, IVF, HNSW])
def test_every_index_finds_the_samples_that_weigh_late(digits: OracleDataset, kind: str) -> None:
    pytest.importorskip("faiss")
    batch = Workload(digits, 8, 0.95).draw()
    peer = nearest_peer(kind, Centred.of(digits))
    assert relative_error(peer.velocity(batch), exact_velocity(digits, batch)) <= BAR
    assert peer.nearest(batch)[1].shape == (8, 100)


@pytest.mark.parametrize("t", [0.2, 0.9])
def test_the_density_of_scikit_learn_is_the_same(digits: OracleDataset, t: float) -> None:
    batch = Workload(digits, 6, t).draw()
    truth = log_density_of(digits, batch)[:, None]
    assert relative_error(kernel_density(digits)(batch), truth) <= BAR


class IdealDenoiser(nn.Module):
    """What the library says of its own: the noise in x = X + sigma eps, a softmax over all samples."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape[0] == len(x)
        distance = torch.cdist(x.flatten(1), self.samples.flatten(1)).square()
        mean = (-distance / 2 / sigma.reshape(-1, 1) ** 2).softmax(1) @ self.samples.flatten(1)
        return (x - mean.reshape_as(x)) / sigma


@pytest.mark.parametrize("t", [0.2, 0.8])
def test_the_ideal_denoiser_is_asked_in_its_own_terms(
    digits: OracleDataset, t: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("smalldiffusion")
    module.IdealDenoiser = IdealDenoiser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smalldiffusion", module)
    batch = Workload(digits, 5, t).draw()
    assert relative_error(ideal_denoiser(digits)(batch), exact_velocity(digits, batch)) <= BAR
