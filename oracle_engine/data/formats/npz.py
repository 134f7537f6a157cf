"""NumPy's .npz files, those of ADM among them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ..samples import Samples, samples_of
from .naming import chosen_names
from .reading import check_magic, reading

# the names of arrays without one, which ADM's files of samples have: pictures and their labels
UNNAMED = ["arr_0", "arr_1"]


def read_npz(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return an array of an .npz file, [N, *shape], and the array "labels" or "y", [N], as labels where there is one.

    path: the file. key: the name of the array; None takes the only one beside the labels, or arr_0 of two arrays
        without names of which arr_1 holds an integer for each sample, as in ADM's files. labelled: whether to read
        the labels.
    Raises DataFileError for a damaged file, a name that is not there, and several arrays where no key is given.
    The arrays are read into memory.
    """
    with reading(path, "a NumPy .npz file"):
        check_magic(path, b"PK")
        with zipfile.ZipFile(path) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            if key is None and _of_adm(archive, names):
                name, label_name = UNNAMED[0], UNNAMED[1]
            else:
                name, label_name = chosen_names(path, names, names, key)  # type: ignore[assignment]
            wanted = (name, label_name if labelled else None)
            points, labels = (None if chosen is None else member(archive, chosen) for chosen in wanted)
    return samples_of(points, labels, path)


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


def _of_adm(archive: zipfile.ZipFile, names: list[str]) -> bool:
    """Return whether of two arrays without names the second one holds an integer for each sample of the first."""
    if sorted(names) != UNNAMED:
        return False
    (points, _), (labels, dtype) = (_header(archive, name) for name in UNNAMED)
    return labels == points[:1] and dtype.kind in "iu"


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype of an array of the archive."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return tuple(shape), dtype
