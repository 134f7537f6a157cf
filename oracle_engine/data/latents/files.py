"""Latents on disk in the formats of training projects: the format of a path, and its numbers as they are stored."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ...base.errors import bad_file, invalid
from ...base.mapped import open_safetensors
from ...base.outside.parts import FilePart
from ..formats import FRESH_COPY, member, read_npy, reading
from ..formats.label_files import LABELS_FILE
from ..samples import Samples, joined_points, labels_of, tensor_of
from .labels import MEAN_STD, is_mean_std, listed_latents

STATS_FILE = "latents_stats.pt"
FORMATS = ("lightningdit", "mean-std", "fast-dit")


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of the channels, float64, one number each or [C]."""

    mean: Float64[Tensor, "M"]
    std: Float64[Tensor, "S"]


@dataclass(frozen=True, eq=False)
class LatentFiles:
    """Latents in the numbers they are stored in.

    format: one of FORMATS. points: [N, C, H, W], floating. labels: [N] int64, or None.
    flips: whether the second half of the points are the latents of the mirrored images of the first.
    point_std: root mean square of the posterior standard deviations, in stored numbers, where the files hold them
        beside the means; else 0.
    stats: mean and std of the channels, from a file beside the points, or None.
    """

    format: str
    points: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"] | None
    flips: bool = False
    point_std: float = 0.0
    stats: ChannelStats | None = None


def latent_format(path: Path) -> str | None:
    """Return which of FORMATS a path is in, or None.

    path: any file or folder. File names decide and, for LightningDiT, the header of the first shard.
    Raises DataFileError where a zip archive or that shard is damaged.
    """
    if path.is_file() and path.suffix == ".zip":
        with reading(path, "a zip archive"), zipfile.ZipFile(path) as archive:
            return "mean-std" if any(is_mean_std(name) for name in archive.namelist()) else None
    shards = _shards(path)
    if shards and "latents" in _keys(shards[0]):
        return "lightningdit"
    if not path.is_dir():
        return None
    if next(chain(*(path.glob(f"{depth}{MEAN_STD}") for depth in ("", "*/", "*/*/"))), None) is not None:
        return "mean-std"
    return "fast-dit" if _pair(path) is not None else None


def read_latents(path: str | Path, *, flips: bool = True, storage: torch.dtype | None = None) -> LatentFiles:
    """Return the latents of a folder, a zip archive or a single shard.

    path: LightningDiT shards (.safetensors with `latents`, `latents_flip`, `labels`, beside latents_stats.pt); an EDM2
        or REPA folder or zip (img-mean-std-*.npy, dataset.json), of whose posteriors the means are taken; or the
        folder that holds fast-DiT's *_features and *_labels.
    flips: True takes latents_flip too, after all others, for training loops that draw one of the two at random.
    storage: floating dtype to cast to while reading; None keeps that of the files.

    Raises InputError for a storage dtype that is not floating, and DataFileError for other paths and for files that
    are damaged or do not fit together. Shards whose latents need no cast stay in their files where they are large; all
    other latents are copied into one tensor.
    """
    folder = Path(path).expanduser()
    if storage is not None and not storage.is_floating_point:
        raise invalid("storage", "must be a floating dtype", storage, "leave it out to keep the dtype of the files")
    if not folder.exists():
        raise bad_file(folder, "a folder, an archive or a shard of latents", "nothing", "check the path")
    found = latent_format(folder)
    if found == "lightningdit":
        return _read_lightningdit(folder, flips, storage)
    if found == "mean-std":
        return _read_mean_std(folder, storage)
    if found == "fast-dit":
        return _read_fast_dit(folder, storage)
    expected = f"latents: .safetensors with `latents`, {MEAN_STD}, or folders *_features and *_labels"
    raise bad_file(folder, expected, "none of these", "read other files with oracle_engine.load_dataset")


def _read_lightningdit(path: Path, flips: bool, storage: torch.dtype | None) -> LatentFiles:
    """Read the shards of LightningDiT, of which mirrored ones may be taken too."""
    shards = _shards(path)
    both = flips and _mirrored(shards)
    parts = ("latents", "latents_flip") if both else ("latents",)
    held = [_tensor(shard, part) for part in parts for shard in shards]
    points = held[0].points
    if len(held) > 1:
        points = _together(held, lambda i: shards[i % len(shards)], storage)
    labelled = ["labels" in _keys(shard) for shard in shards]
    if any(labelled) != all(labelled):
        raise bad_file(shards[labelled.index(False)], "labels, as other shards have", "none", FRESH_COPY)
    labels = torch.cat([_labels(shard) for shard in shards]).repeat(len(parts)) if all(labelled) else None
    points = points if storage is None else points.to(storage)
    return LatentFiles("lightningdit", points, labels, both, stats=_stats(path if path.is_dir() else path.parent))


