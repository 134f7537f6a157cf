"""load_dataset: a built-in set, a file, a folder, an array or an iterable, made into an OracleDataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from .builtin import BUILTINS, load_builtin
from .dataset import OracleDataset, ValueMap
from .formats import read_iterable, read_path
from .latent_files import latent_format
from .latents import load_as_stored
from .samples import Samples, labels_of, samples_of

_KINDS = "the name of a built-in set, a path, a tensor, an array or an iterable of samples"


@dataclass(frozen=True)
class _ReadOptions:
    """The arguments of load_dataset that decide how a source is read."""

    key: str | None
    folder: str | os.PathLike[str] | None
    value_map: ValueMap | None
    count: int | None
    seed: int


def load_dataset(
    source: Any,
    *,
    key: str | None = None,
    labels: Any = None,
    weights: Any = None,
    value_map: ValueMap | None = None,
    storage: torch.dtype | None = None,
    folder: str | os.PathLike[str] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> OracleDataset:
    """Return the data set that a name, a path, an array or an iterable stands for.

    source: the name of a built-in set (a key of BUILTINS; "./digits" is a path); the path of an .npy, .npz,
        .safetensors, IDX or CIFAR-10 binary file, of a .safetensors file that OracleDataset.save wrote, of a folder of
        shards, or of latents as load_latents reads them; a tensor or array [N, *shape]; or a finite iterable
        of `x` or `(x, label)`, each item one sample.
    key: which array of an .npz or .safetensors file holds the samples, where there are several.
    labels: [N] integers, which replace those of the source. weights: [N] non-negative, not all zero.
    value_map: from stored numbers to values. storage: floating dtype to cast to. Both as in OracleDataset.
    folder: where the files of a built-in set are.
    count: how many samples to use, 1..N. "patches" draws that many; of anything else a random subset without
        replacement is taken, in the order of the source, and its labels and weights with it.
    seed: of that choice, an integer.

    Raises InputError for an argument that cannot be used or has no meaning for the source, DataFileError for a file
    that is absent, damaged or of another kind, and MissingDependencyError where a built-in set needs scikit-learn.
    Mapped files and arrays in memory are shared, not copied, unless `count` or `storage` makes new ones.

    >>> import torch
    >>> from oracle_engine import load_dataset
    >>> data = load_dataset(torch.arange(6.0).reshape(3, 2), labels=[0, 1, 1], count=2, seed=0)
    >>> len(data), data.sample_shape, data.storage
    (2, (2,), torch.float32)
    """
    options = _ReadOptions(key, folder, value_map, count, seed)
    if _is_saved(source):
        given = {"labels": labels, "weights": weights, "value_map": value_map, "storage": storage, "count": count}
        _refuse({"key": key, "folder": folder, **given}, "a file that OracleDataset.save wrote")
        return OracleDataset.load(Path(source).expanduser())
    samples, name, own_map = _read(source, options)
    size = len(samples.points)
    points, device = samples.points, samples.points.device
    labels = samples.labels if labels is None else labels_of(labels, size, "labels").to(device)
    weights = None if weights is None else _weights_of(weights, size).to(device)
    if count is not None and count != size:
        rows = choose_rows(size, count, seed).to(device)
        points, labels, weights = points[rows], _rows_of(labels, rows), _rows_of(weights, rows)
    return OracleDataset(points, labels, weights, storage=storage, value_map=value_map or own_map, name=name)


def choose_rows(size: int, count: int, seed: int) -> Int64[Tensor, "n"]:
    """Return different indices below `size`, drawn uniformly without replacement, [count] int64, ascending.

    size: how many there are, N >= 1. count: how many to draw, 1..N. seed: of the generator, an integer.
    Raises InputError where `count` lies outside 1..N.
    """
    if not 1 <= count <= size:
        raise invalid("count", f"must lie in 1..{size:,}, the samples there are", count, "leave it out to use all")
    drawn = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=drawn)[:count].sort().values


def _read(source: Any, options: _ReadOptions) -> tuple[Samples, str, ValueMap | None]:
    """Return samples, the name of the set, and its own value map if it has one."""
    if isinstance(source, str) and source in BUILTINS:
        _refuse({"key": options.key}, f"the built-in set {source!r}")
        folder = None if options.folder is None else Path(options.folder).expanduser()
        samples = load_builtin(source, folder=folder, count=options.count, seed=options.seed)
        return samples, source, BUILTINS[source].value_map
    if isinstance(source, str | os.PathLike):
        _refuse({"folder": options.folder}, "a path")
        return _from_path(source, options), Path(source).expanduser().resolve().stem, None
    _refuse({"key": options.key, "folder": options.folder}, "samples in memory")
    return _from_memory(source), "data", None


def _from_path(source: str | os.PathLike[str], options: _ReadOptions) -> Samples:
    path = Path(source).expanduser()
    if not path.exists():
        raise _unknown(str(source))
    if options.key is not None or latent_format(path) is None:
        return read_path(path, options.key)
    latents = load_as_stored(path, options.value_map, stacklevel=5)
    return Samples(latents.points, latents.labels)


def _from_memory(source: Any) -> Samples:
    if isinstance(source, Tensor | np.ndarray):
        return samples_of(source, None, "source")
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if isinstance(source, OracleDataset) or not (indexed or isinstance(source, Iterable)):
        raise invalid("source", f"must be {_KINDS}", type(source).__name__, "wrap the samples as one of these")
    return read_iterable(source)


def _is_saved(source: Any) -> bool:
    if not isinstance(source, str | os.PathLike) or Path(source).suffix != ".safetensors":
        return False
    # the reader raises the error about a file that cannot be opened
    with suppress(OSError):
        return OracleDataset.is_saved(Path(source).expanduser())
    return False


def _rows_of(tensor: Tensor | None, rows: Int64[Tensor, "n"]) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _weights_of(weights: Any, size: int) -> Float64[Tensor, "N"]:
    held = weights.detach().double() if isinstance(weights, Tensor) else torch.from_numpy(np.array(weights, np.float64))
    if held.shape != (size,):
        wanted = f"must have shape [{size}], one for each sample"
        raise invalid("weights", wanted, list(held.shape), "match them to the samples")
    return held


def _refuse(options: Mapping[str, Any], source: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise invalid(given[0], f"has no meaning for {source}", repr(options[given[0]]), f"leave {given[0]} out")


def _unknown(source: str) -> Exception:
    near = get_close_matches(source, BUILTINS, n=1)
    remedy = f"did you mean {near[0]!r}" if near else "check the path"
    wanted = f"must be a path that exists or a built-in set ({', '.join(BUILTINS)})"
    return invalid("source", wanted, repr(source), remedy)
