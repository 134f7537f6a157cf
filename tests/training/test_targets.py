"""Targets are the oracle of what the loop draws: in every prediction, with mirror images, without the own sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from target_cases import PREDICTIONS, TIMES, doubled, pictures, queries
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import (
    Flip,
    Guidance,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    conditional_target,
    drop_labels,
    path_sample,
)
from oracle_engine.paths.paths import PATHS
from oracle_engine.training.conditional import PredictionName


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_target_is_the_oracle(prediction: PredictionName, dtype: torch.dtype, generator: torch.Generator) -> None:
    engine = OracleEngine(pictures(20, generator))
    x, labels = queries(engine.data, generator)[1].to(dtype).requires_grad_(), torch.tensor([0, -1, 2, 1])
    guidance = Guidance(2.0, t_max=0.5)
    target = OracleTarget(engine, prediction, guidance=guidance)(x, TIMES, labels)
    assert torch.equal(target, getattr(engine, prediction)(x, TIMES, labels=labels, guidance=guidance))
    assert (target.dtype, target.shape, target.requires_grad) == (dtype, x.shape, False)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_estimates_go_through_the_same_conversions(
    prediction: PredictionName, width: float, generator: torch.Generator
) -> None:
    engine = OracleEngine(pictures(20, generator), "gvp", point_std=width, backend="reference")
    x, labels = queries(engine.data, generator)[1], torch.tensor([0, -1, 2, 1])
    direct = OracleTarget(engine, prediction, guidance=3.0)
    # a flip that changes nothing goes by way of means and densities
    same = OracleTarget(engine, prediction, guidance=3.0, augmentation=_Nothing())
    assert_rows_close(same(x, TIMES, labels), direct(x, TIMES, labels), "float64")


class _Nothing(Flip):
    def apply(self, x: Tensor) -> Tensor:
        return x


@given(st.sampled_from(sorted(PATHS)), st.floats(0.01, 0.95), st.integers(1, 3))
def test_predictions_of_one_sample_agree_with_each_other(path: str, t: float, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    x1, eps = (torch.randn(batch, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    x = path_sample(path, x1, eps, t)
    single = OracleEngine(OracleDataset(x1[:1]), path, backend="reference")
    for prediction in PREDICTIONS:
        conditional = conditional_target(path, x1[:1], eps[:1], t, prediction=prediction)
        assert_rows_close(conditional, getattr(single, prediction)(x[:1], t), "float64")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("flip", [Flip(), Flip((-2, -1), 0.2)])
def test_a_flip_is_the_data_set_with_its_mirror_images(
    prediction: PredictionName, width: float, flip: Flip, generator: torch.Generator
) -> None:
    data = pictures(20, generator)
    x, labels = queries(data, generator)[1], torch.tensor([0, -1, 2, 1])
    stored = OracleEngine(doubled(data, flip), point_std=width)
    target = OracleTarget(OracleEngine(data, point_std=width), prediction, augmentation=flip)
    assert_rows_close(target(x, TIMES), getattr(stored, prediction)(x, TIMES), "bar")
    assert_rows_close(target(x, TIMES, labels), getattr(stored, prediction)(x, TIMES, labels=labels), "bar")
    guided = OracleTarget(target.engine, prediction, augmentation=flip, guidance=2.5)
    expected = getattr(stored, prediction)(x, TIMES, labels=labels, guidance=2.5)
    assert_rows_close(guided(x, TIMES, labels), expected, "bar")


def test_a_flip_of_bytes_needs_no_stored_copies(generator: torch.Generator) -> None:
    points = torch.randint(256, (40, 3, 4, 4), generator=generator, dtype=torch.uint8)
    x = torch.randn(4, 3, 4, 4, generator=generator)
    twice = OracleEngine(OracleDataset(torch.cat([points, points.flip(-1)])))
    target = OracleTarget(OracleEngine(OracleDataset(points)), augmentation=Flip())
    assert_rows_close(target(x, TIMES), twice(x, TIMES), "bar")


def test_leaving_one_out_leaves_out_its_mirror_image(generator: torch.Generator) -> None:
    data, flip = pictures(20, generator), Flip()
    source, x = queries(data, generator)
    target = OracleTarget(OracleEngine(data), leave_one_out=True, augmentation=flip)
    rest = OracleEngine(doubled(data, flip, without=7))
    assert_rows_close(target(x, TIMES, source=7), rest(x, TIMES), "bar")
    single = OracleTarget(OracleEngine(data), leave_one_out=True)
    source[1] = -1
    assert torch.equal(single(x, TIMES, source=source), OracleEngine(data)(x, TIMES, exclude=source))


def test_dropped_labels_ask_for_no_class(generator: torch.Generator) -> None:
    labels = torch.arange(4000) % 3
    dropped = drop_labels(labels, 0.25, generator)
    assert bool(((dropped == labels) | (dropped == -1)).all())
    assert float((dropped == -1).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop_labels(labels, 0.0), labels)
    assert bool((drop_labels(labels[:, None].expand(-1, 2), 1.0) == -1).all())
    with refused("`probability` must lie in"):
        drop_labels(labels, 1.5)
    engine = OracleEngine(pictures(20, generator))
    x = torch.randn(4, 2, 3, generator=generator)
    mixed = OracleTarget(engine)(x, 0.3, torch.tensor([0, -1, 2, -1]))
    assert torch.equal(mixed[[1, 3]], engine(x, 0.3)[[1, 3]])
