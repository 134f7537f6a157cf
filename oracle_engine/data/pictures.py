"""Pictures made into arrays: decoded in parallel, cropped to the centre and scaled where that is asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..base.errors import OracleError, bad_file, invalid, lacks_memory
from ..base.progress import Progress
from .formats import Opener, Pictures, library

# channels that a picture may have
CHANNELS = (1, 3, 4)
# pictures whose bytes are in memory together
PICTURES_AT_ONCE = 256
# sides above this are mistakes
LARGEST_SIDE = 1 << 14

_Result = TypeVar("_Result")

# EXIF orientations of pictures that are stored lying on their side
_ORIENTATION, _LYING = 0x0112, 5
_GREY_MODES = ("1", "L", "LA", "La")
# numbers of 16 and 32 bits, of which a conversion to 8 bits keeps a part
_WIDE_MODES = ("I", "F", "I;")


class _TooWide(ValueError):
    """A picture whose numbers do not fit into 8 bits."""


@dataclass(frozen=True)
class PictureForm:
    """How pictures are made alike.

    size: height and width to which they are cropped about the centre and scaled, or None to keep theirs. gray: whether
    colours become one channel.
    """

    size: tuple[int, int] | None = None
    gray: bool = False

    @classmethod
    def of(cls, size: Any, gray: Any) -> PictureForm:
        """Return the form for `size`, an integer, a pair (height, width) or None, and `gray`. Raises InputError."""
        if not isinstance(gray, bool):
            raise invalid("gray", "must be True or False", repr(gray), "pass True for one channel")
        if size is None:
            return cls(None, gray)
        try:
            height, width = (index(side) for side in (size if isinstance(size, (tuple, list)) else (size, size)))
        except (TypeError, ValueError):
            height = width = 0
        if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
            requirement = f"must be a whole number in 1..{LARGEST_SIDE:,}, or a pair (height, width) of them"
            raise invalid("size", requirement, repr(size), "pass size=64")
        return cls((height, width), gray)

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for, by the names of the parameters, None for what was not."""
        return {"size": self.size, "gray": self.gray or None}


def is_picture_item(item: Any) -> bool:
    """Return whether `item` is a picture of Pillow; Pillow is not imported for that."""
    return hasattr(item, "convert") and hasattr(item, "getexif") and hasattr(item, "mode")


def picture_array(image: Any, form: PictureForm, channels: int | None = None) -> np.ndarray:
    """Return a picture of Pillow as numbers, [C, H, W] uint8, a copy.

    image: the picture; as viewers do, it is turned as its EXIF data say. form: how it is cropped, scaled and coloured.
    channels: 1 or 3, where both are possible; None takes 1 for a grey picture and 3 for one in colour.
    Raises ValueError for numbers of more than 8 bits, and whatever Pillow raises for a damaged picture.
    """
    operations = library("PIL.ImageOps", "pillow", "A picture")
    if image.mode.startswith(_WIDE_MODES):
        raise _TooWide(f"numbers of more than 8 bits, mode {image.mode}: save 8-bit pictures, or arrays as .npy")
    grey = form.gray or (_channels(image) if channels is None else channels) == 1
    upright = operations.exif_transpose(image).convert("L" if grey else "RGB")
    if form.size is not None:
        size = (form.size[1], form.size[0])
        upright = operations.fit(upright, size, library("PIL.Image", "pillow", "A picture").Resampling.LANCZOS)
    array = np.asarray(upright)
    return np.ascontiguousarray(array[None] if grey else array.transpose(2, 0, 1))


def shape_of(
    pictures: Pictures, form: PictureForm, progress: Progress, whole: Pictures | None = None
) -> tuple[int, int, int]:
    """Return the shape [C, H, W] that all pictures get: one channel where none has colours.

    pictures, form: what to look at, and how it is made alike. progress: called with pictures done and all. whole: the
    set of which `pictures` are some, where they are; a colour in it counts, too.
    Raises DataFileError for a picture that cannot be read and, without a size, for the first one of another size. Only
    headers are decoded.
    """
    found = list(_each(pictures, _head, progress))
    channels = 1 if form.gray else max(channels for channels, _ in found)
    if channels == 1 and whole is not None and not form.gray:
        # as many as the whole set would get
        channels = next((channels for channels, _ in _each(whole, _head, progress) if channels > 1), 1)
    if form.size is not None:
        return channels, *form.size
    first = found[0][1]
    sizes = Counter(size for _, size in found)
    other = next((number for number, (_, size) in enumerate(found) if size != first), None)
    if other is not None:
        expected = f"{_words(first)} as {pictures.names[0]}"
        words = f"{_words(found[other][1])}, and {len(sizes):,} sizes in all"
        remedy = "pass size=64, which crops every picture to its centre and scales it"
        raise bad_file(pictures.where / pictures.names[other], expected, words, remedy, parameter="size")
    return channels, *first


def decode(pictures: Pictures, form: PictureForm, rows: np.ndarray, progress: Progress) -> None:
    """Fill `rows`, [N, C, H, W] uint8, with the pictures.

    pictures, form: as in :func:`shape_of`, which gave the shape. progress: called with pictures done and all.
    Raises DataFileError, which names it, for a picture that cannot be decoded.
    """
    arrays = _each(pictures, partial(picture_array, form=form, channels=rows.shape[1]), progress)
    for row, array in zip(rows, arrays, strict=True):
        row[...] = array


def _each(pictures: Pictures, read: Callable[[Any], _Result], progress: Progress) -> Iterator[_Result]:
    """Yield what `read` makes of every picture, in order; several threads do it."""
    image = library("PIL.Image", "pillow", "A picture")
    # not by several threads at once
    image.init()
    named = zip(pictures.names, pictures.contents(range(len(pictures.names))), strict=True)
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for block in _blocks(named):
            yield from pool.map(partial(_opened, image, pictures.where, read), block)
            done += len(block)
            progress(done, len(pictures.names))


def _blocks(named: Iterable[tuple[str, Opener]]) -> Iterator[Sequence[tuple[str, Opener]]]:
    parts = iter(named)
    while block := list(islice(parts, PICTURES_AT_ONCE)):
        yield block


def _opened(image: Any, where: Path, read: Callable[[Any], _Result], named: tuple[str, Opener]) -> _Result:
    """Return what `read` makes of a picture. Raises DataFileError, which names it."""
    name, opener = named
    try:
        with opener() as stream, image.open(stream) as picture:
            return read(picture)
    except OracleError:
        raise
    except _TooWide as error:
        found, _, remedy = str(error).partition(": ")
        raise bad_file(where / name, "a picture of 8 bits a channel", found, remedy) from error
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        if lacks_memory(error):
            raise
        found = f"damaged or incomplete content ({error})"
        raise bad_file(where / name, "a picture (PNG, JPEG, WebP)", found, "replace or remove it") from error


def _head(image: Any) -> tuple[int, tuple[int, int]]:
    """Return the channels that a picture needs, and its height and width as it is shown."""
    width, height = image.size
    lying = image.getexif().get(_ORIENTATION, 1) >= _LYING
    return _channels(image), (width, height) if lying else (height, width)


def _channels(image: Any) -> int:
    return 1 if image.mode in _GREY_MODES else 3


def _words(size: tuple[int, int]) -> str:
    return f"a picture of {size[0]} x {size[1]}"
