"""A data set keeps samples, order, labels and weights, and refuses data that it cannot hold."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from closed_form import normal
from dataset_cases import LABELS, make_points
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close

from oracle_engine import InputError, OracleDataset, OracleEngine, ValueMap
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.data.prefixes import prefix_fingerprint, prefix_rows


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_samples_stay_in_their_storage_without_a_copy(dtype: torch.dtype) -> None:
    points = make_points(dtype)
    data = OracleDataset(points)
    assert data.storage == dtype
    assert data.rows.stored.data_ptr() == points.data_ptr()
    assert (len(data), data.dim, data.sample_shape) == (6, 4, (2, 2))
    assert data[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("dtype", "stored", "values"),
    [
        (torch.uint8, [0, 51, 255], [-1.0, -0.6, 1.0]),
        (torch.int8, [-127, 0, 127], [-1.0, 0.0, 1.0]),
        (torch.float16, [-2.5, 0.0, 3.0], [-2.5, 0.0, 3.0]),
    ],
)
def test_stored_numbers_mean_what_their_dtype_usually_means(
    dtype: torch.dtype, stored: list[float], values: list[float]
) -> None:
    assert_close(OracleDataset(torch.tensor(stored, dtype=dtype))[:], torch.tensor(values), "float32 output")


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_a_value_map_is_the_same_as_mapped_samples(generator: torch.Generator, dtype: torch.dtype) -> None:
    points, value_map = make_points(dtype), ValueMap(0.03, -1.5)
    mapped = OracleDataset(points, value_map=value_map)
    plain = OracleDataset(points.double() * value_map.scale + value_map.offset)
    assert_close(mapped[:], plain[:], "float32 output")
    spread = plain[:].double().reshape(6, -1).var(0, correction=0).mean()
    assert_close(
        torch.tensor(mapped.variance_per_dim, dtype=torch.float64), spread.double(), "float64", scale=float(spread)
    )
    x, t = torch.randn(6, 2, 2, generator=generator, dtype=torch.float64), torch.linspace(0, 0.9, 6)
    ours, theirs = (OracleEngine(data).posterior(x, t, top_k=6) for data in (mapped, plain))
    assert_close(ours.mean, theirs.mean, "float64")
    assert_close(ours.log_density, theirs.log_density, "float64")
    assert_close(ours.variance, theirs.variance, "float64")


@pytest.mark.parametrize(
    ("scale", "offset"), [(0.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1.0, math.nan), (math.nan, 0.0)]
)
def test_a_value_map_must_be_invertible(scale: float, offset: float) -> None:
    with pytest.raises(InputError, match="`value_map` must have a positive finite scale and a finite offset; received"):
        ValueMap(scale, offset)


def test_the_user_sees_the_order_that_was_given() -> None:
    points = make_points()
    data = OracleDataset(points, LABELS)
    assert torch.equal(data[:], points)
    assert data.labels is not None
    assert torch.equal(data.labels, LABELS)
    for index in range(6):
        assert torch.equal(data[index], points[index])
    assert torch.equal(data.index_of(data.row_of(torch.arange(6))), torch.arange(6))
    assert data.index_of(torch.tensor([[-1]])).tolist() == [[-1]]


def test_a_class_is_one_range_of_rows() -> None:
    data = OracleDataset(make_points(), LABELS)
    ranges = {name: (span.start, span.stop) for name, span in data.segments.items()}
    assert ranges == {0: (0, 2), 2: (2, 5), 7: (5, 6)}
    # equal labels keep their order
    assert data.index_of(torch.arange(6)).tolist() == [1, 4, 0, 2, 5, 3]
    assert OracleDataset(make_points()).segments == {}


def test_answers_do_not_depend_on_the_order_of_the_labels(generator: torch.Generator) -> None:
    points = normal(60, 5, generator)
    labels, weights = torch.randint(4, (60,), generator=generator), torch.rand(60, generator=generator)
    order = labels.argsort(stable=True)
    mixed = OracleEngine(OracleDataset(points, labels, weights))
    ordered = OracleEngine(OracleDataset(points[order], labels[order], weights[order]))
    x, exclude = normal(8, 5, generator), torch.randint(60, (8,), generator=generator)
    ours = mixed.posterior(x, 0.4, labels=labels[order[:8]], exclude=order[exclude])
    theirs = ordered.posterior(x, 0.4, labels=labels[order[:8]], exclude=exclude)
    assert_close(ours.mean, theirs.mean, "float64")
    assert_close(ours.log_density, theirs.log_density, "float64")
    named = theirs.top_indices
    assert torch.equal(ours.top_indices, torch.where(named < 0, -1, order[named.clamp_min(0)]))


@pytest.mark.parametrize("index", [0, -1, 5, slice(1, 4), slice(None, None, 2), torch.tensor([3, 3, 0])])
def test_samples_are_looked_up_as_in_the_tensor_they_came_from(index: Any) -> None:
    points = make_points()
    assert torch.equal(OracleDataset(points, LABELS)[index], points[index])
    with pytest.raises(IndexError):
        OracleDataset(points)[6]


@given(st.integers(0, 5), st.sampled_from(["points", "labels", "weights", "shape", "storage", "value_map", "order"]))
def test_the_fingerprint_changes_with_anything_an_answer_depends_on(place: int, what: str) -> None:
    points, labels, weights, value_map = make_points(), LABELS.clone(), torch.ones(6), ValueMap()
    original = OracleDataset(points.clone(), labels.clone(), weights.clone()).fingerprint
    if what == "points":
        points[place, 0, 0] = points[place, 0, 0].nextafter(torch.tensor(9.0))
    elif what == "labels":
        labels[place] += 1
    elif what == "weights":
        weights[place] = 2.0
    elif what == "shape":
        points = points.reshape(6, 4)
    elif what == "storage":
        points = points.double()
    elif what == "value_map":
        value_map = ValueMap(1.0 + 2**-50)
    else:
        points, labels = points.roll(place + 1, 0), labels.roll(place + 1, 0)
    changed = what != "order" or place < 5
    assert (OracleDataset(points, labels, weights, value_map=value_map).fingerprint != original) is changed


def test_the_fingerprint_stays_with_the_same_content() -> None:
    strided = torch.stack([make_points(), make_points()], -1)[..., 0]
    same = [
        OracleDataset(make_points(), LABELS),
        OracleDataset(make_points(), LABELS.int(), name="other"),
        OracleDataset(strided, LABELS),
        copy.deepcopy(OracleDataset(make_points(), LABELS)),
    ]
    assert not strided.is_contiguous()
    assert len({data.fingerprint for data in same}) == 1


def test_only_ratios_of_weights_matter(generator: torch.Generator) -> None:
    weights = torch.rand(6, generator=generator)
    first, second = (OracleEngine(OracleDataset(make_points(), weights=scale * weights)) for scale in (1.0, 1e-30))
    x = torch.randn(3, 2, 2, generator=generator)
    assert_close(first.velocity(x, 0.3), second.velocity(x, 0.3), "float32 output")
    assert_close(first.log_density(x, 0.3), second.log_density(x, 0.3), "bar")


def test_to_gives_the_same_data_on_the_device_and_itself_where_it_is() -> None:
    data = OracleDataset(make_points(), LABELS, torch.arange(6.0))
    assert data.to("cpu") is data
    moved = data.to("meta")
    assert moved.device.type == "meta"
    assert (moved.sample_shape, moved.storage, len(moved)) == (data.sample_shape, data.storage, 6)
    assert data.device.type == "cpu"


def test_a_copy_and_a_pickle_answer_alike() -> None:
    data = OracleDataset(make_points(), LABELS)
    for twin in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert torch.equal(twin[:], data[:])
        assert twin.segments == data.segments
        assert twin.fingerprint == data.fingerprint


def test_storage_casts_when_it_is_asked_to() -> None:
    points = make_points()
    assert torch.equal(OracleDataset(points, storage=torch.bfloat16)[:], points.bfloat16().float())
    with pytest.raises(InputError, match=r"`storage` must be a floating dtype; received torch\.uint8"):
        OracleDataset(points, storage=torch.uint8)


def test_samples_with_a_graph_are_kept_without_it() -> None:
    assert not OracleDataset(make_points().requires_grad_())[:].requires_grad


def test_a_sample_may_be_a_single_number() -> None:
    data = OracleDataset(torch.tensor([1.0, 2.0, 4.0]))
    assert (data.sample_shape, data.dim) == ((), 1)
    assert data[1].shape == ()
    assert OracleEngine(data).denoiser(torch.zeros(2), 0.0).shape == (2,)


def test_the_weighted_variance_is_that_of_the_values(generator: torch.Generator) -> None:
    points, weights = normal(40, 6, generator), torch.rand(40, generator=generator).double()
    data = OracleDataset(points, torch.randint(3, (40,), generator=generator), weights, value_map=ValueMap(3.0, 1.0))
    expected = 9 * points.T.cov(aweights=weights, correction=0).trace() / 6
    assert_close(torch.tensor(data.variance_per_dim, dtype=torch.float64), expected, "float64")


def test_printing_says_what_it_is() -> None:
    text = repr(OracleDataset(make_points(torch.uint8), LABELS, name="six"))
    assert text == "OracleDataset('six', 6 x [2, 2] uint8 -> 2 x/255 - 1 in [-0.498, 0.851], 3 classes, 0.0 MiB on cpu)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": torch.zeros(0, 3)}, r"`points` must hold at least one sample .*received \[0, 3\]"),
        ({"points": torch.zeros(3, 0)}, r"`points` must hold at least one sample of at least one value"),
        ({"points": torch.tensor(1.0)}, r"`points` must hold at least one sample .*received \[\]"),
        ({"points": torch.zeros(3, 2).long()}, r"must be stored as one of uint8, int8, .*received torch\.int64"),
        ({"points": torch.zeros(3, 2) * 1j}, r"must be stored as one of .*received torch\.complex64"),
        ({"points": torch.tensor([[0.0], [math.nan], [1.0]])}, "must be finite; received .* in sample 1"),
        ({"points": torch.tensor([[0.0], [1.0], [-math.inf]]).half()}, "must be finite; received .* in sample 2"),
        (
            {"points": torch.full((2, 2), 1.5e308, dtype=torch.float64)},
            "must be finite; received values whose sum overflows",
        ),
        ({"labels": torch.zeros(2).long()}, r"`labels` must have shape \[3\], one for each sample; received \[2\]"),
        ({"labels": torch.zeros(3, 1).long()}, r"`labels` must have shape \[3\].*received \[3, 1\]"),
        ({"labels": torch.zeros(3)}, r"`labels` must be integers; received torch\.float32\. Remedy: pass labels\.long"),
        ({"weights": torch.ones(4)}, r"`weights` must have shape \[3\], one for each sample; received \[4\]"),
        ({"weights": torch.tensor([1.0, -2.0, 1.0])}, "must be finite, non-negative and not all zero; received -2.0"),
        ({"weights": torch.zeros(3)}, "must be finite, non-negative and not all zero; received 0.0"),
        ({"weights": torch.tensor([1.0, math.nan, 1.0])}, "`weights` must be finite.*received a non-finite weight"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OracleDataset(**({"points": torch.zeros(3, 2)} | arguments))


@pytest.mark.usefixtures("unchecked")
def test_arrays_are_pointed_to_the_front_door() -> None:
    points: Any = [[1.0], [2.0]]
    with pytest.raises(
        InputError, match=r"must be a torch\.Tensor; received list\. Remedy: use oracle_engine\.load_dataset"
    ):
        OracleDataset(points)


def test_data_that_do_not_fit_a_card_are_refused_before_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**10, 2**30))
    monkeypatch.setattr("oracle_engine.data.dataset.usable_device", torch.device)
    message = r"`device` must have 0.0 GiB free for the data; received 0.0 of 1.0 GiB free. Remedy: store 8-bit"
    with pytest.raises(InputError, match=message):
        OracleDataset(torch.zeros(2, 1024, dtype=torch.uint8)).to("cuda")


@pytest.mark.parametrize("labelled", [False, True])
def test_grown_data_know_what_they_grew_from(generator: torch.Generator, labelled: bool) -> None:
    points, labels = normal(50, 6, generator).float(), (torch.arange(50) * 3) % 4 if labelled else None
    first = OracleDataset(points[:30], None if labels is None else labels[:30])
    grown = OracleDataset(points, labels)
    assert prefix_fingerprint(grown, 30) == prefix_fingerprint(first, 30)
    assert prefix_fingerprint(grown, 30) != prefix_fingerprint(grown, 29)
    assert torch.equal(grown.rows.stored[prefix_rows(grown, 30)], first.rows.stored)
    other = OracleDataset(points.flip(0), labels)
    assert prefix_fingerprint(other, 30) != prefix_fingerprint(first, 30)
    if labels is not None:
        assert prefix_fingerprint(OracleDataset(points, labels.flip(0)), 30) != prefix_fingerprint(first, 30)
        assert prefix_fingerprint(OracleDataset(points), 30) != prefix_fingerprint(first, 30)


def test_another_centre_changes_no_sample(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randint(0, 256, (40, 2, 3), generator=generator).to(torch.uint8), torch.arange(40) % 3)
    assert data.centred_at(data.rows.centre.clone()) is data
    moved = data.centred_at(data.rows.centre + 7.0)
    assert torch.equal(moved[:], data[:])
    assert moved.fingerprint == data.fingerprint
    assert_close(moved.base, data.base + 7.0 * data.value_map.scale, "float64")
    rows = moved.rows.stored.double() - moved.rows.centre
    assert_close(moved.rows.half_norms, 0.5 * rows.square().sum(1), "float64")
    assert moved.rows.radius == pytest.approx(float(rows.norm(dim=1).max()))
    assert moved.variance_per_dim == pytest.approx(data.variance_per_dim)
