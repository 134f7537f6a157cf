"""Encoded pictures of a folder: their names, their classes, and how their bytes are read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from ...base.errors import bad_file
from ..samples import ClassLabels, labels_of
from .label_files import LABELS_FILE, by_name, named_labels
from .reading import reading

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
MAGICS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")
# pictures that are not read, and would be missed without a word
_OTHERS = (".gif", ".heic", ".heif", ".avif", ".svg", ".jp2", ".jxl", ".raw", ".cr2", ".nef", ".dng", ".psd")
# folders of these names are parts of a data set and no classes
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

# what opens the bytes of a picture; it may be called in another thread
Opener = Callable[[], IO[bytes]]

_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Encoded pictures, before they are decoded.

    where: the folder or the file, for errors. names: of the pictures, with / between folders, in the order of the
    samples. contents: returns what opens each of the pictures with some numbers, ascending. files: those whose content
    decides the pictures. listed: labels by the names that a dataset.json has, empty where it says that there are none,
    or None. own: the label of each picture, or None. plain: whether names have no folders.
    """

    where: Path
    names: Sequence[str]
    contents: Callable[[Sequence[int]], Iterator[Opener]]
    files: Sequence[Path]
    listed: Mapping[str, Any] | None = None
    own: Sequence[Any] | None = None
    plain: bool = False

    def some(self, numbers: Sequence[int]) -> Pictures:
        """Return the pictures with these numbers, ascending, without labels: these are numbered among all."""
        names = [self.names[number] for number in numbers]

        def contents(among: Sequence[int]) -> Iterator[Opener]:
            return self.contents([numbers[number] for number in among])

        return replace(self, names=names, contents=contents, listed={}, own=None)

    def labels(self) -> ClassLabels | None:
        """Return the labels that come with the pictures: their own, those of dataset.json, or their folders.

        Folders are numbered in the order of their names. Raises DataFileError where pictures lie both in folders and
        beside them, and where the folders are splits.
        """
        if self.own is not None:
            return ClassLabels(labels_of(self.own, len(self.names), self.where))
        if self.listed is not None and not self.listed:
            return None
        if self.listed is not None:
            return named_labels(self.where / LABELS_FILE, self.listed, self.names)
        return None if self.plain else _by_folder(self.where, self.names)


def picture_folder(folder: Path) -> Pictures:
    """Return the pictures of a folder and of all folders inside, in the order of their names.

    folder: where they are. Hidden files and files of other kinds are left out; pictures of formats that are not read
    are named in a warning. Raises DataFileError where there is no picture.
    """
    with reading(folder, "a folder of pictures"):
        found = sorted(_inside(folder), key=lambda name: PurePosixPath(name).parts)
    names = pictures_among(folder, found)
    listed = folder / LABELS_FILE
    labels = by_name(listed, listed.read_text("utf-8-sig")) if listed.is_file() else None
    files = [folder / name for name in names]
    return Pictures(folder, names, lambda among: (partial(_opened, files[one]) for one in among), files, labels)


def has_pictures(folder: Path) -> bool:
    """Return whether there is a picture in a folder, or in one inside."""
    return any(is_picture_name(name) for name in _inside(folder))


def picked(parts: Iterable[_Part], numbers: Iterable[int]) -> Iterator[_Part]:
    """Yield the parts with these numbers, ascending; none after the last is read."""
    rest, place = iter(parts), 0
    for number in numbers:
        yield next(islice(rest, number - place, None))
        place = number + 1


def is_picture_name(name: str) -> bool:
    """Return whether a file of this name is taken for a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def pictures_among(where: Path, names: Sequence[str]) -> list[str]:
    """Return the names of pictures among `names`, in their order, without those that archives of macOS add.

    where: the folder or file, for the warning about pictures of other formats. Raises DataFileError where none is left.
    """
    kept = [name for name in names if is_picture_name(name) and not name.startswith("__MACOSX/")]
    missed = [name for name in names if name.lower().endswith(_OTHERS)]
    if missed:
        words = f"{where}: {len(missed):,} pictures of other formats are left out, such as {missed[0]}"
        warnings.warn(f"{words}: save them as PNG", stacklevel=2)
    if not kept:
        found = ", ".join(names[:8]) or "nothing"
        raise bad_file(where, "pictures (PNG, JPEG, WebP)", found, "name the folder or archive that has them")
    return kept


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb")


def _inside(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = PurePosixPath(Path(place).relative_to(folder).as_posix())
        yield from (str(inner / name) for name in sorted(files) if not name.startswith("."))


def _by_folder(where: Path, names: Sequence[str]) -> ClassLabels | None:
    """Return the folder of each picture as its class, below the folder that all share; None where they share it."""
    parents = [PurePosixPath("/", name).parent.parts for name in names]
    shared = len(Path(os.path.commonpath([PurePosixPath(*parts) for parts in parents])).parts)
    classes = [parts[shared] if len(parts) > shared else "" for parts in parents]
    kinds = sorted(set(classes))
    if kinds == [""]:
        return None
    if kinds[0] == "":
        remedy = "put every picture into the folder of its class, or give the labels in a file"
        beside = names[classes.index("")]
        raise bad_file(where, "all pictures in folders of classes, or none", f"{beside} beside folders", remedy)
    if {kind.lower() for kind in kinds} <= _SPLITS:
        found, remedy = f"the splits {', '.join(kinds)}", f"name one of them, such as {where / kinds[0]}"
        raise bad_file(where, "one data set, with a folder for each class", found, remedy)
    numbers = {kind: number for number, kind in enumerate(kinds)}
    return ClassLabels(labels_of([numbers[kind] for kind in classes], len(names), where), tuple(kinds))
