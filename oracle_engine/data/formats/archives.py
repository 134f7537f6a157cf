"""Pictures in zip archives, and pictures or arrays in tars, those of webdataset among them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np

from ...base.errors import bad_file
from ..samples import Samples, samples_of
from .label_files import LABELS_FILE, by_name
from .picture_lists import Opener, Pictures, is_picture_name, picked, pictures_among
from .reading import reading

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# the end of the name of a file of webdataset that holds the class of the picture beside it
CLASS_SUFFIX = ".cls"


def zip_names(path: Path) -> tuple[str, ...]:
    """Return the names in a zip archive, or none where it is damaged."""
    found = path.stat()
    return _zip_names(path.absolute(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4)
def _zip_names(path: Path, size: int, modified: int) -> tuple[str, ...]:
    """Return the names in a zip archive as it was at the time `modified`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        return ()


def zipped_pictures(path: Path) -> Pictures:
    """Return the pictures of a zip archive, in the order of their names, with the labels of dataset.json, if any.

    path: the archive. Raises DataFileError where it is damaged or holds no picture.
    """
    with reading(path, "a zip archive of pictures"), zipfile.ZipFile(path) as archive:
        found = sorted(archive.namelist(), key=lambda name: PurePosixPath(name).parts)
        lists = [name for name in found if PurePosixPath(name).name == LABELS_FILE]
        listed = by_name(path / lists[0], archive.read(lists[0]).decode("utf-8-sig")) if len(lists) == 1 else None
    names = pictures_among(path, found)
    return Pictures(path, names, partial(_unzipped, path, names), [path], listed)


def _unzipped(path: Path, names: Sequence[str], numbers: Sequence[int]) -> Iterator[Opener]:
    with reading(path, "a zip archive of pictures"), zipfile.ZipFile(path) as archive:
        for number in numbers:
            yield partial(io.BytesIO, archive.read(names[number]))


def read_tar(path: Path) -> Samples | Pictures:
    """Return the pictures of a tar, or of all tars of a folder, in the order in which they lie there.

    path: a tar, compressed or not, or a folder of tars. A file that is named like a picture but ends in .cls, as
    webdataset writes them, holds its class, an integer; a dataset.json holds the labels of all. Where there is no
    picture, .npy files are the samples, one each, which are read into memory.
    Raises DataFileError where a tar is damaged or holds neither, where arrays differ in shape or dtype, and where only
    some samples have a class.
    """
    files = tar_files(path) if path.is_dir() else [path]
    names, texts = _listed(files)
    classes = {_stem(name): text for name, text in texts.items() if name.endswith(CLASS_SUFFIX)}
    if not any(map(is_picture_name, names)) and any(map(_is_array_name, names)):
        return _arrays(path, files, classes)
    kept = pictures_among(path, names)
    lists = [name for name in texts if not name.endswith(CLASS_SUFFIX)]
    listed = by_name(path / lists[0], texts[lists[0]].decode("utf-8-sig")) if len(lists) == 1 else None
    own = _classes(path, kept, classes) if classes else None
    return Pictures(path, kept, partial(_untarred, files), files, listed, own)


def _listed(files: Sequence[Path]) -> tuple[list[str], dict[str, bytes]]:
    """Return the names in some tars, and the content of those that hold labels."""
    found = list(_parts(files, _holds_labels))
    return [name for name, _ in found], {name: content for name, content in found if _holds_labels(name)}


def _holds_labels(name: str) -> bool:
    return name.endswith(CLASS_SUFFIX) or PurePosixPath(name).name == LABELS_FILE


def _parts(files: Sequence[Path], wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the name of every file in some tars, and its content where that is wanted."""
    for file in files:
        with reading(file, "a tar of pictures or arrays"), tarfile.open(file, "r:*") as archive:
            for part in archive:
                if part.isfile():
                    yield part.name, _content(archive, part) if wanted(part.name) else b""


def _arrays(path: Path, files: Sequence[Path], classes: dict[str, bytes]) -> Samples:
    """Return the arrays of some tars as samples."""
    names: list[str] = []
    found: list[np.ndarray] = []
    for name, content in _parts(files, _is_array_name):
        if _is_array_name(name):
            with reading(path / name, "a NumPy .npy file"):
                array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            names.append(name)
            found.append(array)
            if (array.shape, array.dtype) != (found[0].shape, found[0].dtype):
                expected = f"{found[0].dtype} {list(found[0].shape)} as in {names[0]}"
                raise bad_file(path / name, expected, f"{array.dtype} {list(array.shape)}", "keep one kind")
    return samples_of(np.stack(found), _classes(path, names, classes) if classes else None, path)


def _is_array_name(name: str) -> bool:
    return name.endswith(".npy") and not PurePosixPath(name).name.startswith(".")


def tar_files(folder: Path) -> list[Path]:
    """Return the tars of a folder, in the order of their names."""
    return sorted(file for file in folder.iterdir() if is_tar_name(file.name) and file.is_file())


def is_tar_name(name: str) -> bool:
    """Return whether a file of this name is taken for a tar."""
    return name.lower().endswith(TAR_SUFFIXES) and not name.startswith(".")


def _untarred(files: Sequence[Path], numbers: Sequence[int]) -> Iterator[Opener]:
    contents = (content for name, content in _parts(files, _is_picture) if _is_picture(name))
    for content in picked(contents, numbers):
        yield partial(io.BytesIO, content)


def _is_picture(name: str) -> bool:
    return is_picture_name(name) and not name.startswith("__MACOSX/")


def _content(archive: tarfile.TarFile, part: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(part)
    return b"" if stream is None else stream.read()


def _classes(path: Path, names: Sequence[str], classes: dict[str, bytes]) -> list[int]:
    """Return the classes that lie beside the samples of an archive. Raises DataFileError where one lacks its own."""
    labels = []
    for name in names:
        text = classes.get(_stem(name))
        if text is None or not text.strip().isdigit():
            found = "none" if text is None else repr(text[:20])
            raise bad_file(path, f"an integer in {_stem(name)}{CLASS_SUFFIX}", found, "write a class beside every one")
        labels.append(int(text))
    return labels


def _stem(name: str) -> str:
    """Return the name up to the first dot of its last part, which the files of a sample share in webdataset."""
    folder, mark, last = name.rpartition("/")
    return f"{folder}{mark}{last.partition('.')[0]}"
