"""A progress bar on the terminal, and silence where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

# called with the steps done and all of them
Progress = Callable[[int, int], None]

# the same for work in several parts, with the name of the part first
PartProgress = Callable[[str, int, int], None]


def progress_bar(what: str) -> AbstractContextManager[Progress]:
    """Give a function that moves the bar of `what`, with elapsed time, on standard error.

    Drawn by rich where that is installed, else as one plain line; not at all where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        return _no_bar()
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return _plain_bar(what)
    return _rich_bar(what)


@contextmanager
def progress_bars() -> Iterator[PartProgress]:
    """Give a function that moves the bar of the part it is told; a bar ends where the next part begins."""
    with ExitStack() as stack:
        shown: dict[str, Progress] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()
                shown[what] = stack.enter_context(progress_bar(what))
            shown[what](done, total)

        yield report


@contextmanager
def _no_bar() -> Iterator[Progress]:
    yield lambda done, total: None


@contextmanager
def _plain_bar(what: str) -> Iterator[Progress]:
    began = time.monotonic()

    def report(done: int, total: int) -> None:
        sys.stderr.write(f"\r{what}  {done} of {total}  {time.monotonic() - began:.0f} s ")
        sys.stderr.flush()

    try:
        yield report
    finally:
        # back to an empty line
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextmanager
def _rich_bar(what: str) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
