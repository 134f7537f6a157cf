"""load_dataset makes the same data set of every kind of source, or an error says what else to pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.data.dataset import OracleDataset
from oracle_engine.data.load import choose_rows, load_dataset
from oracle_engine.data.values import ValueMap

POINTS = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)


def save_npy(folder: Path) -> Path:
    np.save(folder / "latents.npy", POINTS.numpy())
    return folder / "latents.npy"


def save_shards(folder: Path) -> Path:
    for number, rows in enumerate(POINTS.split(1)):
        save_file({"points": rows.clone()}, folder / f"{number}.safetensors")
    return folder


def save_dataset(folder: Path) -> Path:
    OracleDataset(POINTS).save(folder / "saved.safetensors")
    return folder / "saved.safetensors"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "tensor": lambda folder: POINTS,
    "array": lambda folder: POINTS.numpy(),
    "iterable": lambda folder: (row for row in POINTS),
    "list": lambda folder: list(POINTS),
    "path": save_npy,
    "text": lambda folder: str(save_npy(folder)),
    "folder": save_shards,
    "saved": save_dataset,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    data = load_dataset(SOURCES[kind](tmp_path))
    assert data.sample_shape == (2, 3)
    assert torch.equal(data[torch.arange(4)], POINTS)


def test_a_set_is_named_after_its_source(tmp_path: Path) -> None:
    assert load_dataset(save_npy(tmp_path)).name == "latents"
    assert load_dataset("digits", count=3).name == "digits"
    assert load_dataset(POINTS).name == "data"


def test_labels_come_with_the_source_or_replace_those_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=POINTS.numpy(), y=np.array([1, 0, 1, 0]))
    for given, expected in ((None, [1, 0, 1, 0]), ([3, 2, 1, 0], [3, 2, 1, 0]), (torch.arange(4), [0, 1, 2, 3])):
        labels = load_dataset(tmp_path / "a.npz", labels=given).labels
        assert labels is not None
        assert labels.tolist() == expected


def test_digits_cover_minus_one_to_one() -> None:
    data = load_dataset("digits")
    values = data[torch.arange(len(data))]
    assert torch.stack(values.aminmax()).tolist() == [-1, 1]
    assert load_dataset("digits", value_map=ValueMap(1.0, 0.0))[0].max() == 15


def test_count_draws_patches_and_takes_a_random_subset_of_anything_else() -> None:
    assert len(load_dataset("patches", count=30)) == 30
    points, labels = torch.arange(100.0)[:, None], torch.arange(100) % 7
    data = load_dataset(points, labels=labels, weights=1 + labels, count=40, seed=1)
    chosen = data[torch.arange(40)][:, 0].long()
    assert len(chosen.unique()) == 40
    assert torch.equal(chosen, chosen.sort().values)
    assert data.labels is not None
    assert torch.equal(data.labels, labels[chosen])
    again = load_dataset(points, labels=labels, weights=1 + labels, count=40, seed=1)
    other = load_dataset(points, labels=labels, weights=1 + labels, count=40, seed=2)
    assert data.fingerprint == again.fingerprint != other.fingerprint


def test_weights_go_with_the_rows_that_are_chosen() -> None:
    points, weights = torch.arange(50.0)[:, None], np.linspace(1, 2, 50)
    rows = choose_rows(50, 20, seed=0)
    subset = load_dataset(points, weights=weights, count=20)
    assert subset.fingerprint == load_dataset(points[rows], weights=weights[rows.numpy()]).fingerprint


def test_arrays_in_memory_are_not_copied() -> None:
    array = np.zeros((5, 3), np.float32)
    assert np.shares_memory(load_dataset(array).rows.stored.numpy(), array)


def test_storage_casts_floating_samples() -> None:
    assert load_dataset(POINTS, storage=torch.float16).storage == torch.float16


@pytest.mark.parametrize("count", [0, 5])
def test_more_samples_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"`count` must lie in 1\.\.4, the samples there are; received {count}"):
        load_dataset(POINTS, count=count)


def test_unknown_names_list_the_built_in_sets_and_the_nearest() -> None:
    listing = r"a built-in set \(digits, patches, fashion-mnist, mnist, cifar10\); received 'patchs'"
    with pytest.raises(InputError, match=rf"must be a path that exists or {listing}\. Remedy: did you mean 'patches'"):
        load_dataset("patchs")
    with pytest.raises(InputError, match="Remedy: check the path"):
        load_dataset(Path("no/such/file.npy"))


def test_a_path_to_a_folder_called_like_a_built_in_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    save_npy(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("digits", count=10)) == 10
    assert load_dataset("./digits").sample_shape == (2, 3)
    assert load_dataset(Path("digits")).name == "digits"


@pytest.mark.parametrize("source", [3.5, None, object(), OracleDataset(POINTS)])
def test_other_things_are_refused_with_what_is_accepted(source: Any) -> None:
    with pytest.raises(InputError, match="must be the name of a built-in set, a path, a tensor, an array"):
        load_dataset(source)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tensor", {"key": "x"}, "`key` has no meaning for samples in memory"),
        ("array", {"folder": "."}, "`folder` has no meaning for samples in memory"),
        ("path", {"folder": "."}, "`folder` has no meaning for a path"),
        ("path", {"key": "x"}, r"`key` names an array of an \.npz"),
        ("saved", {"labels": [0, 1, 2, 3]}, r"`labels` has no meaning for a file that OracleDataset\.save wrote"),
        ("saved", {"count": 2}, r"`count` has no meaning for a file that OracleDataset\.save wrote"),
        ("tensor", {"labels": [0, 1]}, r"`labels` must hold 4 labels"),
        ("tensor", {"weights": [0.5, 1]}, r"`weights` must have shape \[4\]"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(SOURCES[kind](tmp_path), **options)


def test_a_key_for_a_built_in_set_is_refused() -> None:
    with pytest.raises(InputError, match="`key` has no meaning for the built-in set 'digits'"):
        load_dataset("digits", key="x")


def test_a_damaged_saved_file_is_named(tmp_path: Path) -> None:
    path = save_dataset(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataFileError, match=r"saved\.safetensors: expected a \.safetensors file; found damaged"):
        load_dataset(path)
