"""Where rows lie that stay outside: a part of a file, which is watched for changes, or memory of the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..arrays import Shaped, Tensor
from ..errors import bad_file

# what a file was when it was opened: device, inode, size and time of the last change
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class FilePart:
    """Rows that lie one after the other in a file.

    path: the file. start: the byte at which they begin. count: how many there are. stamp: what the file was then.
    """

    path: Path
    start: int
    count: int
    stamp: Stamp

    @classmethod
    def of(cls, path: Path, start: int, count: int) -> FilePart:
        """Return the part of the file at `path` as it is now."""
        return cls(path.absolute(), start, count, stamp_of(path))

    def check(self) -> None:
        """Raise DataFileError where the file is not what it was."""
        if stamp_of(self.path) != self.stamp:
            remedy = "load the data set again, and leave its files as they are while it is used"
            raise bad_file(self.path, "the file that was opened", "one that has been changed or replaced", remedy)


@dataclass(frozen=True, eq=False)
class MemoryPart:
    """Rows that lie in the memory of the host, [count, ...], contiguous."""

    rows: Shaped[Tensor, "count ..."]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows)


Part = FilePart | MemoryPart


def stamp_of(path: Path) -> Stamp:
    """Return what tells whether the file at `path` was changed or replaced. Raises DataFileError where it is gone."""
    try:
        found = path.stat()
    except OSError as error:
        raise bad_file(path, "a readable file", error.strerror or str(error), "put it back where it was") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
