"""Decoded pictures on disk: a packed set under a name that is made of the pictures, found again by the next start."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..base.arrays import Int64, Tensor
from ..base.errors import DataFileError, OracleError, invalid
from ..base.machine.settings import cache_folder
from ..base.progress import progress_bar
from .formats import Pictures, read_npy
from .packs.manifest import Manifest
from .packs.pack import pack
from .packs.packed import PackedFolder
from .pictures import PictureForm, decode, shape_of
from .samples import Samples

# the one shard of the set
POINTS = "points.npy"

_KIND = "oracle-pictures-1"
# seconds after which what a killed process left is removed
STALE = 86_400
# up to these sizes all bytes are hashed
WHOLE_BYTES, WHOLE_FILES = 256 << 20, 4096
# of larger sets, the number and the size of the blocks that are
SAMPLES, SAMPLE_BYTES = 256, 64 << 10


def cached_pictures(pictures: Pictures, form: PictureForm) -> PackedFolder:
    """Return pictures as a packed folder of one shard, uint8 [N, C, H, W], which is written where there is none yet.

    pictures: what to decode. form: how they are made alike.
    Raises DataFileError for a picture that cannot be decoded, InputError where the cache cannot be written, and
    MissingDependencyError without Pillow.
    """
    return _kept(_folder_of(picture_key(pictures, form)), pictures, form)


def chosen_pictures(pictures: Pictures, form: PictureForm, rows: Int64[Tensor, "n"]) -> Samples:
    """Return some pictures as samples, uint8 [n, C, H, W], without labels, in a file below the cache.

    pictures, form: as in :func:`cached_pictures`, which raises the same errors. rows: which of them, ascending. Only
    these are decoded, unless all were before; where they are grey, headers of others tell whether there are colours.
    """
    key = picture_key(pictures, form)
    folder = _folder_of(key)
    if _opened(folder) is not None:
        points = read_npy(folder / POINTS).points
        return Samples(points[rows])
    digest = hashlib.blake2b(rows.numpy().tobytes(), digest_size=8).hexdigest()
    some = _kept(_folder_of(f"{key}-{digest}"), pictures.some(rows.tolist()), form, pictures)
    return read_npy(some.folder / POINTS)


def _folder_of(key: str) -> Path:
    return cache_folder() / "pictures" / key


def _kept(folder: Path, pictures: Pictures, form: PictureForm, whole: Pictures | None = None) -> PackedFolder:
    """Return the packed folder `folder`, which is written where there is none; `whole` as in :func:`shape_of`."""
    found = _opened(folder)
    if found is not None:
        return found
    with _alone(folder):
        # another process may have written it meanwhile
        found = _opened(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            _write(pictures, form, folder, whole)
            found = PackedFolder(folder, _manifest(folder))
    return found


def picture_key(pictures: Pictures, form: PictureForm) -> str:
    """Return a name for decoded pictures, 32 hexadecimal digits, which is the same for the same pictures.

    Up to 256 MiB in 4,096 files it depends on the names of the pictures and all bytes of their files: a copy has it
    too, and no change of a byte is missed. Larger sets would take as long to hash as to decode: it depends on names,
    sizes, times of change and 256 blocks of 64 KiB, as packed folders do.
    """
    digest = hashlib.blake2b(repr((_KIND, form.size, form.gray, len(pictures.names))).encode(), digest_size=16)
    for name in pictures.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    found = [file.stat() for file in pictures.files]
    if sum(one.st_size for one in found) <= WHOLE_BYTES and len(found) <= WHOLE_FILES:
        for file in pictures.files:
            digest.update(hashlib.blake2b(file.read_bytes()).digest())
        return digest.hexdigest()
    digest.update(repr([(one.st_size, one.st_mtime_ns) for one in found]).encode())
    for block in _sampled(pictures.files):
        digest.update(block)
    return digest.hexdigest()


def _sampled(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield blocks of some files, spread over all of them and over each."""
    step = max(1, len(files) // SAMPLES)
    chosen = files[::step][:SAMPLES]
    count = SAMPLES // len(chosen)
    for file in chosen:
        size = file.stat().st_size
        with file.open("rb") as stream:
            for number in range(count):
                stream.seek(number * size // count)
                yield stream.read(SAMPLE_BYTES)


def _opened(folder: Path) -> PackedFolder | None:
    """Return the packed folder, or None where there is none, or a damaged one, which will be written anew."""
    with suppress(DataFileError):
        manifest = Manifest.read(folder)
        return None if manifest is None else PackedFolder(folder, manifest)
    return None


def _manifest(folder: Path) -> Manifest:
    found = Manifest.read(folder)
    assert found is not None
    return found


def _write(pictures: Pictures, form: PictureForm, folder: Path, whole: Pictures | None) -> None:
    """Write the packed folder under a temporary name, and rename it."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    for left in folder.parent.glob(".*.partial"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    name = pictures.where.name
    try:
        with progress_bar(f"looking at the pictures of {name}") as progress:
            shape = (len(pictures.names), *shape_of(pictures, form, progress, whole))
        partial.mkdir(parents=True)
        _check_room(partial, int(np.prod(shape)))
        rows = np.lib.format.open_memmap(partial / POINTS, mode="w+", dtype=np.uint8, shape=shape)
        with progress_bar(f"decoding the pictures of {name}") as progress:
            decode(pictures, form, rows, progress)
        rows.flush()
        del rows
        pack(partial)
        # where another process was sooner, its folder is the same
        if not folder.exists():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write `folder`. Raises InputError where it cannot be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stream = folder.with_suffix(".lock").open("w")
    except OSError as error:
        raise _unwritable(folder.parent, error.strerror or str(error)) from error
    with stream:
        # locks only save work: what is written is renamed
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            folder.with_suffix(".lock").unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        found = f"{free / 2**30:,.1f} GiB free, where the decoded pictures take {size / 2**30:,.1f}"
        raise _unwritable(folder.parent, found)


def _unwritable(folder: Path, found: str) -> OracleError:
    remedy = "set ORACLE_CACHE to a folder with room, or pass a smaller size="
    return invalid("ORACLE_CACHE", "must name a folder that can hold decoded pictures", f"{folder}, {found}", remedy)
