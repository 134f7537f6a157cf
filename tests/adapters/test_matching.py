"""A matcher that pairs noise and data independently gets targets that are the mean of its own; others are refused."""

from __future__ import annotations

from typing import Any

import other_libraries
import pytest
import torch
from adapter_cases import assert_is_projection, small_images
from closed_form import normal
from flow_matching.path import CondOTProbPath
from other_libraries import MATCHERS
from scipy.optimize import linear_sum_assignment

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.adapters import OracleMatcher, matcher_path, with_oracle

KINDS = ["ConditionalFlowMatcher", "TargetConditionalFlowMatcher", "VariancePreservingConditionalFlowMatcher"]


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return small_images(generator)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", MATCHERS, ids=lambda library: library.__name__.split(".")[0])
def test_the_target_of_a_matcher_is_the_mean_of_its_conditional_targets(
    library: Any, kind: str, sigma: float, generator: torch.Generator
) -> None:
    matcher = getattr(library, kind)(sigma=sigma)
    data = OracleDataset(1 + 2 * normal(12, 2, generator))
    oracle = OracleMatcher(matcher, OracleEngine(data, matcher_path(matcher)))
    x1 = data[torch.randint(12, (4000,), generator=generator)]
    x0, t = (
        torch.randn(4000, 2, generator=generator, dtype=torch.float64),
        torch.rand(4000, generator=generator).double(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        times, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1, t)
        torch.manual_seed(0)
        again, same, target = oracle.sample_location_and_conditional_flow(x0, x1, t)
    assert torch.equal(times, again)
    assert torch.equal(xt, same)
    assert not torch.equal(ut, target)
    assert_is_projection(target, ut, xt)


def test_a_matcher_is_replaced_in_one_line(data: OracleDataset) -> None:
    matcher = other_libraries.ConditionalFlowMatcher(sigma=0.0)
    oracle = OracleMatcher(matcher, OracleEngine(data))
    assert oracle.sigma == 0.0
    x1, labels = data[torch.arange(20)].float(), torch.arange(20) % 4
    t, xt, ut, eps = oracle.sample_location_and_conditional_flow(torch.randn_like(x1), x1, None, True, labels=labels)
    assert torch.equal(ut, OracleEngine(data).velocity(xt, t, labels=labels))
    assert ut.dtype == torch.float32
    assert eps.shape == x1.shape


@pytest.mark.parametrize(
    "kind", ["ExactOptimalTransportConditionalFlowMatcher", "SchrodingerBridgeConditionalFlowMatcher"]
)
@pytest.mark.parametrize("library", MATCHERS, ids=lambda library: library.__name__.split(".")[0])
def test_couplings_without_a_closed_form_are_refused(library: Any, kind: str, data: OracleDataset) -> None:
    matcher = getattr(library, kind)(sigma=1.0)
    with pytest.raises(InputError, match=f"must pair noise and data independently.*batch size.*received {kind}"):
        OracleMatcher(matcher, OracleEngine(data))


def test_pairs_made_by_optimal_transport_are_found_out(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x_1 = data[torch.randint(40, (32,), generator=generator)]
    x_0, t = torch.randn(x_1.shape, generator=generator, dtype=torch.float64), torch.rand(32, generator=generator)
    order = linear_sum_assignment(torch.cdist(x_1.flatten(1), x_0.flatten(1)).square().numpy())[1]
    paired = CondOTProbPath().sample(x_0=x_0[order], x_1=x_1, t=t.double())
    matcher = OracleMatcher(other_libraries.ConditionalFlowMatcher(), engine)
    with pytest.raises(InputError, match=r"`x0` must pair noise and data independently.*correlated by \d+ standard"):
        with_oracle(paired, engine)
    with pytest.raises(InputError, match="`x0` must pair noise and data independently"):
        matcher.sample_location_and_conditional_flow(x_0[order], x_1)
    with_oracle(CondOTProbPath().sample(x_0=x_0, x_1=x_1, t=t.double()), engine)
    matcher.sample_location_and_conditional_flow(x_0, x_1)


def test_matchers_that_do_not_fit_are_refused(data: OracleDataset) -> None:
    class Own(other_libraries.ConditionalFlowMatcher):
        pass

    engine, x1 = OracleEngine(data), data[torch.arange(20)]
    with pytest.raises(InputError, match=r"`matcher` must be one of ConditionalFlowMatcher.*received Own"):
        OracleMatcher(Own(), engine)
    with pytest.raises(InputError, match=r"`engine` must be on the path of the matcher.*matcher_path\(matcher\)"):
        OracleMatcher(other_libraries.ConditionalFlowMatcher(0.5), engine)
    oracle = OracleMatcher(other_libraries.ConditionalFlowMatcher(), engine)
    with pytest.raises(InputError, match=r"`x0` must be standard normal noise; received a mean square of 0\.[23]"):
        oracle.sample_location_and_conditional_flow(torch.rand_like(x1), x1)
