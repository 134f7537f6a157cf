"""LMDB environments of encoded pictures, such as LSUN's, through the library lmdb."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...base.errors import bad_file
from .picture_lists import MAGICS, Opener, Pictures, picked
from .reading import library, reading

DATA_FILE = "data.mdb"
_EXPECTED = "an LMDB environment of encoded pictures"
# entries about the others, which some writers add
_FACTS = (b"__", b"length", b"num-samples", b"num_samples")


def read_lmdb(path: Path) -> Pictures:
    """Return the pictures of an LMDB environment, in the order of their keys; there are no labels.

    path: the folder with data.mdb, or the file. Raises DataFileError where an entry is no encoded picture, such as a
    pickled object, which is never loaded, and MissingDependencyError without lmdb.
    """
    lmdb = library("lmdb", "lmdb", "An LMDB environment")
    names = []
    with reading(path, _EXPECTED), _opened(lmdb, path) as entries:
        for key, value in _pictures(entries):
            names.append(key.decode("utf-8", "backslashreplace"))
            if not bytes(value[:4]).startswith(MAGICS):
                remedy = "write the pictures to a folder or a tar, or the numbers to an .npy file"
                found = f"an entry {names[-1]!r} that begins with {bytes(value[:4])!r}"
                raise bad_file(path, _EXPECTED, found, remedy)
    if not names:
        raise bad_file(path, _EXPECTED, "no entry", "check how it was written")
    file = path / DATA_FILE if path.is_dir() else path
    return Pictures(path, names, partial(_contents, lmdb, path), [file], plain=True)


def _contents(lmdb: Any, path: Path, numbers: Sequence[int]) -> Iterator[Opener]:
    with reading(path, _EXPECTED), _opened(lmdb, path) as entries:
        for _, value in picked(_pictures(entries), numbers):
            yield partial(io.BytesIO, bytes(value))


class _opened:
    """A transaction that reads, with the environment around it."""

    def __init__(self, lmdb: Any, path: Path) -> None:
        self._lmdb = lmdb
        try:
            options = {"readonly": True, "lock": False, "readahead": False, "subdir": path.is_dir()}
            self._environment = lmdb.open(str(path), **options)
        except lmdb.Error as error:
            raise ValueError(str(error)) from error

    def __enter__(self) -> Any:
        self._transaction = self._environment.begin(buffers=True)
        return self._transaction

    def __exit__(self, *error: object) -> None:
        self._transaction.abort()
        self._environment.close()


def _pictures(entries: Any) -> Iterator[tuple[bytes, Any]]:
    for key, value in entries.cursor():
        if not bytes(key).startswith(_FACTS):
            yield bytes(key), value
