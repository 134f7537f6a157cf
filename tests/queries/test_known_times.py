"""What the host knows of times is what the coefficients at these times say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from oracle_engine import paths
from oracle_engine.base.calls import checked
from oracle_engine.paths.paths import coefficients
from oracle_engine.paths.predictions import marginal_variance
from oracle_engine.queries.known_times import KnownTimes, host_times


@pytest.mark.parametrize("path", [paths.RectifiedFlow(), paths.VP()], ids=str)
@pytest.mark.parametrize("point_std", [0.0, 0.3])
def test_the_largest_ratio_is_that_of_the_coefficients(path: Any, point_std: float) -> None:
    times = torch.tensor([0.2, 0.95, 0.5], dtype=torch.float64)
    at = coefficients(path, times.clamp_max(0.9))
    expected = float((at.alpha_t.square() / marginal_variance(at, point_std)).max())
    for t in (times.float()[:, None], 0.95):
        assert KnownTimes(path, t, 0.9, point_std).largest_snr() == pytest.approx(expected, rel=1e-12)


def test_times_without_noise_have_an_infinite_ratio() -> None:
    for t in (1.0, torch.tensor(1.0)):
        assert KnownTimes(paths.RectifiedFlow(), t, None, 0.0).largest_snr() == math.inf


def test_numbers_are_known_before_times_on_a_device_are(monkeypatch: pytest.MonkeyPatch) -> None:
    times = torch.full((3,), 0.5, dtype=torch.float64)
    assert host_times(0.5, times) is None
    monkeypatch.setattr(checked, "on_host", lambda values: values is not times)
    assert host_times(0.5, times) == 0.5
    assert host_times(1, times) == 1.0
    here = torch.tensor([0.5])
    assert torch.equal(torch.as_tensor(host_times(here, times)), here)
    # these are refused, or of another device
    for t in (1.5, math.nan, times):
        assert host_times(t, times) is None
