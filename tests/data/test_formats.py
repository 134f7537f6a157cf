"""Every reader returns what was written, memory-mapped or shared where the format allows it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file
from written_files import WRITERS, assert_holds, small_array, write_cifar10, write_idx, write_npy, write_npz

from oracle_engine.data.formats import (
    read_idx,
    read_npy,
    read_npz,
    read_path,
    read_safetensors,
    read_shards,
)
from oracle_engine.data.iterables import read_iterable
from oracle_engine.data.samples import samples_of

dtypes = st.sampled_from(["uint8", "int8", "<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
stored_arrays = hnp.arrays(dtypes, shapes)


@pytest.fixture
def array() -> np.ndarray:
    return small_array()


@given(stored_arrays)
def test_npy_and_npz_round_trip(array: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(read_npy(write_npy(Path(folder, "a.npy"), array)), array)
        assert_holds(read_npz(write_npz(Path(folder, "a.npz"), array)), array)


@given(
    shapes,
    st.sampled_from([torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_safetensors_round_trip_in_every_storage_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    points = torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        save_file({"latents": points, "labels": torch.arange(len(points), dtype=torch.int32)}, path)
        samples = read_safetensors(path)
        assert samples.points.dtype == dtype
        assert torch.equal(samples.points, points)
        assert samples.labels is not None
        assert samples.labels.tolist() == list(range(len(points)))


@given(hnp.arrays(st.sampled_from(["uint8", "int8", "float32", "float64"]), shapes), st.booleans())
def test_idx_round_trip_packed_or_not(array: np.ndarray, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(read_idx(write_idx(Path(folder, "a.idx.gz" if packed else "a.idx"), array)), array)


def test_fortran_order_is_read_in_sample_order(tmp_path: Path, array: np.ndarray) -> None:
    assert_holds(read_npy(write_npy(tmp_path / "a.npy", np.asfortranarray(array))), array)


def test_idx_images_get_a_channel_and_the_labels_beside_them(tmp_path: Path) -> None:
    images, labels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4), np.array([7, 3], np.uint8)
    path = write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    assert read_idx(path).labels is None
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels)
    samples = read_path(path)
    assert_holds(samples, images[:, None])
    assert samples.labels is not None
    assert samples.labels.tolist() == [7, 3]


@pytest.mark.parametrize("name", ["labels", "y"])
def test_npz_takes_labels_beside_the_samples(tmp_path: Path, array: np.ndarray, name: str) -> None:
    arrays: dict[str, Any] = {"x": array, name: np.array([3, 1, 2, 0], ">i2")}
    np.savez(tmp_path / "a.npz", **arrays)
    samples = read_npz(tmp_path / "a.npz")
    assert_holds(samples, array)
    assert samples.labels is not None
    assert samples.labels.tolist() == [3, 1, 2, 0]


def test_a_key_chooses_among_arrays(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", mean=array, std=2 * array)
    save_file({"mean": torch.from_numpy(array), "step": torch.arange(4)}, tmp_path / "a.safetensors")
    assert_holds(read_path(tmp_path / "a.npz", "std"), 2 * array)
    assert_holds(read_path(tmp_path / "a.safetensors"), array)


def test_cifar10_keeps_channels_first_and_the_order_of_the_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 11)
    write_cifar10(tmp_path, pixels, labels)
    samples = read_path(tmp_path)
    assert_holds(samples, pixels)
    assert samples.labels is not None
    assert samples.labels.tolist() == labels.tolist()
    one_batch = read_path(tmp_path / "data_batch_5.bin")
    assert_holds(one_batch, pixels[-2:])


def test_shards_are_joined_in_the_order_of_their_names(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "b.npy", array[1:3])
    save_file({"z": torch.from_numpy(array[3:])}, tmp_path / "c.safetensors")
    np.savez(tmp_path / "a.npz", array[:1])
    (tmp_path / "notes.txt").write_text("not a shard")
    (tmp_path / ".half-copied.npy").write_bytes(b"")
    assert_holds(read_path(tmp_path), array)


def test_labels_of_shards_are_joined(tmp_path: Path, array: np.ndarray) -> None:
    for number in (0, 1):
        np.savez(tmp_path / f"{number}.npz", x=array, labels=np.full(4, number))
    samples = read_shards(tmp_path)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0] * 4 + [1] * 4


class Indexed:
    """A data set as torch has them: a length and an index, no iterator, and no IndexError at the end."""

    def __init__(self, points: torch.Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.points[number % len(self)], number


@pytest.mark.parametrize("count", [1, 64, 150])
def test_iterables_of_samples(count: int) -> None:
    points = torch.arange(6 * count, dtype=torch.float64).reshape(count, 2, 3)
    arrays = read_iterable(row.numpy() for row in points)
    assert torch.equal(arrays.points, points)
    assert arrays.labels is None
    for labelled in (((row, torch.tensor(number)) for number, row in enumerate(points)), Indexed(points)):
        samples = read_iterable(labelled)
        assert torch.equal(samples.points, points)
        assert samples.labels is not None
        assert samples.labels.tolist() == list(range(count))


def overwrite_end(path: Path, value: np.float32) -> None:
    with path.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(value.tobytes())


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_large_files_are_mapped(tmp_path: Path, name: str) -> None:
    # a page not yet looked at comes from the file: a copy would not see the change
    path = WRITERS[name](tmp_path / name, np.zeros((64, 4096), np.float32))
    samples = read_path(path)
    overwrite_end(path, np.float32(7))
    assert samples.points[-1, -1] == 7


def test_unpacked_idx_bytes_are_mapped(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "a.idx", np.zeros((64, 4096), np.uint8))
    samples = read_idx(path)
    overwrite_end(path, np.float32(-1))
    assert samples.points[-1, -1] == np.float32(-1).tobytes()[-1]


def test_writing_to_mapped_samples_leaves_the_file_alone(tmp_path: Path, array: np.ndarray) -> None:
    path = write_npy(tmp_path / "a.npy", array)
    read_npy(path).points.zero_()
    assert_holds(read_npy(path), array)


def test_arrays_in_memory_are_shared_even_when_read_only(array: np.ndarray) -> None:
    array.setflags(write=False)
    assert np.shares_memory(samples_of(array, None, "source").points.numpy(), array)
    tensor = torch.zeros(3, 2)
    assert samples_of(tensor, None, "source").points.data_ptr() == tensor.data_ptr()


def test_odd_strides_and_foreign_byte_order_are_converted(array: np.ndarray) -> None:
    for view in (array[::-1], array[:, ::-1], array.astype(">f4"), array.T):
        assert_holds(samples_of(view, None, "source"), view)
