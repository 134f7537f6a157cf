"""What readers of files share: one wording for files that are damaged, unreadable or of another kind."""

from __future__ import annotations

import gzip
import lzma
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import torch

from ...base.errors import OracleError, bad_file, lacks_memory, missing
from ...base.mapped import mapped
from ..samples import DTYPE_REMEDIES

ZIP_MAGIC = b"PK\x03\x04"
FRESH_COPY = "write or download the file again"
_LESS_MEMORY = (
    "save them as .npy or .safetensors, which are mapped and not read into memory; where the file should be smaller it "
    "is damaged: write it again"
)
_DAMAGE = (
    ValueError, EOFError, OverflowError, SyntaxError, TypeError, RuntimeError, AttributeError, LookupError, MemoryError,
    tokenize.TokenError, gzip.BadGzipFile, zipfile.BadZipFile, TarError, zlib.error, lzma.LZMAError,
    pickle.UnpicklingError, struct.error, AssertionError,
)  # fmt: skip


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
    """Return the error, in words, about a file that could not be read."""
    if lacks_memory(error):
        return bad_file(path, "numbers that memory has room for", f"no room for them ({error})", _LESS_MEMORY)
    # libraries raise OSError without a number for what they cannot understand
    if isinstance(error, OSError) and not isinstance(error, _DAMAGE) and error.errno is not None:
        return bad_file(path, "a readable file", error.strerror or str(error), "check the path and its permissions")
    # the messages of numpy about an array that only pickle could load
    if str(error).startswith(("Array can't be memory-mapped", "Object arrays cannot")):
        return bad_file(path, expected, "dtype object", dict(DTYPE_REMEDIES)["object"])
    return bad_file(path, expected, f"damaged or incomplete content ({error})", FRESH_COPY)


def library(module: str, package: str, feature: str) -> Any:
    """Return a module of an optional library.

    module: its name. package: the distribution as pip names it. feature: what needs it, the subject of a sentence.
    Raises MissingDependencyError with the pip line where it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(package, feature, "formats") from error


def content(path: Path) -> np.ndarray:
    """Return the bytes of a file, [n] uint8, memory-mapped. Raises ValueError where there are none."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    found: np.ndarray = mapped(path, torch.uint8, [size]).numpy()
    return found


def start_of(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a file, or all of them where it has fewer. Raises OSError."""
    with path.open("rb") as stream:
        return stream.read(count)


def check_magic(path: Path, magic: bytes) -> None:
    """Raise DataFileError where a file does not begin with `magic`."""
    start = start_of(path, len(magic))
    if start != magic:
        found = f"a file that begins with {start!r}" if start else "an empty file"
        raise bad_file(path, f"a {path.suffix} file, which begins with {magic!r}", found, FRESH_COPY)
