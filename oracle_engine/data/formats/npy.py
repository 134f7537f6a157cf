"""NumPy's .npy files, memory-mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import bad_file
from ...base.outside.parts import FilePart
from ..samples import Samples, samples_of
from .reading import check_magic, content, reading

MAGIC = b"\x93NUMPY"


def read_npy(path: Path) -> Samples:
    """Return the array of an .npy file, [N, *shape], memory-mapped.

    path: the file. Raises DataFileError for a damaged file, one with more than one array, and dtypes that are not
        in STORAGE_DTYPES.
    """
    with reading(path, "a NumPy .npy file"):
        check_magic(path, MAGIC)
        array, excess = _mapped_npy(path)
    if excess:
        raise bad_file(path, "one array", f"{excess} bytes after it", "save one array to a file")
    samples = samples_of(array, None, path)
    start = path.stat().st_size - array.nbytes
    whole = array.flags.c_contiguous and array.dtype.isnative
    return replace(samples, part=FilePart.of(path, start, len(array)) if whole else None)


def load_array(path: Path) -> np.ndarray:
    """Return the array of an .npy file, of any dtype of numbers, read into memory; raises as :func:`read_npy` does."""
    with reading(path, "a NumPy .npy file"):
        check_magic(path, MAGIC)
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array


def _mapped_npy(path: Path) -> tuple[np.ndarray, int]:
    """Return the array of an .npy file, and how many bytes there are after it."""
    found = np.lib.format.open_memmap(path, mode="r")
    order: Any = "C" if found.flags.c_contiguous else "F"
    array: np.ndarray = np.ndarray(found.shape, found.dtype, content(path), found.offset, order=order)
    return array, path.stat().st_size - found.offset - found.nbytes
