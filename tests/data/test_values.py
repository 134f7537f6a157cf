"""The map from stored numbers to values is stated, can be set by its range, and decides where the transition is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refused

from oracle_engine import DataFileError, OracleDataset, OracleEngine, ValueMap, analyse, load_dataset, stage_boundary
from oracle_engine.data.values import float_map, picture_layout, picture_range


@pytest.mark.parametrize(
    ("value_map", "dtype", "words"),
    [
        (ValueMap.default(torch.uint8), torch.uint8, "uint8 -> 2 x/255 - 1"),
        (ValueMap.default(torch.int8), torch.int8, "int8 -> x/127"),
        (ValueMap(), torch.float16, "float16 as stored"),
        (ValueMap(1 / 8, -1.0), torch.uint8, "uint8 -> x/8 - 1"),
        (ValueMap(0.18215), torch.float32, "float32 -> 0.18215 x"),
        (ValueMap(2.0, -1.0), torch.float32, "float32 -> 2 x - 1"),
        (ValueMap(1.0, 0.5), torch.float32, "float32 -> x + 0.5"),
        (ValueMap(1e-30), torch.float64, "float64 -> 1e-30 x"),
    ],
)
def test_a_map_is_said_in_words(value_map: ValueMap, dtype: torch.dtype, words: str) -> None:
    assert value_map.describe(dtype) == words


def test_the_repr_the_plan_and_the_report_state_map_and_range() -> None:
    points = torch.tensor([0, 255], dtype=torch.uint8).repeat(8, 32).reshape(8, 1, 8, 8)
    points[3] = 7
    data = OracleDataset(points)
    assert "uint8 -> 2 x/255 - 1 in [-1, 1]" in repr(data)
    values = 2.0 * points.double() / 255 - 1
    variance = float(values.var(0, correction=0).mean())
    words = f"uint8 -> 2 x/255 - 1, values in [-1, 1], variance per dimension {variance:.3g}"
    assert data.describe_values() == words
    plan = OracleEngine(data).plan(4)
    assert (plan.values, plan.note) == (words, None)
    assert words in str(plan)
    report = analyse(OracleEngine(data), times=[0.5], queries=4)
    assert words in report.format_table().splitlines()
    facts = report.to_json()["data"]
    assert (facts["values"], facts["value_range"], facts["note"]) == (words, [-1.0, 1.0], None)
    assert facts["value_map"] == [2 / 255, -1.0]
    assert facts["variance_per_dim"] == pytest.approx(variance)


@pytest.mark.parametrize("top", [1, 255])
def test_floats_that_look_like_pictures_get_a_note(top: int, generator: torch.Generator) -> None:
    pictures = torch.rand(20, 3, 8, 8, generator=generator) * top
    data = OracleDataset(pictures)
    note = f"the values look like pictures in [0, {top}]; most models are trained on [-1, 1]"
    assert data.value_note is not None
    assert data.value_note.startswith(note)
    engine = OracleEngine(data)
    assert f"note: {data.value_note}" in analyse(engine, times=[0.5], queries=4).format_table().splitlines()
    assert note in str(engine.plan(2))
    for other in (
        load_dataset(pictures, value_map=(-1, 1)),
        OracleDataset(pictures.flatten(1)),
        OracleDataset(-pictures),
    ):
        assert other.value_note is None


def test_ranges_of_pictures() -> None:
    assert picture_range((8, 8), 0.0, 1.0) == (0, 1)
    assert picture_range((3, 8, 8), 3.0, 254.0) == (0, 255)
    for shape, low, high in (
        ((3,), 0.0, 1.0),
        ((8, 8), -0.1, 1.0),
        ((8, 8), 0.0, 0.5),
        ((8, 8), 0.0, 1.5),
        ((2, 2), 0.0, 1.0),
    ):
        assert picture_range(shape, low, high) is None


RANGES: list[tuple[torch.Tensor, tuple[float, float]]] = [
    (torch.tensor([0, 51, 255], dtype=torch.uint8), (0.0, 255.0)),
    (torch.tensor([-127, 0, 127], dtype=torch.int8), (-127.0, 127.0)),
    (torch.tensor([0.0, 0.25, 1.0]), (0.0, 1.0)),
    (torch.tensor([-1.0, 0.25, 0.5]), (-1.0, 1.0)),
    (torch.tensor([0.0, 51.0, 250.0]), (0.0, 255.0)),
]


@pytest.mark.parametrize(("stored", "ends"), RANGES)
@pytest.mark.parametrize("wanted", [(-1, 1), (0, 1), (-0.5, 3.0)])
def test_a_pair_sets_the_values_of_the_ends(
    stored: torch.Tensor, ends: tuple[float, float], wanted: tuple[float, float]
) -> None:
    data = load_dataset(stored[:, None], value_map=wanted)
    share = (stored.double() - ends[0]) / (ends[1] - ends[0])
    expected = wanted[0] + (wanted[1] - wanted[0]) * share
    torch.testing.assert_close(data[:][:, 0].double(), expected, rtol=1e-6, atol=1e-6)


def test_the_range_of_digits_moves_their_transition() -> None:
    usual, narrow = (OracleEngine(load_dataset("digits", value_map=pair)) for pair in (None, (0, 1)))
    assert narrow.data.value_range == (0.0, 1.0)
    assert stage_boundary(usual) == pytest.approx(0.529, abs=0.005)
    assert stage_boundary(narrow) == pytest.approx(0.692, abs=0.005)


@pytest.mark.parametrize("given", [(1, -1), (0, float("nan")), (0, float("inf")), 3, "x", (1, 2, 3), (0, 0)])
def test_ranges_that_are_none_are_refused(given: Any, unchecked: None) -> None:
    with refused("`value_map` must be "):
        load_dataset(torch.zeros(3, 2, dtype=torch.uint8), value_map=given)


def test_floats_of_no_known_range_are_refused() -> None:
    with refused(re.escape("`value_map` can be a range where floats are stored in [0, 1], [-1, 1] or [0, 255]")):
        float_map(-3.0, 2.0)


def test_samples_that_are_not_finite_are_named_by_their_place(tmp_path: Path) -> None:
    points = np.ones((6, 3), np.float32)
    points[4, 1], points[5, 0] = np.nan, np.inf
    # the rows of a data set are sorted by label: the last sample would come first
    with refused("`points` must be finite; received a NaN or an infinity in sample 4"):
        OracleDataset(torch.from_numpy(points), torch.arange(6).flip(0))
    np.savez(tmp_path / "a.npz", x=points, labels=np.arange(6)[::-1])
    with pytest.raises(
        DataFileError, match=r"a\.npz: expected finite numbers; found a NaN or an infinity in sample 4\."
    ):
        load_dataset(tmp_path / "a.npz")
    with pytest.raises(DataFileError, match="sample 4"):
        load_dataset(tmp_path / "a.npz", count=5, seed=3)


def test_samples_whose_squares_overflow_are_refused() -> None:
    with refused(r"`points` must have norms below 1e\+38; received a sample of norm "):
        OracleDataset(torch.full((3, 2), 1e200, dtype=torch.float64))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, "x", None])
def test_seeds_that_torch_does_not_take_are_refused(seed: Any, unchecked: None) -> None:
    for source in ("patches", torch.zeros(9, 2)):
        with refused(r"`seed` must be an integer from -2\^63 to 2\^64 - 1"):
            load_dataset(source, count=5, seed=seed)


@pytest.mark.parametrize("device", ["xyz", "mps", "", "cuda:99", "opengl"])
def test_devices_that_torch_cannot_use_are_refused(device: str) -> None:
    with refused("`device` must name a device torch can compute on here; received '"):
        OracleDataset(torch.zeros(3, 2)).to(device)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((28, 28), "HW"),
        ((3, 32, 32), "CHW"),
        ((1, 8, 8), "CHW"),
        ((4, 32, 32), "CHW"),
        ((4, 4, 4), "CHW"),
        ((16, 16, 16), "CHW"),
        ((32, 32, 3), "HWC"),
        ((28, 28, 1), "HWC"),
        ((16, 24, 4), "HWC"),
        ((3, 3, 3), None),
        ((12,), None),
        ((2, 3, 8, 8), None),
    ],
)
def test_the_layout_of_pictures_is_recognised(shape: tuple[int, ...], layout: str | None) -> None:
    assert picture_layout(shape) == layout


def test_channels_that_come_last_are_told_and_kept() -> None:
    points = torch.arange(5 * 8 * 8 * 3, dtype=torch.float64).reshape(5, 8, 8, 3).remainder(256).to(torch.uint8)
    data = load_dataset(points.numpy())
    assert data.sample_shape == (8, 8, 3)
    words = "pictures [H, W, C] of 8 x 8 with 3 channels: queries have this layout too"
    assert data.value_note == words
    report = analyse(OracleEngine(data), times=[0.5], queries=4)
    assert f"note: {words}" in report.format_table().splitlines()
    assert OracleDataset(points.movedim(3, 1)).value_note is None
    both = load_dataset(points.float() / 255).value_note
    assert both is not None
    assert both.startswith("the values look like pictures in [0, 1]")
    assert both.endswith(words)
