"""Latents as EDM2 and REPA write them: mean and standard deviation of each in a file of a folder or a zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.arrays import Float, Int64, Tensor
from ...base.errors import bad_file
from ..formats import FRESH_COPY, member, read_npy, reading
from ..formats.label_files import LABELS_FILE
from ..samples import labels_of, tensor_of
from .labels import listed_latents
from .stored import LatentFiles, stacked


def read_mean_std_moments(path: Path) -> tuple[Float[Tensor, "N C2 H W"], Int64[Tensor, "N"] | None]:
    """Return means and standard deviations, [N, 2 C, H, W], and labels; raises DataFileError for widths below 0."""

    def moments(part: Tensor) -> Tensor:
        """Return the moments of a latent, [1, 2 C, H, W]. Raises ValueError for a width below 0."""
        if bool((part[len(part) // 2 :] < 0).any()):
            raise ValueError("a standard deviation below 0")
        return part[None]

    return _each_moments(path, moments, None)


def read_mean_std(path: Path, storage: torch.dtype | None) -> LatentFiles:
    """Read the means of posteriors, with the mean width of all.

    path: of a folder or a zip archive. storage: floating dtype to cast to, or None.
    Raises DataFileError for damaged files.
    """
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

        points = stacked([1] * len(files), made, lambda i: path / files[i], storage)
    given = [label for label in listed.values() if label is not None]
    return points, labels_of(given, len(files), path / LABELS_FILE) if given else None


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
