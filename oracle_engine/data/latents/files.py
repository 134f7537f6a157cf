"""Latents on disk in the formats of training projects: which format a path is in, and what reads it."""

from __future__ import annotations

import os
import zipfile
from itertools import chain
from pathlib import Path

import torch

from ...base.arrays import Float, Int64, Tensor
from ...base.errors import bad_file, invalid
from ..formats import reading
from .fast_dit import feature_folders, read_fast_dit
from .labels import MEAN_STD, is_mean_std
from .lightningdit import keys, latent_shards, read_lightningdit
from .mean_std import read_mean_std, read_mean_std_moments
from .stored import LatentFiles

FORMATS = ("lightningdit", "mean-std", "fast-dit")


def latent_format(path: Path) -> str | None:
    """Return which of FORMATS a path is in, or None.

    path: any file or folder. File names decide and, for LightningDiT, the header of the first shard.
    Raises DataFileError where a zip archive or that shard is damaged.
    """
    if path.is_file() and path.suffix == ".zip":
        with reading(path, "a zip archive"), zipfile.ZipFile(path) as archive:
            return "mean-std" if any(is_mean_std(name) for name in archive.namelist()) else None
    shards = latent_shards(path)
    if shards and "latents" in keys(shards[0]):
        return "lightningdit"
    if not path.is_dir():
        return None
    if next(chain(*(path.glob(f"{depth}{MEAN_STD}") for depth in ("", "*/", "*/*/"))), None) is not None:
        return "mean-std"
    return "fast-dit" if feature_folders(path) is not None else None


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
        return read_lightningdit(folder, flips, storage)
    if found == "mean-std":
        return read_mean_std(folder, storage)
    if found == "fast-dit":
        return read_fast_dit(folder, storage)
    expected = f"latents: .safetensors with `latents`, {MEAN_STD}, or folders *_features and *_labels"
    raise bad_file(folder, expected, "none of these", "read other files with oracle_engine.load_dataset")


def read_moments(path: str | os.PathLike[str]) -> tuple[Float[Tensor, "N C2 H W"], Int64[Tensor, "N"] | None]:
    """Return the means and standard deviations of the Gaussians of latents, [N, 2 C, H, W], and their labels or None.

    path: an EDM2 or REPA folder or zip (img-mean-std-*.npy, dataset.json); means are the first half of the channels.
    Raises DataFileError for other paths, damaged files, and widths below 0. All latents are read into one tensor.
    """
    folder = Path(path).expanduser()
    if not folder.exists() or latent_format(folder) != "mean-std":
        remedy = "name the folder or the zip that the project wrote"
        raise bad_file(folder, f"latents with means and widths, {MEAN_STD}", "none of these", remedy)
    return read_mean_std_moments(folder)
