"""IDX files, the format of MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np

from ...base.errors import bad_file
from ..samples import Samples, labels_of, samples_of
from .reading import FRESH_COPY, content, reading, start_of

IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$|\.idx(\.gz)?$")
GZIP_MAGIC = b"\x1f\x8b"
_IDX_IMAGES = re.compile(r"^(.*)images([-.])idx3-ubyte(?:\.gz)?$")
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> Samples:
    """Return the array of an IDX file, [N, *shape], in native byte order.

    path: the file, gzipped or not. One that is named as MNIST names its images (`...images-idx3-ubyte`) gives
        [N, 1, H, W] and the labels of the file beside it, where there is one.

    Raises DataFileError where header and length disagree and for dtypes that are not stored. A file that is not gzipped
    is memory-mapped.
    """
    points = _idx_array(path)
    named = _IDX_IMAGES.match(path.name)
    if named is None:
        return samples_of(points, None, path)
    if points.ndim != 3:
        raise bad_file(path, "images [N, H, W]", f"shape {list(points.shape)}", FRESH_COPY)
    samples = samples_of(points[:, None], None, path)
    labels = find_idx(path.parent, f"{named[1]}labels", 1)
    return samples if labels is None else Samples(samples.points, labels_of(_idx_array(labels), len(points), labels))


def find_idx(folder: Path, stem: str, ndim: int) -> Path | None:
    """Return the path of an IDX file, the one that is not gzipped where there are both, or None where there is none.

    folder: where to look. stem, ndim: of the name `stem-idx<ndim>-ubyte`, with or without .gz.
    """
    names = (f"{stem}{mark}idx{ndim}-ubyte{end}" for end in ("", ".gz") for mark in "-.")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx_array(path: Path) -> np.ndarray:
    """Return the array of an IDX file."""
    with reading(path, "an IDX file"):
        held = _unpacked(path)
        first, second, code, ndim = held[:4].tolist()
        if first or second or code not in _IDX_DTYPES:
            found = f"a file that begins with {held[:4].tobytes()!r}"
            raise bad_file(path, "an IDX file, which begins with two zeros and a dtype code", found, FRESH_COPY)
        start = 4 + 4 * ndim
        shape = held[4:start].view(">u4").tolist()
        dtype = np.dtype(_IDX_DTYPES[code])
        wanted = math.prod(shape) * dtype.itemsize
        if len(shape) != ndim or len(held) - start != wanted:
            expected = f"{wanted} bytes after the header, {dtype.name} {shape}"
            raise bad_file(path, expected, f"{max(len(held) - start, 0)} bytes", FRESH_COPY)
        return held[start:].view(dtype).reshape(shape)


def _unpacked(path: Path) -> np.ndarray:
    if start_of(path, 2) != GZIP_MAGIC:
        return content(path)
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8)
