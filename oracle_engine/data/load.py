"""load_dataset: a built-in set, a file, a folder, an array or an iterable, made into an OracleDataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch

from ..base.arrays import Float64, Int64, Tensor, exact
from ..base.errors import InputError, OracleError, invalid
from ..base.seeds import seeded
from .builtin import BUILTINS, load_builtin
from .checks import checked_weights, first_non_finite
from .dataset import OracleDataset
from .formats import read_path
from .iterables import read_iterable
from .labels import by_label
from .latent_files import latent_format
from .latents import load_as_stored
from .manifest import Manifest
from .packed import PackedFolder
from .samples import Samples, labels_of, problem, samples_of
from .values import ValueMap, float_map

_KINDS = "the name of a built-in set, a path, a tensor, an array or an iterable of samples"


@dataclass(frozen=True)
class _ReadOptions:
    """The arguments of load_dataset that decide how a source is read."""

    key: str | None
    folder: str | os.PathLike[str] | None
    value_map: ValueMap | tuple[int | float, int | float] | None
    count: int | None
    seed: int


def load_dataset(
    source: Any,
    *,
    key: str | None = None,
    labels: Any = None,
    weights: Any = None,
    value_map: ValueMap | tuple[int | float, int | float] | None = None,
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
    value_map: from stored numbers to values, as in OracleDataset; or a pair (low, high), the values that the ends of
        the stored range get. That range is 0..255 for uint8, -127..127 for int8, that of a built-in set, and for floats
        the first of [0, 1], [-1, 1] and [0, 255] that holds all of them.
    storage: floating dtype to cast to, as in OracleDataset.
    folder: where the files of a built-in set are.
    count: how many samples to use, 1..N. "patches" draws that many; of anything else a random subset without
        replacement is taken, in the order of the source, and its labels and weights with it.
    seed: of that choice, an integer.

    Raises InputError for an argument that cannot be used or has no meaning for the source, DataFileError for a file
    that is absent, damaged or of another kind, and MissingDependencyError where a built-in set needs scikit-learn.
    Mapped files and arrays in memory are shared, not copied, unless `count` or `storage` makes new ones. Shards, and a
    file whose labels are in any order, stay in their files too where they are large (256 MiB): they may be larger than
    memory, a pass reads each byte once, and the files must stay as they are meanwhile. Of a folder that
    oracle_engine.pack has packed less than a hundredth is read, and a shard that is missing, new or changed is refused.

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
    packed = _packed(source, options, storage)
    if packed is not None:
        size = len(packed.rows)
        labels = None if labels is None else labels_of(labels, size, "labels")
        weights = None if weights is None else checked_weights(_weights_of(weights, size), size)
        ends = packed.manifest.low, packed.manifest.high
        chosen = None if value_map is None else _value_map(value_map, packed.rows.dtype, lambda: ends, None)
        return packed.dataset(labels, weights, chosen)
    samples, name, own_map = _read(source, options)
    size = len(samples.points)
    points, device = samples.points, samples.points.device
    labels = samples.labels if labels is None else labels_of(labels, size, "labels").to(device)
    weights = None if weights is None else _weights_of(weights, size).to(device)
    if count is not None and count != size:
        rows = choose_rows(size, count, seed).to(device)
        points, labels, weights = points[rows], _rows_of(labels, rows), _rows_of(weights, rows)
    elif by_label(labels)[0] is not None:
        points = samples.in_files()
    if value_map is not None:
        own_map = _value_map(value_map, points.dtype, lambda: (float(points.min()), float(points.max())), own_map)
    try:
        return OracleDataset(points, labels, weights, storage=storage, value_map=own_map, name=name)
    except InputError as error:
        raise _about_source(error, samples.points, source) from error


def _packed(source: Any, options: _ReadOptions, storage: torch.dtype | None) -> PackedFolder | None:
    """Return the packed folder that `source` is, or None where it is none, or where its samples have to be copied."""
    if not isinstance(source, str | os.PathLike) or source in BUILTINS or options.count is not None:
        return None
    folder = Path(source).expanduser()
    manifest = Manifest.read(folder)
    if manifest is None or manifest.key != options.key or storage not in (None, manifest.dtype):
        return None
    _refuse({"folder": options.folder}, "a path")
    return PackedFolder(folder, manifest)


def choose_rows(size: int, count: int, seed: int) -> Int64[Tensor, "n"]:
    """Return different indices below `size`, drawn uniformly without replacement, [count] int64, ascending.

    size: how many there are, N >= 1. count: how many to draw, 1..N. seed: of the generator, an integer.
    Raises InputError where `count` is no integer in 1..N, or `seed` is none that torch takes.
    """
    if not (isinstance(count, SupportsIndex) and 1 <= index(count) <= size):
        raise invalid("count", f"must lie in 1..{size:,}, the samples there are", count, "leave it out to use all")
    return torch.randperm(size, generator=seeded(seed))[: index(count)].sort().values


def _value_map(
    given: Any, dtype: torch.dtype, ends: Callable[[], tuple[float, float]], own: ValueMap | None
) -> ValueMap:
    """Return the map that the caller named, as such or by the range of the values; `ends` are those of the stored."""
    if isinstance(given, ValueMap):
        return given
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError):
        requirement = "must be a ValueMap or a pair of numbers (low, high)"
        raise invalid("value_map", requirement, repr(given), "pass (-1, 1) or ValueMap(2 / 255, -1)") from None
    if own is None and dtype.is_floating_point:
        own = float_map(*ends())
    return (own or ValueMap.default(dtype)).onto(low, high)


def _about_source(error: InputError, points: Tensor, source: Any) -> OracleError:
    """Return an error about samples, which names the file and the place in it where the samples are from one."""
    if error.parameter != "points" or not isinstance(source, str | os.PathLike):
        return error
    bad, received = first_non_finite(points), str(error).split("; received ")[-1].split(". Remedy: ")[0]
    found = received if bad is None else f"a NaN or an infinity in sample {bad}"
    expected = "numbers that can be squared" if bad is None else "finite numbers"
    return problem(Path(source), expected, found, error.remedy or "repair the file")


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
    if not str(source) or not path.exists():
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
    held = exact(weights, "weights")
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
