"""Latents as a data set: the normalisation that a training loop applies is named, applied and recorded."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ...base.arrays import Float, Numbers, Tensor, exact
from ...base.errors import InputError, invalid
from ..dataset import OracleDataset
from ..values import ValueMap
from .files import latent_format, read_latents
from .lightningdit import STATS_FILE
from .stored import LatentFiles

__all__ = ["LatentFiles", "Normalisation", "latent_format", "load_latents", "read_latents"]

# rows normalised at once
NORMALISED_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The map value = (stored - mean) / std * multiplier, with one mean and std, or one for each channel.

    mean: a finite number, or [C] numbers as a sequence, an array or a tensor. std: the same, finite and > 0.
    multiplier: finite and > 0.

    Normalisation() leaves the numbers as they are; Normalisation(multiplier=0.18215) is the one of Stable Diffusion's
    latents (Rombach et al. 2022). Raises InputError for numbers outside these ranges.
    """

    mean: Numbers = 0.0
    std: Numbers = 1.0
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.multiplier, (float, int)):
            remedy = "pass a number, such as 0.18215"
            raise invalid("normalisation", "must have a number as multiplier", repr(self.multiplier), remedy)
        if not all(0.0 < value < math.inf for value in (*_numbers(self.std), self.multiplier)):
            raise invalid(
                "normalisation", "must have positive finite std and multiplier", repr(self), "check the statistics"
            )
        if not all(math.isfinite(value) for value in _numbers(self.mean)):
            raise invalid("normalisation", "must have a finite mean", repr(self), "check the statistics")

    @property
    def per_channel(self) -> bool:
        """Whether mean or std differ between channels."""
        return len(set(_numbers(self.mean))) > 1 or len(set(_numbers(self.std))) > 1

    @property
    def value_map(self) -> ValueMap:
        """The same map for one mean and std, which leaves the stored numbers as they are."""
        scale = self.multiplier / _numbers(self.std)[0]
        return ValueMap(scale, -_numbers(self.mean)[0] * scale)

    @property
    def mean_scale(self) -> float:
        """The root mean square over channels of multiplier / std, by which a standard deviation is multiplied."""
        scales = [self.multiplier / std for std in _numbers(self.std)]
        return math.sqrt(sum(scale**2 for scale in scales) / len(scales))

    def apply(self, points: Float[Tensor, "N C H W"], storage: torch.dtype) -> Float[Tensor, "N C H W"]:
        """Return the normalised values, [N, C, H, W] of `storage`, computed in float64 and rounded once; a copy.

        points: [N, C, H, W] floating, the stored numbers. storage: floating dtype of the result.
        Raises InputError where mean or std have neither one number nor one for each channel.
        """
        mean, std = (torch.tensor(_numbers(part), dtype=torch.float64) for part in (self.mean, self.std))
        for part in (mean, std):
            if len(part) not in (1, points.shape[1]):
                wanted = f"must have one number, or one for each of {points.shape[1]} channels"
                raise invalid("normalisation", wanted, len(part), "check that the statistics belong to these latents")
        values = torch.empty(points.shape, dtype=storage)
        for start in range(0, len(points), NORMALISED_ROWS):
            rows = slice(start, start + NORMALISED_ROWS)
            values[rows] = (points[rows].double() - mean[:, None, None]) / std[:, None, None] * self.multiplier
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

    path: a folder, an archive or a shard, as in read_latents. flips: True takes mirrored latents too, as there.
    normalisation: a Normalisation, "stats" for the mean and std in latents_stats.pt, or None for the numbers as they
        are. There is no default, because V(t), the transition and every log-density depend on it.
    storage: floating dtype of the samples. float16 keeps the digits of latents; bfloat16 loses some that matter.

    One mean and std become the value map and leave the stored numbers as they are. Channels that differ are applied to
    the numbers themselves, in float32 unless `storage` says otherwise. The name of the data set ends in the
    normalisation. The function warns where the files hold Gaussians: it takes their means, and a training loop that
    draws from the Gaussians has another oracle.

    Raises InputError for a normalisation or a storage dtype that cannot be used, and DataFileError for files that are
    absent, damaged or of another kind. All latents are read once.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> from oracle_engine.data.latents.latents import Normalisation, load_latents
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"latents": torch.ones(4, 2, 3, 3), "labels": torch.arange(4)}, f"{folder}/shard.safetensors")
    ...     data = load_latents(folder, Normalisation(multiplier=0.5), storage=torch.float16)
    >>> data.sample_shape, data.storage, data[0].unique().tolist()
    ((2, 3, 3), torch.float16, [0.5])
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


def load_as_stored(
    path: Path, value_map: ValueMap | tuple[int | float, int | float] | None, *, stacklevel: int = 2
) -> LatentFiles:
    """Return latents for a caller that named no normalisation, and warn where a training loop would apply one.

    path: as in read_latents. value_map: the map that the caller named, which silences the warning, or None.
    stacklevel: of the warning, the number of calls from this function up to the user's.
    Raises DataFileError as read_latents does.
    """
    files = read_latents(path)
    if value_map is None and (files.stats is not None or files.format == "mean-std"):
        warnings.warn(_AS_STORED.format(path=path), stacklevel=stacklevel)
    return files


_GAUSSIANS = (
    "{path} holds a Gaussian for each image, of which the means are taken. A training loop that draws from them makes "
    "every sample a Gaussian of about {width:.3g} in each direction: pass OracleEngine(data, point_std={width:.3g})."
)
_AS_STORED = (
    "{path} is read as it is stored, but training loops normalise these latents, and V(t) and the transition depend on "
    "it. In Python, oracle_engine.load_latents(path, normalisation) names it, and what it returns can be saved for the "
    "command line by save()."
)


def _resolve(normalisation: Normalisation | str | None, files: LatentFiles, path: Path) -> Normalisation:
    """Return the normalisation that is asked for. Raises InputError where it lacks its statistics."""
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


def _numbers(value: Numbers) -> tuple[float, ...]:
    """Return one number, or one a channel. Raises InputError for anything else."""
    try:
        held = exact(value).reshape(-1)
    except InputError:
        held = torch.empty(0)
    if held.numel() == 0:
        requirement = "must have numbers as mean and std, one or one for each channel"
        remedy = "pass Normalisation(0.5, 2.0), or tensors [C]"
        raise invalid("normalisation", requirement, repr(value), remedy)
    return tuple(held.tolist())
