"""Folders of .npy, .npz and .safetensors files that together are one data set."""

from __future__ import annotations

from pathlib import Path

import torch

from ...base.errors import bad_file
from ..samples import Samples, joined_points
from .naming import check_unkeyed
from .npy import read_npy
from .npz import read_npz
from .picture_lists import has_pictures
from .reading import reading
from .tensors import read_safetensors

SHARD_SUFFIXES = (".npy", ".npz", ".safetensors")


def read_shards(folder: Path, key: str | None = None) -> Samples:
    """Return the samples of all .npy, .npz and .safetensors files of a folder, in the order of their names.

    folder: where the files are. key: the array to take of each .npz or .safetensors file.
    Raises DataFileError where there is no such file, where shapes or dtypes differ, and where only some have labels.
    Shards stay in their files, small ones of .npz and of few megabytes together are copied into one tensor.
    """
    shards = open_shards(folder, key)
    first = shards[0]
    if len(shards) == 1:
        return first
    labels = None if first.labels is None else torch.cat([shard.labels for shard in shards if shard.labels is not None])
    return Samples(joined_points(shards), labels)


def shard_files(folder: Path) -> list[Path]:
    """Return the .npy, .npz and .safetensors files of a folder in the order of their names.

    folder: where they are. Raises DataFileError where there is none.
    """
    with reading(folder, "a folder"):
        present = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    files = [file for file in present if file.suffix in SHARD_SUFFIXES]
    if not files:
        found = ", ".join(file.name for file in present[:8]) or "an empty folder"
        remedy = "pass the folder that has them, or pictures"
        if has_pictures(folder):
            remedy = "leave pictures as they are: they are packed below ORACLE_CACHE when they are first used as data"
        raise bad_file(folder, f"files ending in {', '.join(SHARD_SUFFIXES)}", found, remedy)
    return files


def open_shards(folder: Path, key: str | None = None) -> list[Samples]:
    """Return the samples of each file of :func:`shard_files`, mapped where the format allows it.

    folder: where the files are. key: the array to take of each .npz or .safetensors file.
    Raises DataFileError where shapes or dtypes differ, and where only some have labels.
    """
    files = shard_files(folder)
    shards = [_read_shard(file, key) for file in files]
    first = shards[0]
    for file, shard in zip(files, shards, strict=True):
        if _kind(shard) != _kind(first):
            remedy = "keep only shards of one kind in the folder, with labels in all of them or in none"
            raise bad_file(file, f"{_kind(first)} as in {files[0].name}", _kind(shard), remedy)
    return shards


def _read_shard(file: Path, key: str | None) -> Samples:
    """Return the samples of one shard, by its suffix."""
    if file.suffix == ".npz":
        return read_npz(file, key)
    if file.suffix == ".safetensors":
        return read_safetensors(file, key)
    check_unkeyed(file, key)
    return read_npy(file)


def _kind(shard: Samples) -> str:
    labelled = "without labels" if shard.labels is None else "with labels"
    dtype = str(shard.points.dtype).removeprefix("torch.")
    return f"{dtype} samples of shape {list(shard.points.shape[1:])} {labelled}"
