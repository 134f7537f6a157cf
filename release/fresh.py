"""Prove a wheel: `python -m release.fresh [WHEEL]` runs the quick tests with it in a fresh environment."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .environments import ROOT, Environment, FailedError, folder_of_tests, native_wheel, quick, run

# what an installed package can do without its tests
DEMO = ("-m", "oracle_engine", "stages", "--data", "digits", "--queries", "16", "--json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the wheel, by default the native one of dist/, and return 1 where it does not work."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    began = time.perf_counter()
    try:
        wheel = Path(given[0]).resolve() if given else native_wheel()
        with tempfile.TemporaryDirectory(prefix="fresh-") as scratch:
            words = proved(wheel, Path(scratch), sys.executable)
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{wheel.name} in a fresh environment: {words}; {time.perf_counter() - began:.0f} s in all")
    return 0


def proved(wheel: Path, folder: Path, python: str) -> str:
    """Return what the quick tests say of a wheel in an environment of `python`, made in `folder`.

    Raises FailedError where it cannot be installed, a command of it fails, or a test does.
    """
    # at once: the checkout may change meanwhile
    place = folder_of_tests(folder)
    environment = Environment.made(folder / "venv", python)
    environment.install(f"{wheel}[test,faiss]", constraints=[ROOT / "constraints.txt"])
    run([environment.python, *DEMO], folder)
    return quick(environment, place)


if __name__ == "__main__":
    sys.exit(main())
