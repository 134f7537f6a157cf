"""Errors name files that are truncated, changed, missing or of another format; none is read in part."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from written_files import WRITERS, small_array, write_cifar10, write_idx

from oracle_engine.base.errors import DataFileError
from oracle_engine.data.formats import read_cifar10, read_idx, read_path


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


def test_bytes_after_the_array_are_refused(tmp_path: Path) -> None:
    for name in ("a.npy", "a.idx"):
        path = WRITERS[name](tmp_path / name, small_array())
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(DataFileError, match=r"found (4 bytes after it|100 bytes)"):
            read_path(path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.npy", b"", "an empty file"),
        ("a.npy", b"PK\3\4 in the wrong place", r"a file that begins with b'PK"),
        ("a.npz", b"\x93NUMPY", r"a NumPy \.npy file; found damaged or incomplete content"),
        ("a.npz", b"\x93NUM", r"which begins with b'PK'; found a file that begins with b'\\x93N'"),
        ("a.safetensors", b"", "damaged or incomplete content"),
        ("a.safetensors", b"x" * 64, "damaged or incomplete content"),
        ("a.idx", b"", "damaged or incomplete content"),
        ("a.idx", b"PK\3\4....", "an IDX file, which begins with two zeros and a dtype code"),
        ("a.idx", b"\0\0\7\1\0\0\0\1x", "an IDX file, which begins with two zeros and a dtype code"),
        ("a.idx", b"\0\0\10\1\0\0\0\5abc", r"expected 5 bytes after the header, uint8 \[5\]; found 3 bytes"),
        ("a.idx.gz", gzip.compress(b"\0\0\10\1\0\0\0\5abc", mtime=0), r"expected 5 bytes after the header"),
        ("a.idx.gz", b"\x1f\x8b and no more", r"damaged or incomplete content"),
        ("a.bin", b"x" * 3072, "expected a multiple of 3073 bytes .* found 3072 bytes"),
        ("a.bin", b"\12" + b"x" * 3072, r"expected labels 0\.\.9 .* found label 10"),
        ("a.bin", b"", "damaged or incomplete content"),
        ("a.pt", b"\x80\2", r"a file of tensors that torch\.save wrote; found"),
        ("a.xyz", b"\x80\2", r"ends in \.npy, .* found \.xyz\. Remedy: save the samples as"),
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
