"""A progress bar on standard error, which is drawn only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

# called with the number of steps done and the number of all steps
Progress = Callable[[int, int], None]

# bars of rich that are drawn now, the outermost first; a terminal has room for one of them
_DRAWN: list[Any] = []

# called with the name of a part of the work, then as Progress
PartProgress = Callable[[str, int, int], None]


def progress_bar(what: str) -> AbstractContextManager[Progress]:
    """Return a context manager that yields a function of (steps done, all steps), which moves a bar.

    what: the name shown beside the bar, the rate, the elapsed time and the time left. The bar goes to standard error.
        It is drawn by rich where that is installed, else as one plain line, and not at all where standard error is no
        terminal.
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
    """Yield a function of (name of a part, steps done, all steps), which moves the bar of that part.

    The bar of a part is removed when the first call for another part arrives.
    """
    with ExitStack() as stack:
        shown: dict[str, Progress] = {}

        def report(what: str, done: int, total: int) -> None:
            """Show the progress of `what`, in a bar of its own."""
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
    """Show a line of text in place of a bar, where rich is not installed."""
    began = time.monotonic()

    def report(done: int, total: int) -> None:
        """Write the line anew."""
        spent = time.monotonic() - began
        left = f"{(total - done) * spent / done:.0f} s left, {done / max(spent, 1e-9):.3g} a second" if done else ""
        sys.stderr.write(f"\r{what}  {done} of {total}  {spent:.0f} s  {left}\x1b[K")
        sys.stderr.flush()

    try:
        yield report
    finally:
        # back to an empty line
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextmanager
def _rich_bar(what: str) -> Iterator[Progress]:
    """Show a bar of rich."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
    )
    with _alone(), rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        _DRAWN.append(bar)
        task, began = bar.add_task(what, total=None, rate=""), time.monotonic()

        def report(done: int, total: int) -> None:
            """Move the bar."""
            spent = time.monotonic() - began
            rate = f"{done / spent:.3g} a second" if done and spent > 0.0 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield report


@contextmanager
def _alone() -> Iterator[None]:
    """Take the bar around this one from the screen while the block lasts."""
    outer = _DRAWN[-1] if _DRAWN else None
    count = len(_DRAWN)
    if outer is not None:
        outer.stop()
    try:
        yield
    finally:
        del _DRAWN[count:]
        if outer is not None:
            outer.start()
