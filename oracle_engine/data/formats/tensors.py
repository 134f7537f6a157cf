"""Files of tensors: .safetensors, memory-mapped, and torch's .pt, of which no code is run."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...base.arrays import Tensor
from ...base.errors import bad_file, invalid
from ...base.mapped import open_safetensors
from ...base.outside.parts import FilePart
from ..samples import STORAGE_NAMES, Samples, dtype_name, samples_of
from .naming import check_no_labels, chosen_names
from .reading import FRESH_COPY, ZIP_MAGIC, reading, start_of

_SAFETENSORS_STORAGE = ("U8", "I8", "F16", "BF16", "F32", "F64")


def read_safetensors(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return a tensor of a .safetensors file, [N, *shape], memory-mapped, and "labels" or "y" as labels, [N].

    path: the file. key: the name of the tensor; None takes the only one of a storage dtype beside the labels. labelled:
        whether to read these.
    Raises DataFileError for a damaged file, a name that is not there, and several tensors where no key is given.
    """
    with reading(path, "a .safetensors file"), open_safetensors(path) as file:
        names = list(file.keys())
        storable = [name for name in names if file.kind(name) in _SAFETENSORS_STORAGE]
        name, label_name = chosen_names(path, names, storable, key)
        if key is None and label_name is None:
            check_no_labels(path, names, name)
        points, start = file.tensor(name), file.start(name)
        labels = file.tensor(label_name) if label_name is not None and labelled else None
    samples = samples_of(points, labels, path)
    whole = start % points.itemsize == 0
    return replace(samples, part=FilePart.of(path, start, len(points)) if whole else None)


def read_pt(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return the tensor of a file that torch.save wrote, [N, *shape], and its labels, [N], where there are any.

    path: the file, of a tensor, of a pair (samples, labels) or of a dict of tensors, with labels called as in an .npz
        file. key: which tensor of a dict holds the samples. labelled: whether to read the labels.
    Raises DataFileError for a file that only pickle could load: nothing in it is run.
    """
    held = _loaded(path)
    if isinstance(held, dict):
        return _of_dict(path, held, key, labelled)
    if key is not None:
        raise invalid("key", "names a tensor of a dict", f"{key!r} for {path}, a {type(held).__name__}", "leave it out")
    if isinstance(held, (tuple, list)) and len(held) == 2 and isinstance(held[1], Tensor) and held[1].ndim == 1:
        return samples_of(held[0], held[1] if labelled else None, path)
    if isinstance(held, (tuple, list)) and held and all(isinstance(item, Tensor) for item in held):
        with reading(path, "tensors of one shape"):
            return samples_of(torch.stack(list(held)), None, path)
    return samples_of(held, None, path)


def _loaded(path: Path) -> Any:
    """Return what a file of torch holds; its tensors are mapped where the file allows it."""
    expected = "a file of tensors that torch.save wrote"
    with reading(path, expected):
        try:
            # older files are no zip archives, and cannot be mapped
            zipped = start_of(path, len(ZIP_MAGIC)) == ZIP_MAGIC
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            found = f"content that only pickle could load ({str(error).splitlines()[0]})"
            remedy = f"save a tensor, a dict of tensors or (samples, labels), or {FRESH_COPY}"
            raise bad_file(path, expected, found, remedy) from error


def _of_dict(path: Path, held: dict[Any, Any], key: str | None, labelled: bool) -> Samples:
    """Return the samples among the tensors of a dict, and their labels."""
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    names = list(tensors)
    storable = [name for name in names if dtype_name(tensors[name]) in STORAGE_NAMES and tensors[name].ndim]
    name, label_name = chosen_names(path, names, storable, key)
    if key is None and label_name is None:
        check_no_labels(path, names, name)
    return samples_of(tensors[name], tensors[label_name] if label_name is not None and labelled else None, path)
