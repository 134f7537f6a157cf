"""Sound files and iterables without samples of a storage dtype, or with several, are refused with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from written_files import WRITERS, small_array, write_idx, write_npy

from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.data.formats import read_idx, read_npy, read_npz, read_path, read_shards
from oracle_engine.data.iterables import read_iterable
from oracle_engine.data.samples import samples_of


@pytest.fixture
def array() -> np.ndarray:
    return small_array()


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("uint16", "convert to uint8 if the values lie in 0..255, else to float32"),
        ("int32", "convert to uint8 if"),
        (">i8", "convert to uint8 if"),
        ("bool", "convert to uint8, 0 and 1"),
        ("complex64", "store real and imaginary parts as two channels"),
        ("S3", "convert to"),
        ([("a", "<f4")], "save as .safetensors"),
        pytest.param(
            "longdouble",
            "convert to float64",
            marks=pytest.mark.skipif(np.longdouble == np.float64, reason="has no longer float"),
        ),
    ],
)
def test_other_dtypes_are_named_with_a_way_out(tmp_path: Path, dtype: Any, remedy: str) -> None:
    array = np.zeros((2, 3), dtype)
    expected = rf"dtype uint8, int8, float16, bfloat16, float32, float64.* dtype {array.dtype.name}\b.*{remedy}"
    with pytest.raises(InputError, match=expected):
        samples_of(array, None, "source")
    with pytest.raises(DataFileError, match=expected):
        read_npy(write_npy(tmp_path / "a.npy", array))


def test_tensor_dtypes_are_named_with_a_way_out() -> None:
    for dtype, remedy in (
        (torch.float8_e4m3fn, "float16"),
        (torch.int64, "uint8 if"),
        (torch.complex64, "two channels"),
    ):
        with pytest.raises(InputError, match=f"dtype {str(dtype)[6:]}. Remedy: .*{remedy}"):
            samples_of(torch.zeros(2, 3, dtype=dtype), None, "source")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, np.array([{}, 1], dtype=object))
    with pytest.raises(DataFileError, match=r"found dtype object.*pickled objects are never loaded"):
        read_path(tmp_path / name)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
def test_no_samples_is_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataFileError, match="expected at least one sample of at least one value"):
        read_npy(write_npy(tmp_path / "a.npy", np.zeros(shape, np.float32)))


def test_several_arrays_without_a_key_are_listed(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", mean=array, std=array, labels=np.arange(4))
    save_file({"mean": torch.zeros(4, 2), "std": torch.zeros(4, 2)}, tmp_path / "a.safetensors")
    save_file({"labels": torch.zeros(4, 2), "ids": torch.arange(4)}, tmp_path / "none.safetensors")
    for name, listing in (("a.npz", "mean, std, labels"), ("a.safetensors", "mean, std"), ("none.safetensors", "ids")):
        with pytest.raises(DataFileError, match=f"expected one array of samples; found .*{listing}.*pass key="):
            read_path(tmp_path / name)
        with pytest.raises(DataFileError, match=f"expected an array called 'var'; found .*{listing}"):
            read_path(tmp_path / name, "var")


def test_a_key_has_no_meaning_where_arrays_have_no_names(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"`key` names an array of an \.npz or \.safetensors file"):
        read_path(write_npy(tmp_path / "a.npy", array), "x")
    with pytest.raises(InputError, match=r"received 'x' for .*a\.npy\. Remedy: leave it out"):
        read_path(tmp_path, "x")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(3), r"expected 4 labels, one a sample; found labels of shape \[3\]"),
        (np.zeros((4, 10), np.int64), r"labels of shape \[4, 10\]"),
        (np.zeros(4), "expected integer labels; found labels of dtype float64"),
        (np.zeros(4, bool), "labels of dtype bool"),
        (np.zeros(4, np.uint64), "labels of dtype uint64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, array: np.ndarray, labels: np.ndarray, found: str) -> None:
    np.savez(tmp_path / "a.npz", x=array, labels=labels)
    with pytest.raises(DataFileError, match=found):
        read_npz(tmp_path / "a.npz")


def test_labels_of_another_number_name_their_own_file(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 4, 4), np.uint8))
    labels = write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(DataFileError, match=rf"{labels.name}: expected 2 labels"):
        read_idx(images)


def test_shards_unlike_the_first_are_named(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array.astype(np.float64))
    with pytest.raises(DataFileError, match=r"b\.npy: expected float32 samples .* without labels as in a\.npy"):
        read_shards(tmp_path)
    np.savez(tmp_path / "b.npz", array, labels=np.arange(4))
    (tmp_path / "b.npy").unlink()
    with pytest.raises(DataFileError, match=r"b\.npz: .* found float32 samples of shape \[2, 3\] with labels"):
        read_shards(tmp_path)


def test_a_folder_without_shards_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"found an empty folder"):
        read_path(tmp_path)
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataFileError, match=r"files ending in \.npy, \.npz, \.safetensors; found notes\.md"):
        read_path(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataFileError, match="expected arrays of numbers; found a folder of pictures"):
        read_path(tmp_path)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([], "must give at least one sample; received none"),
        ([torch.zeros(3), torch.zeros(2)], r"`source\[1\]` must hold samples of shape \[3\] .* received \[2\]"),
        ([torch.zeros(3), torch.zeros(3).double()], r"received \[3\] and torch.float64"),
        ([(torch.zeros(3), 1), torch.zeros(3)], "received no label in item 1, unlike item 0"),
        ([(torch.zeros(5, 3), torch.rand(5))], r"`source\[0\]` must hold x or \(x, integer label\)"),
        ([(torch.zeros(5, 3), torch.arange(4))], r"`source\[0\]` must hold x or \(x, integer label\)"),
        ([(torch.zeros(3), 0.5)], "received a label of type float"),
        ([0.1, 0.2], r"`source\[0\]` must hold tensors or NumPy arrays; received float"),
        ([{"a": torch.zeros(3)}], "received a dict with a"),
        ([{"x": torch.zeros(3), "image": torch.zeros(3)}], "must hold one sample, called image, img"),
        ([np.zeros(3, np.int32)], "received dtype int32"),
    ],
)
def test_the_first_item_unlike_the_others_is_named(items: list[Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        read_iterable(iter(items))