def read_moments(path: str | os.PathLike[str]) -> tuple[Float[Tensor, "N C2 H W"], Int64[Tensor, "N"] | None]:
    """Return the means and standard deviations of the Gaussians of latents, [N, 2 C, H, W], and their labels or None.

    path: an EDM2 or REPA folder or zip (img-mean-std-*.npy, dataset.json); means are the first half of the channels.
    Raises DataFileError for other paths, damaged files, and widths below 0. All latents are read into one tensor.
    """
    folder = Path(path).expanduser()
    if not folder.exists() or latent_format(folder) != "mean-std":
        remedy = "name the folder or the zip that the project wrote"
        raise bad_file(folder, f"latents with means and widths, {MEAN_STD}", "none of these", remedy)

    def moments(part: Tensor) -> Tensor:
        """Return the moments of a latent, [1, 2 C, H, W]. Raises ValueError for a width below 0."""
        if bool((part[len(part) // 2 :] < 0).any()):
            raise ValueError("a standard deviation below 0")
        return part[None]

    return _each_moments(folder, moments, None)


def _read_mean_std(path: Path, storage: torch.dtype | None) -> LatentFiles:
    """Read the means of posteriors, with the mean width of all."""
    squares = []

    def mean(moments: Tensor) -> Tensor:
        """Return the mean of a latent, [1, C, H, W], and note the mean square of its widths."""
        middle, width = moments.chunk(2)
        squares.append(float(width.double().square().mean()))
        return middle[None]

    points, labels = _each_moments(path, mean, storage)
    return LatentFiles("mean-std", points, labels, point_std=float(np.mean(squares)) ** 0.5)


def _each_moments(
    path: Path, part: Callable[[Tensor], Tensor], storage: torch.dtype | None
) -> tuple[Float[Tensor, "N ..."], Int64[Tensor, "N"] | None]:
    """Return what `part` makes of the mean and std, [2 C, H, W], of each latent, in one tensor, and their labels."""
    with _archive(path) as (names, load):
        listed = listed_latents(path, names, load)
        files = list(listed)

        def made(index: int) -> Tensor:
            """Return what `part` makes of the moments in one file."""
            file = path / files[index]
            moments = tensor_of(load(files[index]), file)
            if moments.ndim != 3 or len(moments) % 2 or not moments.numel() or not moments.is_floating_point():
                found = f"{moments.dtype} {list(moments.shape)}"
                raise bad_file(file, "mean and std, [2 C, H, W], floating", found, FRESH_COPY)
            with reading(file, "mean and std, [2 C, H, W], floating"):
                return part(moments)

        points = _stacked([1] * len(files), made, lambda i: path / files[i], storage)
    given = [label for label in listed.values() if label is not None]
    return points, labels_of(given, len(files), path / LABELS_FILE) if given else None


def _read_fast_dit(path: Path, storage: torch.dtype | None) -> LatentFiles:
    """Read the features and labels of fast-DiT, a file for each latent."""
    pair = _pair(path)
    assert pair is not None
    features, labels = (sorted(folder.glob("*.npy"), key=_number) for folder in pair)
    if [file.name for file in features] != [file.name for file in labels]:
        found = f"{len(features)} features and {len(labels)} labels of other names"
        raise bad_file(path, "one label file for each file of features", found, FRESH_COPY)

    def single(index: int) -> Tensor:
        """Return the latent of one file, [1, C, H, W]."""
        points = read_npy(features[index]).points
        points = points[None] if points.ndim == 3 else points
        if points.ndim != 4 or len(points) != 1:
            raise bad_file(features[index], "one latent, [1, C, H, W]", f"shape {list(points.shape)}", FRESH_COPY)
        return points

    points = _stacked([1] * len(features), single, lambda i: features[i], storage)
    with reading(pair[1], "labels"):
        numbers = [np.load(file, allow_pickle=False).reshape(-1) for file in labels]
    odd = next((file for file, found in zip(labels, numbers, strict=True) if found.shape != (1,)), None)
    if odd is not None:
        raise bad_file(odd, "one label", f"{len(numbers[labels.index(odd)])} of them", FRESH_COPY)
    return LatentFiles("fast-dit", points, labels_of(np.concatenate(numbers), len(points), pair[1]))


def _together(held: Sequence[Samples], where: Callable[[int], Path], storage: torch.dtype | None) -> Tensor:
    """Return the latents of several files as one tensor; those that need no cast may stay in their files."""
    first = held[0].points
    for index, shard in enumerate(held):
        _check_kind(shard.points, first, index, where)
    if storage in (None, first.dtype):
        return joined_points(held)
    return _stacked([len(shard.points) for shard in held], lambda i: held[i].points, where, storage)


def _check_kind(rows: Tensor, first: Tensor, index: int, where: Callable[[int], Path]) -> None:
    if (rows.shape[1:], rows.dtype) != (first.shape[1:], first.dtype):
        wanted = f"{first.dtype} {list(first.shape[1:])} as in {where(0).name}"
        raise bad_file(where(index), wanted, f"{rows.dtype} {list(rows.shape[1:])}", "keep one kind in the folder")


def _stacked(
    sizes: Sequence[int],
    part: Callable[[int], Tensor],
    where: Callable[[int], Path],
    storage: torch.dtype | None,
) -> Tensor:
    """Return the parts in one tensor that is allocated once; the first decides shape and dtype."""
    first = part(0)
    points = torch.empty(sum(sizes), *first.shape[1:], dtype=storage or first.dtype)
    start = 0
    for index, size in enumerate(sizes):
        rows = first if index == 0 else part(index)
        _check_kind(rows, first, index, where)
        points[start : start + size] = rows
        start += size
    return points


@contextmanager
def _archive(path: Path) -> Iterator[tuple[set[str], Callable[[str], Any]]]:
    """Give the names in a folder or a zip archive, and what loads one: an array, or text for .json."""
    if path.is_dir():
        names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix in (".npy", ".json")}
        yield names, lambda name: _from_folder(path / name)
        return
    with reading(path, "a zip archive of latents"), zipfile.ZipFile(path) as archive:
        yield set(archive.namelist()), lambda name: _from_archive(archive, name)


def _from_folder(file: Path) -> Any:
    return file.read_text("utf-8-sig") if file.suffix == ".json" else read_npy(file).points


def _from_archive(archive: zipfile.ZipFile, name: str) -> Any:
    return (
        archive.read(name).decode("utf-8-sig") if name.endswith(".json") else member(archive, name.removesuffix(".npy"))
    )


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("."))
    return [path] if path.suffix == ".safetensors" and path.is_file() else []


def _mirrored(shards: Sequence[Path]) -> bool:
    """Return whether the shards hold mirrored latents too; what fits only some of them is an error."""
    held = ["latents_flip" in _keys(shard) for shard in shards]
    remedy = "encode that shard again, or read without mirrored latents by flips=False"
    for shard, both in zip(shards, held, strict=True):
        if not both and any(held):
            raise bad_file(shard, "latents_flip, as other shards have", "none", remedy, parameter="flips")
        with reading(shard, "latents"), open_safetensors(shard) as file:
            shapes = [file.shape(name) for name in ("latents", "latents_flip")[: 1 + both]]
        if len(shapes) > 1 and shapes[0] != shapes[1]:
            expected = f"latents_flip of the shape of latents, {shapes[0]}"
            raise bad_file(shard, expected, f"{shapes[1]}", remedy, parameter="flips")
    return all(held)


def _keys(shard: Path) -> list[str]:
    with reading(shard, "a .safetensors file"), open_safetensors(shard) as file:
        return list(file.keys())


def _tensor(shard: Path, name: str) -> Samples:
    """Return a tensor of latents in a shard, mapped."""
    with reading(shard, f"a tensor called {name!r}"), open_safetensors(shard) as file:
        points, start = tensor_of(file.tensor(name), shard), file.start(name)
    if points.ndim != 4 or not points.is_floating_point():
        raise bad_file(shard, f"{name} [N, C, H, W], floating", f"{points.dtype} {list(points.shape)}", FRESH_COPY)
    return Samples(points, None, FilePart.of(shard, start, len(points)) if start % points.itemsize == 0 else None)


def _labels(shard: Path) -> Int64[Tensor, "n"]:
    with reading(shard, "labels"), open_safetensors(shard) as file:
        return labels_of(file.tensor("labels").reshape(-1), file.shape("latents")[0], shard)


def _stats(folder: Path) -> ChannelStats | None:
    """Return the statistics of the channels that lie beside the shards, or None."""
    file = folder / STATS_FILE
    if not file.is_file():
        return None
    expected = "mean and std of the channels"
    with reading(file, expected):
        try:
            held = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise bad_file(file, expected, "content that only pickle could load", "save a dict of tensors") from error
        if not isinstance(held, dict) or not {"mean", "std"} <= set(held):
            raise bad_file(file, expected, f"{type(held).__name__} without them", "save a dict of tensors")
        return ChannelStats(*(torch.as_tensor(held[name], dtype=torch.float64).reshape(-1) for name in ("mean", "std")))


def _pair(path: Path) -> tuple[Path, Path] | None:
    features = sorted(path.glob("*_features"))
    labels = [folder.with_name(folder.name.removesuffix("_features") + "_labels") for folder in features]
    return (features[0], labels[0]) if len(features) == 1 and labels[0].is_dir() else None


def _number(file: Path) -> tuple[int, str]:
    return (int(file.stem) if file.stem.isdecimal() else -1, file.name)
