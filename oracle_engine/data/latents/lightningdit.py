"""Latents as LightningDiT writes them: shards of .safetensors, beside the statistics of their channels."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...base.arrays import Int64, Tensor
from ...base.errors import bad_file
from ...base.mapped import open_safetensors
from ...base.outside.parts import FilePart
from ..formats import FRESH_COPY, reading
from ..samples import Samples, joined_points, labels_of, tensor_of
from .stored import ChannelStats, LatentFiles, check_kind, stacked

STATS_FILE = "latents_stats.pt"


def read_lightningdit(path: Path, flips: bool, storage: torch.dtype | None) -> LatentFiles:
    """Read the shards of a folder, or a single one.

    path: where they are. flips: whether mirrored latents are taken too, after all others. storage: floating dtype to
    cast to, or None. Raises DataFileError for shards that are damaged or do not fit together.
    """
    shards = latent_shards(path)
    both = flips and _mirrored(shards)
    parts = ("latents", "latents_flip") if both else ("latents",)
    held = [_tensor(shard, part) for part in parts for shard in shards]
    points = held[0].points
    if len(held) > 1:
        points = _together(held, lambda i: shards[i % len(shards)], storage)
    labelled = ["labels" in keys(shard) for shard in shards]
    if any(labelled) != all(labelled):
        raise bad_file(shards[labelled.index(False)], "labels, as other shards have", "none", FRESH_COPY)
    labels = torch.cat([_labels(shard) for shard in shards]).repeat(len(parts)) if all(labelled) else None
    points = points if storage is None else points.to(storage)
    return LatentFiles("lightningdit", points, labels, both, stats=_stats(path if path.is_dir() else path.parent))


def _together(held: Sequence[Samples], where: Callable[[int], Path], storage: torch.dtype | None) -> Tensor:
    """Return the latents of several files as one tensor; those that need no cast may stay in their files."""
    first = held[0].points
    for index, shard in enumerate(held):
        check_kind(shard.points, first, index, where)
    if storage in (None, first.dtype):
        return joined_points(held)
    return stacked([len(shard.points) for shard in held], lambda i: held[i].points, where, storage)


def latent_shards(path: Path) -> list[Path]:
    """Return the shards in a folder, or the path itself where it is one."""
    if path.is_dir():
        return sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("."))
    return [path] if path.suffix == ".safetensors" and path.is_file() else []


def _mirrored(shards: Sequence[Path]) -> bool:
    """Return whether the shards hold mirrored latents too; what fits only some of them is an error."""
    held = ["latents_flip" in keys(shard) for shard in shards]
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


def keys(shard: Path) -> list[str]:
    """Return the names of the tensors in a shard. Raises DataFileError for a damaged one."""
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
