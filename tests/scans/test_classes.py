"""Classes are answered as class by class, in one native scan of all of them whatever queries ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_form import clusters, normal
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import Guidance, OracleDataset, OracleEngine, path_sample
from oracle_engine.kernels import native_library, posterior_state, segments_state
from oracle_engine.kernels.native.scan import NativeScan
from oracle_engine.scans.backends import BACKENDS

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

COUNT, DIM, CLASSES, BATCH = 600, 80, 40, 24


@pytest.fixture(params=[torch.float32, torch.uint8], ids=str)
def data(generator: torch.Generator, request: pytest.FixtureRequest) -> OracleDataset:
    """Weighted samples of many classes, a few without one."""
    labels = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    points = clusters(COUNT, DIM, generator)
    if request.param == torch.uint8:
        points = (points * 20 + 128).clamp(0, 255)
    return OracleDataset(points.to(request.param), labels, weights)


@pytest.fixture
def queries(data: OracleDataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Queries made from the first samples, at early and late times."""
    t = torch.tensor([0.02, 0.3, 0.5, 0.7, 0.9, 0.97], dtype=torch.float64).repeat(BATCH // 6)
    return path_sample("rectified_flow", data[:BATCH].double(), normal(BATCH, DIM, generator), t), t


def conditions(data: OracleDataset, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Return what queries may ask for: a class, none, a union of some, without their sample, guided."""
    assert data.labels is not None
    some, own = data.labels.clamp_min(0).unique(), data.labels[:BATCH]
    unions = some[torch.rand(BATCH, len(some), generator=generator).argsort(1)[:, :4]]
    unions[torch.rand(unions.shape, generator=generator) < 0.4] = -1
    return {
        "classes": {"labels": own},
        "unions": {"labels": unions},
        "without their samples": {"labels": unions, "exclude": torch.arange(BATCH)},
        "guided": {"labels": own, "guidance": Guidance(2.0, t_min=0.2, t_max=0.8)},
    }


@pytest.mark.parametrize("name", ["classes", "unions", "without their samples", "guided"])
def test_answers_are_those_of_one_class_after_the_other(
    data: OracleDataset, queries: tuple[Tensor, Tensor], generator: torch.Generator, name: str
) -> None:
    asked = conditions(data, generator)[name]
    native, reference = (OracleEngine(data, backend=backend) for backend in ("native", "reference"))
    assert_rows_close(native.velocity(*queries, **asked), reference.velocity(*queries, **asked), "bar")
    if "guidance" in asked:
        return
    found, true = (engine.posterior(*queries, top_k=3, **asked) for engine in (native, reference))
    for part in ("log_density", "entropy", "ess"):
        assert_close(getattr(found, part), getattr(true, part), "moment")
    assert torch.equal(found.top_indices < 0, true.top_indices < 0)
    assert_close(found.top_weights, true.top_weights, "moment")


@pytest.mark.parametrize("name", ["classes", "unions", "without their samples", "guided"])
def test_one_native_scan_answers_all_classes(
    data: OracleDataset,
    queries: tuple[Tensor, Tensor],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    called: list[str] = []
    call = NativeScan._call

    def recorded(self: NativeScan, function: str, *arguments: object) -> None:
        called.append(function)
        call(self, function, *arguments)

    monkeypatch.setattr(NativeScan, "_call", recorded)
    OracleEngine(data, backend="native").velocity(*queries, **conditions(data, generator)[name])
    # guided queries need everybody else, too
    assert called.count("oracle_scan_segments") == 1
    assert called.count("oracle_scan") == (name == "guided")


def test_half_precision_and_other_backends_go_span_by_span() -> None:
    backend = BACKENDS["native"]
    assert backend.scanner("full").segments is segments_state
    assert replace(backend, half=posterior_state).scanner("half").segments is not segments_state
    assert replace(backend, segments=None).scanner("full").segments is not segments_state


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("distance", [1e6, 1e7, 1e9, 1e30, 1e100])
def test_queries_far_away_have_the_answers_of_the_reference(
    generator: torch.Generator, distance: float, labelled: bool
) -> None:
    # one place of their logits is many nats
    labels = torch.arange(40) % 4
    data = OracleDataset(normal(40, 24, generator).double(), labels)
    x = distance * normal(BATCH, 24, generator).double()
    asked = {"labels": labels[:BATCH]} if labelled else {}
    for t in (0.5, 0.999):
        found, expected = (OracleEngine(data, backend=name).velocity(x, t, **asked) for name in ("native", "reference"))
        assert_rows_close(found, expected, "bar")
