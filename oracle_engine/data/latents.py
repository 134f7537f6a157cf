"""Latents as a data set: the normalisation a training loop applies is named, applied and recorded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base.arrays import Float, Tensor
from ..base.errors import invalid
from .dataset import OracleDataset, ValueMap
from .latent_files import STATS_FILE, LatentFiles, latent_format, read_latents

__all__ = ["LatentFiles", "Normalisation", "latent_format", "load_latents", "read_latents"]

# rows normalised at once
BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Normalisation:
    """value = (stored - mean) / std * multiplier, with one mean and std, or one for each channel.

    Normalisation() leaves the numbers as they are; Normalisation(multiplier=0.18215) is what Stable Diffusion's
    latents are trained with; "stats" in its place takes the channels of a file latents_stats.pt.
    """

    mean: float | Sequence[float] | Tensor = 0.0
    std: float | Sequence[float] | Tensor = 1.0
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not all(0.0 < value < math.inf for value in (*_numbers(self.std), self.multiplier)):
            raise invalid(
                "normalisation", "must have positive finite std and multiplier", repr(self), "check the statistics"
            )
        if not all(math.isfinite(value) for value in _numbers(self.mean)):
            raise invalid("normalisation", "must have a finite mean", repr(self), "check the statistics")

    @property
    def per_channel(self) -> bool:
        """Whether channels differ."""
        return len(set(_numbers(self.mean))) > 1 or len(set(_numbers(self.std))) > 1

    @property
    def value_map(self) -> ValueMap:
        """The same for one mean and std, exactly, without touching the stored numbers."""
        scale = self.multiplier / _numbers(self.std)[0]
        return ValueMap(scale, -_numbers(self.mean)[0] * scale)

    @property
    def mean_scale(self) -> float:
        """The root mean square of multiplier / std: by how much a width grows."""
        scales = [self.multiplier / std for std in _numbers(self.std)]
        return math.sqrt(sum(scale**2 for scale in scales) / len(scales))

    def apply(self, points: Float[Tensor, "N C H W"], storage: torch.dtype) -> Float[Tensor, "N C H W"]:
        """Return the values in the dtype `storage`, computed in float64 and rounded once; a copy.

        Raises InputError where the number of channels differs.
        """
        mean, std = (torch.tensor(_numbers(part), dtype=torch.float64) for part in (self.mean, self.std))
        for part in (mean, std):
            if len(part) not in (1, points.shape[1]):
                wanted = f"must have one number, or one for each of {points.shape[1]} channels"
                raise invalid("normalisation", wanted, len(part), "check that the statistics belong to these latents")
        values = torch.empty(points.shape, dtype=storage)
        for start in range(0, len(points), BLOCK):
            block = points[start : start + BLOCK].double()
            values[start : start + BLOCK] = (block - mean[:, None, None]) / std[:, None, None] * self.multiplier
        return values

    def __str__(self) -> str:
        if not self.per_channel and self.value_map == ValueMap():
            return "as stored"
        if not self.per_channel:
            return f"(x - {_numbers(self.mean)[0]:g}) / {_numbers(self.std)[0]:g} * {self.multiplier:g}"
        ends = [f"{min(numbers):.3g}..{max(numbers):.3g}" for numbers in (_numbers(self.mean), _numbers(self.std))]
        return f"(x - mean) / std * {self.multiplier:g} per channel, mean {ends[0]}, std {ends[1]}"


def load_latents(
    path: str | Path,
    normalisation: Normalisation | str | None,
    *,
    flips: bool = True,
    storage: torch.dtype | None = None,
) -> OracleDataset:
    """Return latents on disk as a data set whose values are those that a model is trained on.

    path, flips: as in read_latents. normalisation: a Normalisation, "stats" for that of latents_stats.pt, or None for
        the numbers as they are. There is no default, because V(t), the transition and every log-density depend on it.
    storage: floating dtype of the samples. float16 suits latents; bfloat16 loses digits that count.

    One mean and std become the value map, with the stored numbers as they are. Different channels have to be applied to
    the numbers themselves, in float32 unless `storage` says otherwise. The name of the data set says which it was.
    Warns where the files hold Gaussians: their means are taken, and a loop that draws from them has another oracle.
    Raises InputError and DataFileError as read_latents and Normalisation do.
    """
    # numbers that are still to be normalised are rounded once, afterwards
    early = normalisation is None or (isinstance(normalisation, Normalisation) and not normalisation.per_channel)
    files = read_latents(path, flips=flips, storage=storage if early else None)
    chosen = _resolve(normalisation, files, Path(path))
    name = f"{Path(path).resolve().stem}: {chosen}"
    if files.point_std > 0.0:
        width = files.point_std * chosen.mean_scale
        warnings.warn(_GAUSSIANS.format(path=path, width=width), stacklevel=2)
    if chosen.per_channel:
        return OracleDataset(chosen.apply(files.points, storage or torch.float32), files.labels, name=name)
    return OracleDataset(files.points, files.labels, storage=storage, value_map=chosen.value_map, name=name)


def load_as_stored(path: Path, value_map: ValueMap | None) -> LatentFiles:
    """Return latents for a caller that named no normalisation; warns where a training loop would apply one."""
    files = read_latents(path)
    if value_map is None and (files.stats is not None or files.format == "mean-std"):
        warnings.warn(_AS_STORED.format(path=path), stacklevel=4)
    return files


_GAUSSIANS = (
    "{path} holds a Gaussian for each image, of which the means are taken. A training loop that draws from them makes "
    "every sample a Gaussian of about {width:.3g} in each direction: pass OracleEngine(data, point_std={width:.3g})."
)
_AS_STORED = (
    "{path} is read as it is stored, but training loops normalise these latents, and V(t) and the transition depend on "
    "it. Name the normalisation: oracle_engine.data.latents.load_latents(path, normalisation), or pass value_map=."
)


def _resolve(normalisation: Normalisation | str | None, files: LatentFiles, path: Path) -> Normalisation:
    if normalisation is None:
        return Normalisation()
    if isinstance(normalisation, Normalisation):
        return normalisation
    if normalisation != "stats":
        received = repr(normalisation)
        raise invalid("normalisation", "must be a Normalisation, 'stats' or None", received, "pass 'stats'")
    if files.stats is None:
        remedy = f"put {STATS_FILE} beside the shards, or pass Normalisation(mean, std)"
        raise invalid("normalisation", f"needs {STATS_FILE}", f"none in {path}", remedy)
    return Normalisation(files.stats.mean, files.stats.std)


def _numbers(value: float | Sequence[float] | Tensor) -> tuple[float, ...]:
    if isinstance(value, Tensor):
        return tuple(value.double().reshape(-1).tolist())
    return tuple(float(number) for number in value) if isinstance(value, Sequence) else (float(value),)
