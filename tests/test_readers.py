"""Every format gives back what was written, mapped where it can be, and every kind of damage is named."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from oracle_engine.errors import DataFileError, InputError
from oracle_engine.readers import (
    read_cifar10,
    read_idx,
    read_iterable,
    read_npy,
    read_npz,
    read_path,
    read_safetensors,
    read_shards,
)
from oracle_engine.samples import Samples, samples_of

IDX_CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}

dtypes = st.sampled_from(["uint8", "int8", "<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
stored_arrays = hnp.arrays(dtypes, shapes)


def write_idx(path: Path, array: np.ndarray) -> Path:
    header = struct.pack(f">HBB{array.ndim}I", 0, IDX_CODES[array.dtype.name], array.ndim, *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_cifar10(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    records = np.concatenate([labels[:, None], pixels.reshape(len(pixels), -1)], axis=1).astype(np.uint8)
    for number, batch in enumerate(np.array_split(records, 5), start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(batch.tobytes())


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def write_npz(path: Path, array: np.ndarray) -> Path:
    np.savez(path, array)
    return path


def write_compressed(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path, array)
    return path


def write_safetensors(path: Path, array: np.ndarray) -> Path:
    save_file({"points": torch.from_numpy(array)}, path)
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "a.npy": write_npy,
    "a.npz": write_npz,
    "deflated.npz": write_compressed,
    "a.safetensors": write_safetensors,
    "a.idx": write_idx,
    "a.idx.gz": write_idx,
}


def assert_holds(samples: Samples, array: np.ndarray) -> None:
    native = array.astype(array.dtype.newbyteorder("="))
    assert str(samples.points.dtype) == f"torch.{native.dtype.name}"
    assert tuple(samples.points.shape) == array.shape
    assert samples.points.is_contiguous()
    assert samples.points.numpy().tobytes() == native.tobytes()


@pytest.fixture
def array() -> np.ndarray:
    return np.arange(24, dtype=np.float32).reshape(4, 2, 3)


# what was written is read


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


# nothing is copied that need not be


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


# damage


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return WRITERS[request.param](tmp_path / request.param, np.arange(12, dtype=np.uint8).reshape(4, 3))


def damaged_copies(path: Path, contents: Iterator[bytes]) -> Iterator[Path]:
    for number, content in enumerate(contents):
        copy = path.with_name(f"{number}{''.join(path.suffixes)}")
        copy.write_bytes(content)
        yield copy


def bytes_or_error(path: Path) -> int | str:
    try:
        points = read_path(path).points
    except DataFileError as error:
        return str(error)[: len(f"{path}: expected")]
    return points.numel() * points.itemsize


def test_no_truncated_file_is_read(written: Path) -> None:
    content = written.read_bytes()
    for copy in damaged_copies(written, (content[:size] for size in range(len(content)))):
        with pytest.raises(DataFileError, match="Remedy: "):
            read_path(copy)


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
def test_a_changed_byte_gives_samples_or_an_error_about_the_file(written: Path) -> None:
    content = written.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(content), 300)
    changes = rng.integers(0, 256, 300)
    bad = (
        content[:place] + bytes([change]) + content[place + 1 :] for place, change in zip(places, changes, strict=True)
    )
    for copy in damaged_copies(written, bad):
        # as many bytes as were written: nothing is read in part
        assert bytes_or_error(copy) in (12, f"{copy}: expected")


def test_bytes_after_the_array_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    for name in ("a.npy", "a.idx"):
        path = WRITERS[name](tmp_path / name, array)
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(DataFileError, match=r"found (4 bytes after it|100 bytes)"):
            read_path(path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.npy", b"", "an empty file"),
        ("a.npy", b"PK\3\4 in the wrong place", r"a file that begins with b'PK"),
        ("a.npz", b"\x93NUMPY", r"which begins with b'PK'; found a file that begins with b'\\x93N'"),
        ("a.safetensors", b"", "damaged or incomplete content"),
        ("a.safetensors", b"x" * 64, "damaged or incomplete content"),
        ("a.idx", b"", "damaged or incomplete content"),
        ("a.idx", b"PK\3\4....", "an IDX file, which begins with two zeros and a dtype code"),
        ("a.idx", b"\0\0\7\1\0\0\0\1x", "an IDX file, which begins with two zeros and a dtype code"),
        ("a.idx", b"\0\0\10\1\0\0\0\5abc", r"expected 5 bytes after the header, uint8 \[5\]; found 3 bytes"),
        ("a.idx.gz", gzip.compress(b"\0\0\10\1\0\0\0\5abc"), r"expected 5 bytes after the header"),
        ("a.idx.gz", b"\x1f\x8b and no more", r"damaged or incomplete content"),
        ("a.bin", b"x" * 3072, "expected a multiple of 3073 bytes .* found 3072 bytes"),
        ("a.bin", b"\12" + b"x" * 3072, r"expected labels 0\.\.9 .* found label 10"),
        ("a.bin", b"", "damaged or incomplete content"),
        ("a.pt", b"\x80\2", r"ends in \.npy, .* found \.pt\. Remedy: save the samples as"),
        ("a", b"", "found no suffix"),
    ],
)
def test_what_is_not_the_format_is_named(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=found) as raised:
        read_path(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a.idx"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataFileError, match="expected a readable file; found No such file"):
        read_path(tmp_path / name)


def test_damaged_gzip_contents_are_named(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "a.idx.gz", np.arange(200, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # the checksum
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="CRC check failed"):
        read_idx(path)


def test_a_missing_batch_of_cifar10_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path, np.zeros((5, 3, 32, 32), np.uint8), np.zeros(5, np.uint8))
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataFileError, match=r"found no data_batch_3\.bin\. Remedy: unpack cifar-10-binary"):
        read_cifar10(tmp_path)


# samples that are not what we store


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
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataFileError, match=r"files ending in \.npy, \.npz, \.safetensors; found photo\.jpg"):
        read_path(tmp_path)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([], "must give at least one sample; received none"),
        ([torch.zeros(3), torch.zeros(2)], r"`source\[1\]` must hold samples of shape \[3\] .* received \[2\]"),
        ([torch.zeros(3), torch.zeros(3).double()], r"received \[3\] and torch.float64"),
        ([(torch.zeros(3), 1), torch.zeros(3)], "received no label in item 1, unlike item 0"),
        ([(torch.zeros(5, 3), torch.arange(5))], r"`source\[0\]` must hold x or \(x, integer label\)"),
        ([(torch.zeros(3), 0.5)], "received a label of type float"),
        ([0.1, 0.2], r"`source\[0\]` must hold tensors or NumPy arrays; received float"),
        ([{"x": torch.zeros(3)}], "received dict"),
        ([np.zeros(3, np.int32)], "received dtype int32"),
    ],
)
def test_the_first_item_unlike_the_others_is_named(items: list[Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        read_iterable(iter(items))
