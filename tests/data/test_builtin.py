"""Built-in sets are the real ones and depend on the seed only; errors about absent files list the folders searched."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from written_files import write_cifar10, write_idx

from oracle_engine.base.errors import DataFileError, InputError, MissingDependencyError
from oracle_engine.data.builtin import BUILTINS, load_builtin, load_images
from oracle_engine.data.samples import Samples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and no ORACLE_DATA."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("ORACLE_DATA", raising=False)
    return tmp_path / "home"


def write_mnist(folder: Path, count: int = 3, side: int = 28, suffix: str = ".gz") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, side, side), dtype=np.uint8)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8))
    return images


def assert_images(samples: Samples, images: np.ndarray) -> None:
    assert np.array_equal(samples.points.numpy(), images[:, None])
    assert samples.labels is not None
    assert samples.labels.tolist() == list(range(len(images)))


def test_every_set_says_what_it_is_and_whose() -> None:
    assert list(BUILTINS) == ["digits", "patches", "fashion-mnist", "mnist", "cifar10"]
    for name, builtin in BUILTINS.items():
        assert builtin.name == name
        assert builtin.description
        assert builtin.credit


def test_digits() -> None:
    digits = load_builtin("digits")
    value_map = BUILTINS["digits"].value_map
    assert (digits.points.dtype, digits.points.shape) == (torch.uint8, (1797, 1, 8, 8))
    extremes = torch.stack(digits.points.aminmax()).double() * value_map.scale + value_map.offset
    assert extremes.tolist() == [-1, 1]
    assert digits.labels is not None
    assert digits.labels.unique().tolist() == list(range(10))


def test_patches_are_different_crops_of_the_two_photographs() -> None:
    from sklearn.datasets import load_sample_image

    patches = load_builtin("patches", count=501)
    assert (patches.points.dtype, patches.points.shape) == (torch.uint8, (501, 3, 32, 32))
    assert patches.labels is not None
    assert patches.labels.bincount().tolist() == [251, 250]
    assert len(patches.points.flatten(1).unique(dim=0)) == 501
    for name, patch in (("china.jpg", patches.points[0]), ("flower.jpg", patches.points[-1])):
        photograph = load_sample_image(name)
        # channels first: each crop of the photograph whose first pixel agrees, compared as a whole
        rows, columns = np.nonzero((photograph[:-31, :-31] == patch[:, 0, 0].numpy()).all(2))
        crops = (photograph[row : row + 32, column : column + 32] for row, column in zip(rows, columns, strict=True))
        assert any(np.array_equal(crop.transpose(2, 0, 1), patch.numpy()) for crop in crops)


def test_patches_depend_on_the_seed_only() -> None:
    draw = load_builtin("patches", count=40, seed=3).points
    assert torch.equal(draw, load_builtin("patches", count=40, seed=3).points)
    assert not torch.equal(draw, load_builtin("patches", count=40, seed=4).points)
    larger = load_builtin("patches", count=100, seed=3).points
    assert torch.equal(torch.cat([larger[:20], larger[50:70]]), draw)


def test_patches_are_twenty_thousand_unless_asked_otherwise() -> None:
    assert len(load_builtin("patches").points) == 20_000


@pytest.mark.parametrize("count", [0, -1, 100_001])
def test_more_patches_than_there_may_be_are_refused_with_the_limit(count: int) -> None:
    with pytest.raises(InputError, match=rf"`count` must lie in 1\.\.100,000 for 'patches'; received {count}\."):
        load_builtin("patches", count=count)


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_without_scikit_learn_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=rf"'{name}' needs the package `scikit-learn`.*\[demo\]"):
        load_builtin(name)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"'patches' needs the package `pillow`.*\[demo\]"):
        load_builtin("patches")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_image_sets_are_read_from_a_folder(tmp_path: Path, name: str, suffix: str) -> None:
    images = write_mnist(tmp_path / "raw", suffix=suffix)
    assert_images(load_builtin(name, folder=tmp_path / "raw"), images)


def test_image_sets_are_looked_for_in_order(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = write_mnist(home / ".cache" / "oracle-engine" / "fashion-mnist", count=4)
    assert_images(load_builtin("fashion-mnist"), cached)
    own = write_mnist(tmp_path / "data" / "fashion-mnist", count=5)
    monkeypatch.setenv("ORACLE_DATA", str(tmp_path / "data"))
    assert_images(load_builtin("fashion-mnist"), own)


def test_further_folders_are_searched_after_the_own_one(home: Path, tmp_path: Path) -> None:
    system = tmp_path / "system"
    with pytest.raises(DataFileError) as raised:
        load_images("fashion-mnist", remedy="install it", extra=(system,))
    own = home / ".cache" / "oracle-engine" / "fashion-mnist"
    expected = "built-in data set 'fashion-mnist': expected train-images-idx3-ubyte (or .gz)"
    assert str(raised.value).startswith(f"{expected} in one of: {own}, {system}; ")
    assert str(raised.value).endswith("Remedy: install it.")
    images = write_mnist(system)
    assert_images(load_images("fashion-mnist", remedy="install it", extra=(system,)), images)


def test_the_folder_of_the_debian_package_is_a_default() -> None:
    load = BUILTINS["fashion-mnist"].load
    assert isinstance(load, partial)
    assert load.keywords["extra"] == (Path("/usr/share/datasets/fashion-mnist"),)
    assert load.keywords["remedy"].startswith("apt-get install dataset-fashion-mnist")


def test_absent_sets_say_where_they_were_looked_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_DATA", str(tmp_path))
    for name, remedy in (("mnist", "put the four files of MNIST"), ("cifar10", "unpack cifar-10-binary.tar.gz")):
        with pytest.raises(DataFileError, match=remedy) as raised:
            load_builtin(name)
        assert str(tmp_path / name) in str(raised.value)
        assert str(home / ".cache" / "oracle-engine" / name) in str(raised.value)


def test_a_folder_that_was_named_is_the_only_one_looked_in(home: Path, tmp_path: Path) -> None:
    write_mnist(home / ".cache" / "oracle-engine" / "mnist")
    with pytest.raises(DataFileError, match=f"in one of: {tmp_path}; found it in none of them"):
        load_builtin("mnist", folder=tmp_path)


def test_images_without_labels_or_of_another_size_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, side=32)
    with pytest.raises(DataFileError, match=r"expected uint8 images of \[28, 28\]; found .* of \[32, 32\]"):
        load_builtin("mnist", folder=tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataFileError, match=r"expected train-labels-idx1-ubyte .* beside the images"):
        load_builtin("mnist", folder=tmp_path)


def test_cifar10_is_read_from_its_folder_or_the_one_above(home: Path) -> None:
    folder = home / ".cache" / "oracle-engine" / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    write_cifar10(folder, pixels, np.arange(10))
    for named in (None, folder, folder.parent):
        samples = load_builtin("cifar10", folder=named)
        assert np.array_equal(samples.points.numpy(), pixels)
        assert samples.labels is not None
        assert samples.labels.tolist() == list(range(10))


def test_a_folder_for_a_set_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`folder` is for sets that are read from files"):
        load_builtin("digits", folder=tmp_path)
