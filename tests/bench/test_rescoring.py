from __future__ import annotations

import pytest
import torch
from truth_cases import exact_velocity

from bench.comparison import Comparison
from bench.rescoring import without_rescoring
from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.compare.peers import UnavailableError
from oracle_engine.compare.record import OURS, OURS_COARSE
from oracle_engine.compare.truth import BAR, relative_error
from oracle_engine.compare.workloads import Workload


@pytest.fixture
def data() -> OracleDataset:
    """Near copies of few samples, whose coarse logits differ by less than their rounding."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(4, 256, generator=generator).repeat_interleave(50, 0)
    return OracleDataset(samples + 2e-3 * torch.randn(samples.shape, generator=generator))


def test_only_the_side_without_rescoring_misses_the_bar(data: OracleDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_BACKEND", "torch")
    velocities = Comparison(data, (OURS, OURS_COARSE), print).velocities
    batch = Workload(data, 16, 0.98).draw()
    truth = exact_velocity(data, batch)
    errors = {name: relative_error(velocity(batch.x, batch.t), truth) for name, velocity in velocities.items()}
    assert errors[OURS] <= BAR < errors[OURS_COARSE] < 0.1


def test_other_backends_have_no_side_without_rescoring(data: OracleDataset) -> None:
    with pytest.raises(UnavailableError, match="native and the torch backend"):
        without_rescoring(OracleEngine(data, backend="reference"))
