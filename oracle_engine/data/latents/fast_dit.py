"""Latents as fast-DiT writes them: a folder of features and one of labels, a file for each latent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...base.arrays import Tensor
from ...base.errors import bad_file
from ..formats import FRESH_COPY, read_npy, reading
from ..samples import labels_of
from .stored import LatentFiles, stacked


def read_fast_dit(path: Path, storage: torch.dtype | None) -> LatentFiles:
    """Read the features and the labels of a folder, a file for each latent.

    path: of the folder that holds both. storage: floating dtype to cast to, or None.
    Raises DataFileError for files that are damaged or do not fit together.
    """
    pair = feature_folders(path)
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

    points = stacked([1] * len(features), single, lambda i: features[i], storage)
    with reading(pair[1], "labels"):
        numbers = [np.load(file, allow_pickle=False).reshape(-1) for file in labels]
    odd = next((file for file, found in zip(labels, numbers, strict=True) if found.shape != (1,)), None)
    if odd is not None:
        raise bad_file(odd, "one label", f"{len(numbers[labels.index(odd)])} of them", FRESH_COPY)
    return LatentFiles("fast-dit", points, labels_of(np.concatenate(numbers), len(points), pair[1]))


def feature_folders(path: Path) -> tuple[Path, Path] | None:
    """Return the folders of features and of labels in a folder, or None where it has no such pair."""
    features = sorted(path.glob("*_features"))
    labels = [folder.with_name(folder.name.removesuffix("_features") + "_labels") for folder in features]
    return (features[0], labels[0]) if len(features) == 1 and labels[0].is_dir() else None


def _number(file: Path) -> tuple[int, str]:
    return (int(file.stem) if file.stem.isdecimal() else -1, file.name)
