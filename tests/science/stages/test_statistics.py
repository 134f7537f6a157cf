"""Statistics of the two stages: identities that hold for training queries, classes, held-out queries, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from tolerances import TOLERANCES, assert_close

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.base.seeds import seeded
from oracle_engine.science.stages.analysis import analyse
from oracle_engine.science.stages.run import StageRun
from oracle_engine.science.stages.scope import Scope, StageQueries
from oracle_engine.science.transition import grid_where_it_changes

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")

TIMES = [0.1, 0.25, 0.4, 0.6]


def labelled(generator: torch.Generator, count: int = 90) -> OracleDataset:
    points = torch.randn(count, 6, generator=generator).double()
    return OracleDataset(points, torch.arange(count) % 3)


def test_identities_of_training_queries_hold_within_their_errors(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randn(60, 6, generator=generator), weights=torch.rand(60, generator=generator) + 0.1)
    report = analyse(OracleEngine(data, "gvp", point_std=0.2), times=TIMES, queries=600)
    for point in report.points:
        assert point.nishimori is not None
        assert point.nishimori_error is not None
        assert point.velocity_gap_error is not None
        errors = TOLERANCES["standard errors"].value
        assert abs(point.nishimori) <= errors * point.nishimori_error
        assert abs(point.velocity_gap - point.velocity_variance) <= errors * point.velocity_gap_error


@pytest.mark.parametrize("labels", [[1], [0, 2]])
def test_classes_are_the_data_set_of_their_samples(labels: list[int], generator: torch.Generator) -> None:
    data = labelled(generator)
    assert data.labels is not None
    chosen = torch.isin(data.labels, torch.tensor(labels))
    alone = OracleDataset(data[:][chosen], data.labels[chosen])
    found = analyse(OracleEngine(data), times=TIMES, queries=30, labels=labels, per_class=len(labels) == 1)
    wanted = analyse(OracleEngine(alone), times=TIMES, queries=30)
    for point, other in zip(found.points, wanted.points, strict=True):
        assert point.top_weight == pytest.approx(other.top_weight, rel=1e-6)
        assert point.ess_quantiles == pytest.approx(other.ess_quantiles, rel=1e-6)
        assert point.own_weight == pytest.approx(other.own_weight, rel=1e-5)
    assert found.predicted.anisotropic == pytest.approx(wanted.predicted.anisotropic, rel=1e-6)
    assert found.population == len(alone)


def test_each_query_is_compared_with_its_own_class(generator: torch.Generator) -> None:
    engine = OracleEngine(labelled(generator))
    queries = StageQueries.drawn(Scope(engine.data, per_class=True), 20, 0)
    run = StageRun(engine, [0.3], queries, 5).measure(8)
    assert queries.rows is not None
    values, noises = engine.data.sample_values(queries.rows), seeded(5)
    noise = torch.cat([torch.randn(size, 6, generator=noises, dtype=torch.float64) for size in (8, 8, 4)])
    posterior = engine.posterior(0.3 * values + 0.7 * noise, 0.3, labels=queries.classes)
    assert_close(run.statistics["ess"][0], posterior.ess, "float64")
    assert run.statistics["class_mass"].isnan().all()


def test_class_mass_and_own_weight_are_posterior_weights(generator: torch.Generator) -> None:
    engine = OracleEngine(labelled(generator))
    queries = StageQueries.drawn(Scope(engine.data), 20, 0)
    run = StageRun(engine, [0.3], queries, 5).measure(20)
    assert queries.rows is not None
    assert queries.classes is not None
    assert engine.data.labels is not None
    noise = torch.randn(20, 6, generator=seeded(5), dtype=torch.float64)
    x = 0.3 * engine.data.sample_values(queries.rows) + 0.7 * noise
    posterior = engine.posterior(x, 0.3, top_k=90)
    same = engine.data.labels[posterior.top_indices] == queries.classes[:, None]
    assert_close(run.statistics["class_mass"][0], (posterior.top_weights * same).sum(1), "moment")
    own = posterior.top_indices == engine.data.index_of(queries.rows)[:, None]
    assert_close(run.statistics["own_weight"][0], (posterior.top_weights * own).sum(1), "moment")


def test_held_out_queries_have_no_own_sample_and_a_wider_gap(generator: torch.Generator) -> None:
    engine = OracleEngine(labelled(generator))
    report = analyse(engine, times=[0.6, 0.9], held_out=torch.randn(40, 6, generator=generator))
    assert (report.queries, report.held_out, report.points[0].own_share) == (40, True, None)
    assert report.strip is not None
    assert set(report.strip.sources) == {-1}
    assert all(point.velocity_gap > point.velocity_variance for point in report.points)
    assert "held-out" in report.format_table()
    with pytest.raises(InputError, match="held_out_labels"):
        analyse(engine, held_out=torch.zeros(2, 6), per_class=True)
    with pytest.raises(InputError, match="held_out"):
        analyse(engine, held_out=torch.zeros(2, 5))


def test_errors_of_the_transition_are_its_spread_over_seeds(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(100, 16, generator=generator)))
    times = torch.linspace(0.2, 0.8, 7).tolist()
    reports = [analyse(engine, times=times, queries=32, seed=seed, strip=1, strip_times=1) for seed in range(6)]
    found = torch.tensor([report.measured.top_weight_50 or math.nan for report in reports])
    told = torch.tensor([report.errors.top_weight_50 or math.nan for report in reports]).mean()
    assert 0.4 < float(told / found.std()) < 2.5
    assert analyse(engine, times=times, queries=1).errors.top_weight_50 is None


def test_queries_are_added_until_the_transition_is_known(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(100, 16, generator=generator)))
    report = analyse(engine, times=[0.2, 0.4, 0.5, 0.6, 0.8], queries=24, precision=0.008)
    assert report.queries > 24
    assert report.errors.ess_2 is not None
    assert report.errors.ess_2 < 0.008
    with pytest.raises(InputError, match="precision"):
        analyse(engine, precision=0.0)
    with pytest.raises(InputError, match="precision"):
        analyse(engine, precision=0.1, held_out=torch.zeros(2, 16))
    with pytest.warns(UserWarning, match="after 64 queries the transition is not yet known"):
        analyse(engine, times=[0.2], queries=1, precision=0.1)


def test_most_times_lie_where_the_posterior_narrows() -> None:
    grid = grid_where_it_changes([0.01, 0.2, 0.3, 0.99], [0.0, 0.0, 1.0, 1.0], 24)
    assert (grid[0], grid[-1]) == (0.01, 0.99)
    assert sum(0.19 < t < 0.31 for t in grid) >= 16
    assert len(grid_where_it_changes([0.1, 0.9], [1.0, 1.0], 5)) == 5


def test_copies_explain_why_the_transition_is_later_than_predicted(generator: torch.Generator) -> None:
    points = torch.randn(50, 64, generator=generator)
    near = torch.cat([points, points + 0.05 * torch.randn(50, 64, generator=generator)])
    independent, copies = (analyse(OracleEngine(OracleDataset(part)), queries=48) for part in (points, near))
    assert independent.neighbour_ratio is not None
    assert copies.neighbour_ratio is not None
    assert 0.7 < independent.neighbour_ratio < 1.1
    assert copies.neighbour_ratio < 0.1
    assert "overlap" in copies.format_table()
    assert "prediction is" not in independent.format_table()


def test_classes_that_the_data_lack_are_refused(generator: torch.Generator) -> None:
    engine = OracleEngine(labelled(generator))
    with pytest.raises(InputError, match=r"labels.*must be classes of the data, classes 0 \.\. 2; received \[7\]"):
        analyse(engine, labels=[7])
    with pytest.raises(InputError, match="per_class"):
        analyse(OracleEngine(OracleDataset(torch.zeros(3, 2))), per_class=True)
