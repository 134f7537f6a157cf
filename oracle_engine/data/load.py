"""load_dataset: a built-in set, a file, a folder, an array or an iterable, made into an OracleDataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .formats import Pictures, open_path, read_labels, read_npy
from .iterables import read_items, read_iterable
from .labels import by_label
from .latents.files import latent_format
from .latents.latents import load_as_stored
from .packs.manifest import Manifest
from .packs.packed import PackedFolder
from .picture_cache import POINTS, cached_pictures, chosen_pictures
from .pictures import PictureForm
from .samples import Choice, ClassLabels, Samples, labels_of, problem, samples_of
from .values import ValueMap, float_map

_KINDS = "the name of a built-in set, a path, a tensor, an array or an iterable of samples"


@dataclass(frozen=True)
class _Asked:
    """The arguments of load_dataset beside the source."""

    key: str | None
    labels: Any
    weights: Any
    value_map: ValueMap | tuple[int | float, int | float] | None
    storage: torch.dtype | None
    folder: str | os.PathLike[str] | None
    count: int | None
    seed: int
    form: PictureForm


@dataclass(frozen=True, eq=False)
class _Found:
    """What a source holds: samples or a packed folder, the name of the set, and what else is known of it.

    labels: returns those that come with the samples that are held, or None. origin: what the source was taken for, in
    words, or "". names: of all samples of the source, or None. own_map: from the stored numbers to values, or None.
    choice: which samples are held where that was decided before they were read, or None.
    """

    held: Samples | PackedFolder
    name: str
    labels: Callable[[], ClassLabels | None]
    origin: str = ""
    names: Sequence[str] | None = None
    own_map: ValueMap | None = None
    choice: Choice | None = None


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
    size: int | tuple[int, int] | None = None,
    gray: bool = False,
) -> OracleDataset:
    """Return the data set that a name, a path, an array or an iterable stands for.

    source: the name of a built-in set (a key of BUILTINS; "./digits" is a path); the path of a folder, a zip or a tar
        of pictures (folders inside are classes), of an .npy, .npz, .safetensors, .pt, IDX, CIFAR, HDF5, zarr, parquet
        or LMDB file, of a file that OracleDataset.save wrote, of a folder of shards, or of latents as load_latents
        reads them; a tensor or array [N, *shape]; or a finite iterable or data set of samples, pictures of Pillow,
        pairs, dicts or batches, as :func:`.iterables.read_iterable` takes them. A file is taken for what its content
        says, then for what its name says.
    key: which array or column of a file holds the samples, where there are several.
    labels: [N] integers, which replace those of the source, or the path of a file of them (.npy, .txt, .csv, .json), of
        pictures also by their names. weights: [N] non-negative, not all zero.
    value_map: from stored numbers to values, as in OracleDataset; or a pair (low, high), the values that the ends of
        the stored range get. That range is 0..255 for uint8, -127..127 for int8, that of a built-in set, and for floats
        the first of [0, 1], [-1, 1] and [0, 255] that holds all of them.
    storage: floating dtype to cast to, as in OracleDataset.
    folder: where the files of a built-in set are.
    count: how many samples to use, 1..N. "patches" draws that many; of anything else a random subset without
        replacement is taken, in the order of the source, and its labels and weights with it. Of pictures, and of data
        sets that are indexed, the others are not decoded.
    seed: of that choice, an integer.
    size: height and width, one number or two, to which pictures are cropped about their centre and scaled; None keeps
        theirs, which have to be equal. gray: whether pictures get one channel.

    Raises InputError for an argument that cannot be used or has no meaning for the source, DataFileError for a file
    that is absent, damaged or of another kind, and MissingDependencyError where a library is needed that is absent.
    Mapped files and arrays in memory are shared, not copied, unless `count` or `storage` makes new ones. Shards, and a
    file whose labels are in any order, stay in their files too where they are large (256 MiB): they may be larger than
    memory, a pass reads each byte once, and the files must stay as they are meanwhile. Of a folder that
    oracle_engine.pack has packed less than a hundredth is read, and a shard that is missing, new or changed is refused.
    Pictures are decoded once, into a packed set below ORACLE_CACHE that the next call finds.

    >>> import torch
    >>> from oracle_engine import load_dataset
    >>> data = load_dataset(torch.arange(6.0).reshape(3, 2), labels=[0, 1, 1], count=2, seed=0)
    >>> len(data), data.sample_shape, data.storage
    (2, (2,), torch.float32)
    """
    asked = _Asked(key, labels, weights, value_map, storage, folder, count, seed, PictureForm.of(size, gray))
    if _is_saved(source):
        return _saved(Path(source).expanduser(), asked)
    found = _packed(source, asked) or _read(source, asked)
    data = _of_folder(found, asked) if isinstance(found.held, PackedFolder) else _of_samples(found, asked, source)
    data.name, data.origin = found.name, found.origin
    return data


def choose_rows(size: int, count: int, seed: int) -> Int64[Tensor, "n"]:
    """Return different indices below `size`, drawn uniformly without replacement, [count] int64, ascending.

    size: how many there are, N >= 1. count: how many to draw, 1..N. seed: of the generator, an integer.
    Raises InputError where `count` is no integer in 1..N, or `seed` is none that torch takes.
    """
    if not (isinstance(count, SupportsIndex) and 1 <= index(count) <= size):
        raise invalid("count", f"must lie in 1..{size:,}, the samples there are", count, "leave it out to use all")
    return torch.randperm(size, generator=seeded(seed))[: index(count)].sort().values


def _is_saved(source: Any) -> bool:
    """Return whether a source is a file that OracleDataset.save wrote."""
    if not isinstance(source, (str, os.PathLike)) or Path(source).suffix != ".safetensors":
        return False
    # the reader raises the error about a file that cannot be opened
    with suppress(OSError):
        return OracleDataset.is_saved(Path(source).expanduser())
    return False


def _saved(path: Path, asked: _Asked) -> OracleDataset:
    given = {"labels": asked.labels, "weights": asked.weights, "value_map": asked.value_map, "storage": asked.storage}
    others = {"key": asked.key, "folder": asked.folder, "count": asked.count, **asked.form.given}
    _refuse({**given, **others}, "a file that OracleDataset.save wrote")
    return OracleDataset.load(path)


def _packed(source: Any, asked: _Asked) -> _Found | None:
    """Return the packed folder that `source` is, or None where it is none, or where its samples have to be copied."""
    if not isinstance(source, (str, os.PathLike)) or source in BUILTINS or asked.count is not None:
        return None
    folder = Path(source).expanduser()
    manifest = Manifest.read(folder)
    if manifest is None or manifest.key != asked.key or asked.storage not in (None, manifest.dtype):
        return None
    _refuse({"folder": asked.folder, **asked.form.given}, "a packed folder of shards")
    return _Found(PackedFolder(folder, manifest), folder.resolve().stem, lambda: None, "a folder of shards")


def _read(source: Any, asked: _Asked) -> _Found:
    """Return what a source holds, whatever it is."""
    if isinstance(source, str) and source in BUILTINS:
        return _read_builtin(source, asked)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, asked)
    _refuse({"key": asked.key, "folder": asked.folder}, "samples in memory")
    samples, choice = _from_memory(source, asked)
    return _Found(samples, "data", lambda: ClassLabels.of(samples.labels), choice=choice)


def _read_builtin(name: str, asked: _Asked) -> _Found:
    _refuse({"key": asked.key, **asked.form.given}, f"the built-in set {name!r}")
    folder = None if asked.folder is None else Path(asked.folder).expanduser()
    samples = load_builtin(name, folder=folder, count=asked.count, seed=asked.seed)
    return _Found(samples, name, lambda: ClassLabels.of(samples.labels), own_map=BUILTINS[name].value_map)


def _read_path(source: str | os.PathLike[str], asked: _Asked) -> _Found:
    """Return what a file or a folder holds."""
    _refuse({"folder": asked.folder}, "a path")
    path = Path(source).expanduser()
    if not str(source) or not path.exists():
        raise _unknown(str(source))
    name, kind = path.resolve().stem, None if asked.key is not None else latent_format(path)
    if kind is not None:
        _refuse(asked.form.given, "latents")
        latents = load_as_stored(path, asked.value_map, stacklevel=5)
        return _Found(Samples(latents.points), name, lambda: ClassLabels.of(latents.labels), f"latents ({kind})")
    words, held = open_path(path, asked.key)
    if not isinstance(held, Pictures):
        _refuse(asked.form.given, words)
        return _Found(held, name, lambda: ClassLabels.of(held.labels), words)
    return _of_pictures(held, asked, name, words)


def _of_pictures(held: Pictures, asked: _Asked, name: str, words: str) -> _Found:
    """Return what encoded pictures show."""
    size = len(held.names)
    if asked.count is not None and asked.count != size:
        choice = Choice(choose_rows(size, asked.count, asked.seed), size)
        points = chosen_pictures(held, asked.form, choice.rows)
        return _Found(points, name, lambda: _some(held.labels(), choice.rows), words, held.names, choice=choice)
    folder = cached_pictures(held, asked.form)
    found = folder if asked.storage is None else read_npy(folder.folder / POINTS)
    return _Found(found, name, held.labels, words, held.names)


def _from_memory(source: Any, asked: _Asked) -> tuple[Samples, Choice | None]:
    """Return the samples of a tensor, an array or an iterable, and which they are where only some were read."""
    if isinstance(source, (Tensor, np.ndarray)):
        _refuse(asked.form.given, "an array")
        return samples_of(source, None, "source"), None
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if isinstance(source, (OracleDataset, Mapping)) or not (indexed or isinstance(source, Iterable)):
        raise invalid("source", f"must be {_KINDS}", type(source).__name__, "wrap the samples as one of these")
    count, some = asked.count, None
    if count is not None:
        some = read_items(source, asked.form, lambda size: choose_rows(size, count, asked.seed))
    return some or (read_iterable(source, asked.form), None)


def _of_folder(found: _Found, asked: _Asked) -> OracleDataset:
    """Return the data set of a packed folder, of which next to nothing is read."""
    packed = found.held
    assert isinstance(packed, PackedFolder)
    size = len(packed.rows)
    labels = _labels(found, asked, size)
    weights = None if asked.weights is None else checked_weights(_weights_of(asked.weights, size), size)
    ends = packed.manifest.low, packed.manifest.high
    own = None if asked.value_map is None else _value_map(asked.value_map, packed.rows.dtype, lambda: ends, None)
    data = packed.dataset(None if labels is None else labels.numbers, weights, own)
    data.class_names = () if labels is None else labels.names
    if found.names is not None:
        # of pictures it is that of the same numbers from any other source
        data.__dict__.pop("fingerprint", None)
    return data


def _of_samples(found: _Found, asked: _Asked, source: Any) -> OracleDataset:
    """Return the data set of samples, or of some of them."""
    samples, choice = found.held, found.choice
    assert isinstance(samples, Samples)
    points, device = samples.points, samples.points.device
    size = len(points) if choice is None else choice.size
    classes = _labels(found, asked, size)
    labels = None if classes is None else classes.numbers.to(device)
    weights = None if asked.weights is None else _weights_of(asked.weights, size).to(device)
    if choice is not None:
        weights = _rows_of(weights, choice.rows)
    elif asked.count is not None and asked.count != size:
        rows = choose_rows(size, asked.count, asked.seed).to(device)
        points, labels, weights = points[rows], _rows_of(labels, rows), _rows_of(weights, rows)
    elif by_label(labels)[0] is not None:
        points = samples.in_files()
    own = found.own_map
    if asked.value_map is not None:
        own = _value_map(asked.value_map, points.dtype, lambda: (float(points.min()), float(points.max())), own)
    try:
        data = OracleDataset(points, labels, weights, storage=asked.storage, value_map=own)
    except InputError as error:
        raise _about_source(error, samples.points, source) from error
    data.class_names = () if classes is None else classes.names
    return data


def _labels(found: _Found, asked: _Asked, size: int) -> ClassLabels | None:
    """Return the labels that the caller gave, in memory or in a file, or those of the source."""
    if asked.labels is None:
        return found.labels()
    if isinstance(asked.labels, (str, os.PathLike)):
        given = read_labels(Path(asked.labels).expanduser(), found.names, size)
    else:
        given = ClassLabels(labels_of(asked.labels, size, "labels"))
    return given if found.choice is None else given.take(found.choice.rows)


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
    if error.parameter != "points" or not isinstance(source, (str, os.PathLike)):
        return error
    bad, received = first_non_finite(points), str(error).split("; received ")[-1].split(". Remedy: ")[0]
    found = received if bad is None else f"a NaN or an infinity in sample {bad}"
    expected = "numbers that can be squared" if bad is None else "finite numbers"
    return problem(Path(source), expected, found, error.remedy or "repair the file")


def _some(labels: ClassLabels | None, rows: Int64[Tensor, "n"]) -> ClassLabels | None:
    return None if labels is None else labels.take(rows)


def _rows_of(tensor: Tensor | None, rows: Int64[Tensor, "n"]) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _weights_of(weights: Any, size: int) -> Float64[Tensor, "N"]:
    """Return weights as the caller gave them, [N]. Raises InputError for another number of them."""
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
