"""One reader for each file format: each returns samples as they are stored, or raises an error about the file."""

from __future__ import annotations

import gzip
import lzma
import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.errors import OracleError, bad_file, invalid, lacks_memory
from ..base.file_rows import FilePart
from ..base.mapped import mapped, open_safetensors
from .samples import DTYPE_REMEDIES, Samples, joined, labels_of, samples_of

LABEL_KEYS = ("labels", "y")
SHARD_SUFFIXES = (".npy", ".npz", ".safetensors")

_SAFETENSORS_STORAGE = ("U8", "I8", "F16", "BF16", "F32", "F64")
# names that others give to labels
_OTHER_LABEL_KEYS = ("label", "target", "targets", "class", "classes", "class_labels", "class_label")
FRESH_COPY = "write or download the file again"
_LESS_MEMORY = (
    "save them as .npy or .safetensors, which are mapped and not read into memory; where the file should be smaller it "
    "is damaged: write it again"
)
_DAMAGE = (
    ValueError, EOFError, OverflowError, SyntaxError, TypeError, RuntimeError, AttributeError, LookupError, MemoryError,
    tokenize.TokenError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip

_IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$|\.idx(\.gz)?$")
_IDX_IMAGES = re.compile(r"^(.*)images([-.])idx3-ubyte(?:\.gz)?$")
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"

_CIFAR_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_CIFAR_RECORD = 1 + 3 * 32 * 32


def read_path(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return the samples of a file or a folder.

    path: a file, whose format is that of its suffix, or a folder of CIFAR-10 batches, of IDX files or of shards.
    key: which array of an .npz or .safetensors file, or of each shard of a folder, holds the samples. labelled: whether
        to read the labels beside them in such a file.

    Raises DataFileError for a path that cannot be read and InputError for a key where arrays have no names.
    """
    if path.is_dir():
        return _read_folder(path, key)
    if path.suffix == ".npz":
        return read_npz(path, key, labelled=labelled)
    if path.suffix == ".safetensors":
        return read_safetensors(path, key, labelled=labelled)
    if key is not None:
        raise invalid("key", "names an array of an .npz or .safetensors file", f"{key!r} for {path}", "leave it out")
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix == ".bin":
        return read_cifar10(path)
    if _IDX_NAME.search(path.name):
        return read_idx(path)
    known = "a name that ends in .npy, .npz, .safetensors, .bin (CIFAR-10), .idx or idx*-ubyte (.gz or not)"
    raise bad_file(path, known, f"{path.suffix or 'no suffix'}", "save the samples as .npy or .safetensors")


def read_npy(path: Path) -> Samples:
    """Return the array of an .npy file, [N, *shape], memory-mapped.

    path: the file. Raises DataFileError for a damaged file, one with more than one array, and dtypes that are not
        in STORAGE_DTYPES.
    """
    with reading(path, "a NumPy .npy file"):
        _check_magic(path, b"\x93NUMPY")
        array, excess = _mapped_npy(path)
    if excess:
        raise bad_file(path, "one array", f"{excess} bytes after it", "save one array to a file")
    samples = samples_of(array, None, path)
    start = path.stat().st_size - array.nbytes
    whole = array.flags.c_contiguous and array.dtype.isnative
    return replace(samples, part=FilePart.of(path, start, len(array)) if whole else None)


def read_npz(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return an array of an .npz file, [N, *shape], and the array "labels" or "y", [N], as labels where there is one.

    path: the file. key: the name of the array; None takes the only one beside the labels. labelled: whether to read
        these.
    Raises DataFileError for a damaged file, a name that is not there, and several arrays where no key is given.
    The arrays are read into memory.
    """
    with reading(path, "a NumPy .npz file"):
        _check_magic(path, b"PK")
        with zipfile.ZipFile(path) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            name, label_name = _choose(path, names, names, key)
            wanted = (name, label_name if labelled else None)
            points, labels = (None if chosen is None else member(archive, chosen) for chosen in wanted)
    return samples_of(points, labels, path)


def read_safetensors(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return a tensor of a .safetensors file, [N, *shape], memory-mapped, and "labels" or "y" as labels, [N].

    path: the file. key: the name of the tensor; None takes the only one of a storage dtype beside the labels. labelled:
        whether to read these.
    Raises DataFileError for a damaged file, a name that is not there, and several tensors where no key is given.
    """
    with reading(path, "a .safetensors file"), open_safetensors(path) as file:
        names = list(file.keys())
        storable = [name for name in names if file.kind(name) in _SAFETENSORS_STORAGE]
        name, label_name = _choose(path, names, storable, key)
        if key is None and label_name is None:
            _check_no_labels(path, names, name)
        points, start = file.tensor(name), file.start(name)
        labels = file.tensor(label_name) if label_name is not None and labelled else None
    samples = samples_of(points, labels, path)
    whole = start % points.itemsize == 0
    return replace(samples, part=FilePart.of(path, start, len(points)) if whole else None)


def read_idx(path: Path) -> Samples:
    """Return the array of an IDX file, [N, *shape], in native byte order.

    path: the file, gzipped or not. One that is named as MNIST names its images (`...images-idx3-ubyte`) gives
        [N, 1, H, W] and the labels of the file beside it, where there is one.

    Raises DataFileError where header and length disagree and for dtypes that are not stored. A file that is not gzipped
    is memory-mapped.
    """
    points = _idx_array(path)
    named = _IDX_IMAGES.match(path.name)
    if named is None:
        return samples_of(points, None, path)
    if points.ndim != 3:
        raise bad_file(path, "images [N, H, W]", f"shape {list(points.shape)}", FRESH_COPY)
    samples = samples_of(points[:, None], None, path)
    labels = find_idx(path.parent, f"{named[1]}labels", 1)
    return samples if labels is None else Samples(samples.points, labels_of(_idx_array(labels), len(points), labels))


def find_idx(folder: Path, stem: str, ndim: int) -> Path | None:
    """Return the path of an IDX file, the one that is not gzipped where there are both, or None where there is none.

    folder: where to look. stem, ndim: of the name `stem-idx<ndim>-ubyte`, with or without .gz.
    """
    names = (f"{stem}{mark}idx{ndim}-ubyte{end}" for end in ("", ".gz") for mark in "-.")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_cifar10(path: Path) -> Samples:
    """Return the samples of CIFAR-10's binary version, uint8 [N, 3, 32, 32], and their labels, 0..9.

    path: one batch, or the folder of data_batch_1.bin to data_batch_5.bin.
    Raises DataFileError for a batch that is missing, not made of 3,073-byte records, or labelled above 9.
    """
    files = [path / name for name in _CIFAR_BATCHES] if path.is_dir() else [path]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        remedy = "unpack cifar-10-binary.tar.gz there"
        raise bad_file(path, ", ".join(file.name for file in files), f"no {', '.join(absent)}", remedy)
    batches = [_cifar_records(file) for file in files]
    pixels = np.concatenate([batch[:, 1:] for batch in batches]).reshape(-1, 3, 32, 32)
    return samples_of(pixels, np.concatenate([batch[:, 0] for batch in batches]), path)


def read_shards(folder: Path, key: str | None = None) -> Samples:
    """Return the samples of all .npy, .npz and .safetensors files of a folder, in the order of their names.

    folder: where the files are. key: the array to take of each .npz or .safetensors file.
    Raises DataFileError where there is no such file, where shapes or dtypes differ, and where only some have labels.
    Shards stay in their files, small ones of .npz and of few megabytes together are copied into one tensor.
    """
    shards = open_shards(folder, key)
    first = shards[0]
    if len(shards) == 1:
        return first
    labels = None if first.labels is None else torch.cat([shard.labels for shard in shards if shard.labels is not None])
    return Samples(joined(shards), labels)


def shard_files(folder: Path) -> list[Path]:
    """Return the .npy, .npz and .safetensors files of a folder in the order of their names.

    folder: where they are. Raises DataFileError where there is none.
    """
    with reading(folder, "a folder"):
        present = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    files = [file for file in present if file.suffix in SHARD_SUFFIXES]
    if not files:
        found = ", ".join(file.name for file in present[:8]) or "an empty folder"
        raise bad_file(folder, f"files ending in {', '.join(SHARD_SUFFIXES)}", found, "pass the folder that has them")
    return files


def open_shards(folder: Path, key: str | None = None) -> list[Samples]:
    """Return the samples of each file of :func:`shard_files`, mapped where the format allows it.

    folder: where the files are. key: the array to take of each .npz or .safetensors file.
    Raises DataFileError where shapes or dtypes differ, and where only some have labels.
    """
    files = shard_files(folder)
    shards = [read_path(file, key) for file in files]
    first = shards[0]
    for file, shard in zip(files, shards, strict=True):
        if _kind(shard) != _kind(first):
            remedy = "keep only shards of one kind in the folder, with labels in all of them or in none"
            raise bad_file(file, f"{_kind(first)} as in {files[0].name}", _kind(shard), remedy)
    return shards


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn the exceptions of damaged or unreadable files inside the block into a DataFileError about the file.

    path: the file that the error names. expected: what it should hold, a noun.
    Raises DataFileError; errors of this package pass unchanged.
    """
    try:
        yield
    except OracleError:
        raise
    except (OSError, *_DAMAGE) as error:
        raise _about_reading(error, path, expected) from error


def _about_reading(error: Exception, path: Path, expected: str) -> OracleError:
    if lacks_memory(error):
        return bad_file(path, "numbers that memory has room for", f"no room for them ({error})", _LESS_MEMORY)
    if isinstance(error, OSError) and not isinstance(error, _DAMAGE):
        return bad_file(path, "a readable file", error.strerror or str(error), "check the path and its permissions")
    # the messages of numpy about an array that only pickle could load
    if str(error).startswith(("Array can't be memory-mapped", "Object arrays cannot")):
        return bad_file(path, expected, "dtype object", dict(DTYPE_REMEDIES)["object"])
    return bad_file(path, expected, f"damaged or incomplete content ({error})", FRESH_COPY)


def _mapped_npy(path: Path) -> tuple[np.ndarray, int]:
    """Return the array of an .npy file, and how many bytes there are after it."""
    found = np.lib.format.open_memmap(path, mode="r")
    order: Any = "C" if found.flags.c_contiguous else "F"
    array: np.ndarray = np.ndarray(found.shape, found.dtype, _content(path), found.offset, order=order)
    return array, path.stat().st_size - found.offset - found.nbytes


def _content(path: Path) -> np.ndarray:
    """Return the bytes of a file, memory-mapped. Raises ValueError where there are none."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    content: np.ndarray = mapped(path, torch.uint8, [size]).numpy()
    return content


def _check_magic(path: Path, magic: bytes) -> None:
    with path.open("rb") as stream:
        start = stream.read(len(magic))
    if start != magic:
        found = f"a file that begins with {start!r}" if start else "an empty file"
        raise bad_file(path, f"a {path.suffix} file, which begins with {magic!r}", found, FRESH_COPY)


def member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array of an .npz archive, read into memory.

    archive: open for reading. name: of the array, without .npy. Raises ValueError where it is damaged.
    """
    with archive.open(f"{name}.npy") as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # zipfile compares the checksum at the end, and read_array stops where a damaged header says
        if stream.read(1):
            raise ValueError(f"more bytes in {name} than its shape {list(array.shape)} has")
    return array


def _choose(path: Path, names: Sequence[str], storable: Sequence[str], key: str | None) -> tuple[str, str | None]:
    """Return the names of the samples and of the labels, or None where there are none."""
    listing = ", ".join(names) or "nothing"
    if key is not None and key not in names:
        raise bad_file(path, f"an array called {key!r}", listing, "pass key= with one of these names", parameter="key")
    # where nothing can be stored the one array is named in the error about its dtype
    able = storable or names
    chosen = [key] if key is not None else [name for name in able if name not in LABEL_KEYS or len(names) == 1]
    if len(chosen) != 1:
        remedy = "pass key= with the name of the one to use"
        raise bad_file(path, "one array of samples", listing, remedy, parameter="key")
    return chosen[0], next((name for name in LABEL_KEYS if name in names and name != chosen[0]), None)


def _check_no_labels(path: Path, names: Sequence[str], name: str) -> None:
    """Refuse a file that calls its labels by a name that is not read, so that they are not dropped without a word."""
    other = next((other for other in names if other.lower() in _OTHER_LABEL_KEYS), None)
    if other is not None:
        remedy = f"call it {LABEL_KEYS[0]!r}, or pass key={name!r} for the samples without labels"
        raise bad_file(path, f"labels called {' or '.join(LABEL_KEYS)}", f"{other!r}", remedy, parameter="key")


def _idx_array(path: Path) -> np.ndarray:
    with reading(path, "an IDX file"):
        content = _unpacked(path)
        first, second, code, ndim = content[:4].tolist()
        if first or second or code not in _IDX_DTYPES:
            found = f"a file that begins with {content[:4].tobytes()!r}"
            raise bad_file(path, "an IDX file, which begins with two zeros and a dtype code", found, FRESH_COPY)
        start = 4 + 4 * ndim
        shape = content[4:start].view(">u4").tolist()
        dtype = np.dtype(_IDX_DTYPES[code])
        wanted = math.prod(shape) * dtype.itemsize
        if len(shape) != ndim or len(content) - start != wanted:
            expected = f"{wanted} bytes after the header, {dtype.name} {shape}"
            raise bad_file(path, expected, f"{max(len(content) - start, 0)} bytes", FRESH_COPY)
        return content[start:].view(dtype).reshape(shape)


def _unpacked(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    if not packed:
        return _content(path)
    with gzip.open(path) as content:
        return np.frombuffer(content.read(), np.uint8)


def _cifar_records(path: Path) -> np.ndarray:
    with reading(path, "CIFAR-10's binary version"):
        content = _content(path)
    if len(content) % _CIFAR_RECORD:
        expected = f"a multiple of {_CIFAR_RECORD} bytes (CIFAR-10's binary version)"
        raise bad_file(path, expected, f"{len(content)} bytes", FRESH_COPY)
    records = content.reshape(-1, _CIFAR_RECORD)
    if records[:, 0].max() > 9:
        raise bad_file(path, "labels 0..9 (CIFAR-10's binary version)", f"label {records[:, 0].max()}", FRESH_COPY)
    return records


def _read_folder(folder: Path, key: str | None) -> Samples:
    if key is None and (folder / _CIFAR_BATCHES[0]).is_file():
        return read_cifar10(folder)
    images = find_idx(folder, "train-images", 3)
    return read_shards(folder, key) if key is not None or images is None else read_idx(images)


def _kind(shard: Samples) -> str:
    labelled = "without labels" if shard.labels is None else "with labels"
    dtype = str(shard.points.dtype).removeprefix("torch.")
    return f"{dtype} samples of shape {list(shard.points.shape[1:])} {labelled}"
