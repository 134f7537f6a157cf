"""Arrays in HDF5 files and zarr stores, through their own libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...base.mapped import mapped
from ...base.outside.parts import FilePart
from ..samples import STORAGE_NAMES, Samples, samples_of, tensor_of
from .naming import check_no_labels, check_unkeyed, chosen_names
from .reading import library, reading

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# one of these says that a folder is a zarr store
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


def read_hdf5(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return a data set of an HDF5 file, [N, *shape], and "labels" or "y", [N], as labels where there is one.

    path: the file. key: the name of the data set, with / between groups; None takes the only one of a storage dtype
        beside the labels. labelled: whether to read these.
    Raises DataFileError for a damaged file, a name that is not there, and several data sets where no key is given, and
    MissingDependencyError without h5py. Numbers that lie in one piece are memory-mapped, others read into memory.
    """
    h5py = library("h5py", "h5py", "An HDF5 file")
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: found.__setitem__(name, item) if isinstance(item, h5py.Dataset) else None)
        name, label_name = _chosen(path, found, key)
        labels = found[label_name][...] if label_name is not None and labelled else None
        held = found[name]
        # elsewhere offsets are those of other files, or of a part of this one
        here = not (held.external or held.is_virtual or file.userblock_size)
        start = held.id.get_offset() if here and held.dtype.isnative and held.dtype.name in STORAGE_NAMES else None
        if start is None or not held.size:
            return samples_of(held[...], labels, path)
        return _mapped(path, tensor_of(np.empty(0, held.dtype), path).dtype, list(held.shape), start, labels)


def _mapped(path: Path, dtype: Any, shape: list[int], start: int, labels: Any) -> Samples:
    samples = samples_of(mapped(path, dtype, shape, start), labels, path)
    whole = start % dtype.itemsize == 0
    return replace(samples, part=FilePart.of(path, start, shape[0]) if whole else None)


def read_zarr(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return an array of a zarr store, [N, *shape], and "labels" or "y" of its group, [N], as labels.

    path: the folder. key: the name of the array in a group; None takes the only one of a storage dtype beside the
        labels. labelled: whether to read these.
    Raises DataFileError as :func:`read_hdf5` does, and MissingDependencyError without zarr. The array is read into
    memory.
    """
    zarr = library("zarr", "zarr", "A zarr store")
    with reading(path, "a zarr store"):
        held = zarr.open(path, mode="r")
        if not hasattr(held, "arrays"):
            check_unkeyed(path, key)
            return samples_of(np.asarray(held[...]), None, path)
        found = dict(held.arrays())
        name, label_name = _chosen(path, found, key)
        labels = np.asarray(found[label_name][...]) if label_name is not None and labelled else None
        return samples_of(np.asarray(found[name][...]), labels, path)


def _chosen(path: Path, found: Mapping[str, Any], key: str | None) -> tuple[str, str | None]:
    """Return the names of the array of samples in a store, and of that of labels or None."""
    names = list(found)
    storable = [name for name, item in found.items() if np.dtype(item.dtype).name in STORAGE_NAMES and item.shape]
    name, label_name = chosen_names(path, names, storable, key)
    if key is None and label_name is None:
        check_no_labels(path, names, name)
    return name, label_name
