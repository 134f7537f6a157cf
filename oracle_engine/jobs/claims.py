"""Claims: who works on what, by locks on bytes of one file, which the system gives back when a process ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import invalid


class Claims:
    """Locks by number, of which a process holds each alone; other processes on the same files see them.

    They only save work: what is done is written by renaming, so that a unit done twice is done right.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, which is created where it is missing; nothing is ever written into it."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._file)

    @contextmanager
    def hold(self, number: int, *, wait: bool = False) -> Iterator[bool]:
        """Yield whether the claim is ours inside the block: it is another process's where it could not be had.

        number: of the claim, at least 0. wait: until it can be had. Raises InputError on files without locks.
        """
        ours = self._locked(number, wait)
        try:
            yield ours
        finally:
            if ours:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def _locked(self, number: int, wait: bool) -> bool:
        """Return whether the claim is ours now. wait: for whoever has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            found, remedy = f"{self.path} ({error.strerror})", "name a folder elsewhere, or mount it with locks"
            raise invalid("folder", "must be on a file system with POSIX locks", found, remedy) from error
        return True
