"""CIFAR's own files: the binary version, and the Python version, whose pickles run no code here."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import bad_file
from ..samples import Samples, samples_of
from .reading import FRESH_COPY, content, reading

BINARY_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
PYTHON_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
PYTHON_NAME = re.compile(r"^(data_batch_[1-5]|test_batch|train|test)$")
PICKLE_MAGIC = b"\x80"

_SHAPE = (3, 32, 32)
_VALUES = 3 * 32 * 32
_RECORD = 1 + _VALUES
_VERSION = "CIFAR's Python version"


def read_cifar10(path: Path) -> Samples:
    """Return the samples of CIFAR-10's binary version, uint8 [N, 3, 32, 32], and their labels, 0..9.

    path: one batch, or the folder of data_batch_1.bin to data_batch_5.bin.
    Raises DataFileError for a batch that is missing, not made of 3,073-byte records, or labelled above 9.
    """
    files = _files(path, BINARY_BATCHES, "unpack cifar-10-binary.tar.gz there")
    batches = [_records(file) for file in files]
    pixels = np.concatenate([batch[:, 1:] for batch in batches]).reshape(-1, *_SHAPE)
    return samples_of(pixels, np.concatenate([batch[:, 0] for batch in batches]), path)


def read_cifar_python(path: Path) -> Samples:
    """Return the samples of CIFAR's Python version, uint8 [N, 3, 32, 32], and their labels (CIFAR-100: the fine).

    path: one batch, or the folder cifar-10-batches-py or cifar-100-python, of which the train split is read.
    The files are pickles. Of these only bytes, text, numbers, lists, dicts and one array of bytes are understood;
    whatever else a file names is refused by name and not run. Raises DataFileError for such a file, one that is
    damaged, and a batch that is missing.
    """
    whole = ("train",) if (path / "train").is_file() else PYTHON_BATCHES
    files = _files(path, whole, "unpack cifar-10-python.tar.gz there")
    batches = [_batch(file) for file in files]
    pixels = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, *_SHAPE)
    return samples_of(pixels, np.concatenate([labels for _, labels in batches]), path)


def _files(path: Path, names: tuple[str, ...], remedy: str) -> list[Path]:
    """Return the files of a set. Raises DataFileError where some are absent."""
    files = [path / name for name in names] if path.is_dir() else [path]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise bad_file(path, ", ".join(file.name for file in files), f"no {', '.join(absent)}", remedy)
    return files


def _records(path: Path) -> np.ndarray:
    """Return the records of a binary batch of CIFAR-10, [n, 3073]."""
    with reading(path, "CIFAR-10's binary version"):
        held = content(path)
    if len(held) % _RECORD:
        expected = f"a multiple of {_RECORD} bytes (CIFAR-10's binary version)"
        raise bad_file(path, expected, f"{len(held)} bytes", FRESH_COPY)
    records = held.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise bad_file(path, "labels 0..9 (CIFAR-10's binary version)", f"label {records[:, 0].max()}", FRESH_COPY)
    return records


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels, [n, 3072] uint8, and the labels, [n], of a batch of the Python version."""
    with reading(path, _VERSION):
        with path.open("rb") as stream:
            held = _Reader(stream, encoding="bytes").load()
        named = {_text(key): value for key, value in held.items()}
        labels = named["fine_labels"] if "fine_labels" in named else named["labels"]
        pixels = named["data"].array()
        return pixels.reshape(len(labels), _VALUES), np.array([int(label) for label in labels], np.int64)


class _Array:
    """Takes the place of the array of pixels in a pickle: its bytes and shape, and none of the code of NumPy."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Keep what NumPy wrote of an array: a version, its shape, dtype, order and bytes."""
        _, self._shape, self._dtype, self._fortran, self._content = state

    def array(self) -> np.ndarray:
        """Return the array, uint8. Raises ValueError where its bytes do not fit its shape."""
        if not isinstance(self._dtype, _Bytes):
            raise ValueError("pixels that are no bytes")
        flat = np.frombuffer(self._content, np.uint8)
        return flat.reshape(tuple(self._shape), order="F" if self._fortran else "C")


class _Bytes:
    """Takes the place of the dtype of bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Do nothing: bytes have no order."""


def _rebuilt(kind: Any, *rest: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of a class of its own")
    return _Array()


def _dtype(name: Any, *rest: Any) -> _Bytes:
    if _text(name) not in ("u1", "uint8"):
        raise pickle.UnpicklingError(f"an array of dtype {name!r}")
    return _Bytes()


def _encoded(text: str, encoding: Any) -> bytes:
    return text.encode("latin1")


# what NumPy's pickles of arrays name, and what takes its place
_NAMES: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _rebuilt,
    ("numpy._core.multiarray", "_reconstruct"): _rebuilt,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encoded,
}


class _Reader(pickle.Unpickler):
    """Reads a pickle in which nothing but the names of an array of bytes is known."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what takes the place of a name. Raises UnpicklingError for every other one."""
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which was not run")
        return _NAMES[module, name]


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)
