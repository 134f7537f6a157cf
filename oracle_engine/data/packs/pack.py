"""Pack: what preparation computes of a folder of shards is kept beside them, for the next start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ...base.errors import DataFileError, InputError, bad_file, invalid
from ...base.outside.parts import FilePart, stamp_of
from ...base.outside.rows import OutsideRows
from ...base.progress import Progress
from ...kernels import Measures, centre_of, most_copies
from ..checks import first_non_finite
from ..formats import open_shards, shard_files
from ..samples import Samples
from .manifest import MANIFEST, Manifest, ShardRecord, centre_text
from .shard_sides import (
    ShardSide,
    centre_sum,
    changed_since,
    check_content,
    measured_side,
    not_finite,
    rows_of,
    side_path,
)


@dataclass(frozen=True)
class PackReport:
    """What a pack did: shards of the folder, those read and measured now, those verified; samples, and their bytes."""

    shards: int
    measured: int
    verified: int
    samples: int
    nbytes: int


def pack(
    folder: str | os.PathLike[str],
    *,
    key: str | None = None,
    verify: bool = False,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> PackReport:
    """Keep what preparation computes of a folder of shards beside them: the next load_dataset of it starts at once.

    folder: with .npy or .safetensors files, whose samples together are one data set. They are never written to: what is
        kept goes to `manifest.json` and to one small file a shard, `NAME.pack` (28 bytes a sample and .05 % of the
        bytes).
    key: which array of a .safetensors file holds the samples, where there are several.
    verify: True reads every shard and compares all of it with its checksums.
    workers: shards read at once; None takes as many as there are cores.
    progress: called with shards done and all shards.

    Only shards that are new are read, each once. Whatever was written when the process was killed is used by the next
    call. The centre stays that of the first call. Returns a PackReport.

    Raises DataFileError that names the file where a shard is missing, of another kind, or not what was packed: its size
    or time of change differs, and its content does. Raises InputError for an argument that cannot be used.
    """
    place = Path(folder).expanduser()
    if workers is not None and workers < 1:
        raise invalid("workers", "must be at least 1", workers, "leave it out")
    before = _before(place, key)
    shards = open_shards(place, key if before is None else before.key)
    parts = [_part(file, shard) for file, shard in zip(shard_files(place), shards, strict=True)]
    manifest = before or _begun(place, key, shards, parts)
    _check_kinds(manifest, shards, parts)
    task = _Pack(manifest, verify)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        sides = []
        for side in pool.map(task.side, shards, parts):
            sides.append(side)
            progress(len(sides), len(shards))
    _summed(manifest, sides).write(place)
    count = sum(part.count for part in parts)
    return PackReport(len(shards), task.measured, task.verified, count, sum(shard.points.nbytes for shard in shards))


class _Pack:
    """Finds what is kept about each shard, or computes it."""

    def __init__(self, manifest: Manifest, verify: bool) -> None:
        self.centre, self.verify = manifest.centre_point(), verify
        self.records = {record.name: record for record in manifest.shards}
        self.measured = self.verified = 0

    def side(self, shard: Samples, part: FilePart) -> ShardSide:
        """Return what is kept about a shard, from the file beside it or computed now."""
        kept = self._kept(part)
        if kept is None:
            return self._new(shard, part)
        if self.verify:
            check_content(kept, rows_of(shard, part))
            self.verified += 1
        return kept

    def _kept(self, part: FilePart) -> ShardSide | None:
        """Return what the file beside a shard says, or None where it has to be computed."""
        if not side_path(part.path).exists():
            return None
        try:
            side = ShardSide.read(part, whole=True)
        except DataFileError:
            # of another time, or damaged: what counts is whether the shard is what was packed
            return None
        return side if side.centre == centre_sum(self.centre) else None

    def _new(self, shard: Samples, part: FilePart) -> ShardSide:
        """Compute and write what is kept about a shard. Raises DataFileError where it is not what was packed."""
        side, record = measured_side(shard, part, self.centre), self.records.get(part.path.name)
        part.check()
        # who removed the file beside a shard means it to be packed anew
        if record is not None and side_path(part.path).exists() and side.digest != record.digest:
            raise changed_since(part)
        side.write()
        self.measured += 1
        return side


def _before(folder: Path, key: str | None) -> Manifest | None:
    """Return the manifest of an earlier pack, or None. Raises DataFileError where a shard of it is missing."""
    before = Manifest.read(folder)
    if before is None:
        if (folder / MANIFEST).exists():
            remedy = "rename it: packing a folder writes a file of this name"
            raise bad_file(folder / MANIFEST, "the manifest of a packed folder", "a file of another program", remedy)
        return None
    if key is not None and key != before.key:
        remedy = f"{'leave key out' if before.key is None else f'pass key={before.key!r}'}, or remove {MANIFEST}"
        raise invalid("key", f"must be that of the first pack, {before.key or 'none'}", repr(key), remedy)
    check_present(folder, before)
    return before


def check_present(folder: Path, manifest: Manifest) -> None:
    """Raise DataFileError, which names it, where a shard of `manifest` is not in `folder`."""
    for record in manifest.shards:
        if not (folder / record.name).is_file():
            remedy = f"put it back, or remove {MANIFEST} and pack the others anew"
            raise bad_file(folder / record.name, "a shard that was packed", "no file", remedy)


def _part(file: Path, shard: Samples) -> FilePart:
    if shard.part is None:
        remedy = "save the samples as .npy or .safetensors, in the byte order of the machine"
        raise bad_file(file, "samples that can be mapped", "an archive, or numbers of another order", remedy)
    return shard.part


def _begun(folder: Path, key: str | None, shards: Sequence[Samples], parts: Sequence[FilePart]) -> Manifest:
    """Return the manifest of a first pack, without shards: what they are measured about is settled."""
    first = shards[0].points
    rows = OutsideRows.of(parts, first.dtype, [first[0].numel()])
    storage, shape = str(first.dtype).removeprefix("torch."), list(first.shape[1:])
    try:
        centre = centre_of(rows)
    except InputError as error:
        raise _not_finite(shards, parts) from error
    manifest = Manifest(key, storage, shape, centre_text(centre), shards[0].labels is not None)
    manifest.write(folder)
    return manifest


def _not_finite(shards: Sequence[Samples], parts: Sequence[FilePart]) -> DataFileError:
    """Return the error about the first sample with a NaN or an infinity, which the caller raises."""
    for shard, part in zip(shards, parts, strict=True):
        bad = first_non_finite(shard.points)
        if bad is not None:
            return not_finite(part, bad)
    return bad_file(parts[0].path, "numbers that can be squared", "values whose sum overflows float64", "rescale them")


def _check_kinds(manifest: Manifest, shards: Sequence[Samples], parts: Sequence[FilePart]) -> None:
    """Raise DataFileError where shards are of another kind than those that were packed before."""
    first = shards[0]
    found = str(first.points.dtype).removeprefix("torch."), list(first.points.shape[1:]), first.labels is not None
    if found != (manifest.storage, manifest.shape, manifest.labelled):
        words = f"{found[0]} samples of shape {found[1]}, {'with' if found[2] else 'without'} labels"
        expected = f"samples like those that were packed, {manifest.storage} {manifest.shape}"
        raise bad_file(parts[0].path, expected, words, f"remove {MANIFEST} and pack the folder anew")


def _summed(manifest: Manifest, sides: Sequence[ShardSide]) -> Manifest:
    """Return the manifest of all shards."""
    whole: Measures | None = None
    for side in sides:
        whole = side.measures.and_more(whole)
    assert whole is not None
    radius = max(float((2 * side.measures.half_norms.max()).sqrt()) for side in sides)
    projected = torch.cat([side.measures.projected for side in sides])
    return Manifest(
        manifest.key,
        manifest.storage,
        manifest.shape,
        manifest.centre,
        labelled=manifest.labelled,
        radius=radius,
        stored_radius=whole.largest_square**0.5,
        low=whole.low,
        high=whole.high,
        copies=most_copies(projected, radius),
        shards=[_record(side) for side in sides],
    )


def _record(side: ShardSide) -> ShardRecord:
    part = side.part
    return ShardRecord(part.path.name, part.start, part.count, part.stamp[2], part.stamp[3], side.digest)


def opened(folder: Path, record: ShardRecord) -> FilePart:
    """Return where the samples of a shard lie. Raises DataFileError, which names it, where it was changed since."""
    path = (folder / record.name).absolute()
    part = FilePart(path, record.start, record.count, stamp_of(path))
    if part.stamp[2:] != (record.size, record.modified):
        remedy = "run `oracle-engine pack` on the folder again: it reads the file and says whether its content changed"
        raise bad_file(path, "the shard that was packed", "one that was written to, or replaced, since", remedy)
    return part
