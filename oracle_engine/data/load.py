"""The front door for data: whatever a user has, made into an OracleDataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
    """Return the data set that `source` names or holds.

    source: the name of a built-in set (a key of BUILTINS; "./digits" is a path); the path of an .npy, .npz,
        .safetensors, IDX or CIFAR-10 binary file, of a .safetensors file that OracleDataset.save wrote, of a folder of
        shards, or of latents as load_latents reads them; a tensor or array [N, *shape]; or a finite iterable
        of `x` or `(x, label)`, each item one sample.
    key: which array of an .npz or .safetensors file holds the samples, where there are several.
    labels: [N] integers, instead of those of the source. weights: [N] non-negative, float.
    value_map: from stored numbers to values. storage: floating dtype to cast to. Both as in OracleDataset.
    folder: where the files of a built-in set are.
    count: how many samples to use. "patches" draws that many; of anything else a random subset without replacement is
        taken, in the order of the source, and its labels and weights with it. seed: of that choice.

    Mapped files and arrays in memory are shared, not copied, unless `count` or `storage` makes new ones. Raises
    InputError and DataFileError that say what was expected, what was found and the remedy.
    """
    given: dict[str, Any] = {"key": key, "folder": folder}
    if _is_saved(source):
        given |= {"labels": labels, "weights": weights, "value_map": value_map, "storage": storage, "count": count}
        _refuse(given, "a file that OracleDataset.save wrote")
        return OracleDataset.load(Path(source).expanduser())
    samples, name, own_map = _read(source, given, value_map, count, seed)
    size = len(samples.points)
    points, device = samples.points, samples.points.device
    labels = samples.labels if labels is None else labels_of(labels, size, "labels").to(device)
    weights = None if weights is None else _weights_of(weights, size).to(device)
    if count is not None and count != size:
        rows = choose_rows(size, count, seed).to(device)
        points, labels, weights = points[rows], _rows_of(labels, rows), _rows_of(weights, rows)
    return OracleDataset(points, labels, weights, storage=storage, value_map=value_map or own_map, name=name)


def choose_rows(size: int, count: int, seed: int) -> Int64[Tensor, "n"]:
    """Return `count` different indices below `size`, ascending, drawn at random; InputError if there are too few."""
    if not 1 <= count <= size:
        raise invalid("count", f"must lie in 1..{size:,}, the samples there are", count, "leave it out to use all")
    drawn = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=drawn)[:count].sort().values


def _read(
    source: Any, given: Mapping[str, Any], value_map: ValueMap | None, count: int | None, seed: int
) -> tuple[Samples, str, ValueMap | None]:
    """Return samples, the name of the set, and its own value map if it has one."""
    if isinstance(source, str) and source in BUILTINS:
        _refuse({"key": given["key"]}, f"the built-in set {source!r}")
        folder = None if given["folder"] is None else Path(given["folder"]).expanduser()
        return load_builtin(source, folder=folder, count=count, seed=seed), source, BUILTINS[source].value_map
    if isinstance(source, str | os.PathLike):
        _refuse({"folder": given["folder"]}, "a path")
        path = Path(source).expanduser()
        if not path.exists():
            raise _unknown(str(source))
        name = path.resolve().stem
        if given["key"] is None and latent_format(path) is not None:
            latents = load_as_stored(path, value_map)
            return Samples(latents.points, latents.labels), name, None
        return read_path(path, given["key"]), name, None
    _refuse(given, "samples in memory")
    return _from_memory(source), "data", None


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
    # what cannot be opened is worded by the reader
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
