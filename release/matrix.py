"""The versions that the package says it runs with: `python -m release.matrix` tries those that can be had here.

Every cell is an environment of one Python, torch and NumPy with the wheel of dist/, in which a part of the quick tests
runs. A cell whose versions cannot be had here is said to be untried, with the reason, and no failure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .environments import ROOT, Environment, FailedError, folder_of_tests, native_wheel, quick, run

PYTHONS = ("3.11", "3.12", "3.13")
# the oldest that setup.py names, and the newest that pip finds
TORCH = ("2.9.*", "newest")
NUMPY = ("1.26.*", "newest")

PASSED, FAILED, UNTRIED = "passed", "FAILED", "untried"

# extras of the package that the quick tests take; everything in them is as new as pip finds
EXTRAS = "[test,faiss]"


@dataclass(frozen=True)
class Cell:
    """One Python, torch and NumPy."""

    python: str
    torch: str
    numpy: str

    def __str__(self) -> str:
        return f"Python {self.python}, torch {self.torch}, NumPy {self.numpy}"

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for."""
        versions = {"torch": self.torch, "numpy": self.numpy}
        return [name if version == "newest" else f"{name}=={version}" for name, version in versions.items()]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: PASSED, FAILED or UNTRIED, and in which words."""

    cell: Cell
    result: str
    words: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cells, print a line for each, and return 1 where one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m release.matrix", description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only these; given once for each")
    parser.add_argument("--cuda", action="store_true", help="take builds of torch for CUDA too: gigabytes a cell")
    parser.add_argument("--list", action="store_true", help="say which cells could be tried, and try none")
    options = parser.parse_args(arguments)
    outcomes = []
    try:
        wheel = native_wheel()
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    for cell in cells(options.python or PYTHONS):
        outcomes.append(tried(cell, wheel, only_look=options.list, cuda=options.cuda))
        print(f"{outcomes[-1].result:8} {cell}: {outcomes[-1].words}", flush=True)
    counts = {result: sum(one.result == result for one in outcomes) for result in (PASSED, FAILED, UNTRIED)}
    print(", ".join(f"{count} {result.lower()}" for result, count in counts.items()))
    return 1 if counts[FAILED] else 0


def cells(pythons: Sequence[str]) -> Iterator[Cell]:
    """Yield every combination."""
    for python, torch, numpy in product(pythons, TORCH, NUMPY):
        yield Cell(python, torch, numpy)


def interpreter(version: str) -> str | None:
    """Return the newest interpreter of a version on the path or among those of pyenv, or None."""
    found = shutil.which(f"python{version}")
    own = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return found if found and works(found) else next((str(path) for path in reversed(own) if works(str(path))), None)


def works(python: str) -> bool:
    """Return whether an interpreter starts and can make environments."""
    try:
        run([python, "-c", "import venv, ensurepip"], Path.cwd())
    except (FailedError, OSError):
        return False
    return True


def tried(cell: Cell, wheel: Path, *, only_look: bool, cuda: bool = False) -> Outcome:
    """Return what became of a cell; with `only_look`, only whether its versions can be had. cuda: as in to_install."""
    python = interpreter(cell.python)
    if python is None:
        return Outcome(cell, UNTRIED, "there is no such interpreter here")
    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        folder = Path(scratch)
        obstacle = lacking(cell, python, folder, cuda=cuda)
        if obstacle is not None:
            return Outcome(cell, UNTRIED, f"{obstacle}; {compiled(python, folder)}")
        if only_look:
            return Outcome(cell, UNTRIED, "can be had")
        try:
            place = folder_of_tests(folder)
            environment = Environment.made(folder / "venv", python)
            environment.install(f"{wheel}{EXTRAS}", *to_install(cell, python, folder, cuda=cuda))
            versions = f"torch {environment.version('torch')}, NumPy {environment.version('numpy')}"
            return Outcome(cell, PASSED, f"{versions}: {quick(environment, place)}")
        except FailedError as error:
            return Outcome(cell, FAILED, str(error))


def lacking(cell: Cell, python: str, folder: Path, *, cuda: bool = False) -> str | None:
    """Return which of the versions has no wheel that can be had here, in words, or None."""
    try:
        to_install(cell, python, folder, cuda=cuda)
    except FailedError as error:
        return str(error)
    return None


def to_install(cell: Cell, python: str, folder: Path, *, cuda: bool = False) -> list[str]:
    """Return what pip is to install for a cell. Raises FailedError for what cannot be had here, in words.

    A torch for CUDA counts as none unless `cuda`: it would bring gigabytes that no CPU needs. Where the newest torch is
    one, the version that the project is tested with takes its place.
    """
    torch, numpy = cell.requirements
    names = [torch] if "==" in torch else [torch, f"torch=={pinned('torch')}"]
    builds = {name: offered(name, cell, python, folder) for name in names}
    usable = [name for name, build in builds.items() if cuda or "cpu" in build or sys.platform != "linux"]
    if not usable:
        raise FailedError(f"of {' and '.join(names)} only builds for CUDA can be had")
    offered(numpy, cell, python, folder)
    return [usable[0], numpy]


def offered(requirement: str, cell: Cell, python: str, folder: Path) -> str:
    """Return the name of the wheel that pip would take. Raises FailedError without one."""
    ask = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
    try:
        report = json.loads(run([*ask, "--quiet", "--report", "-", requirement], folder))
    except FailedError:
        raise FailedError(f"no wheel of {requirement} for Python {cell.python} can be had") from None
    return str(report["install"][0]["download_info"]["url"]).rsplit("/", 1)[1]


def pinned(name: str) -> str:
    """Return the version of a distribution in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{name}=="))


def compiled(python: str, folder: Path) -> str:
    """Return whether the sources are Python to an interpreter that cannot run them here."""
    try:
        run(
            [python, "-m", "compileall", "-q", "-d", "oracle_engine", str(ROOT / "oracle_engine")],
            folder,
            PYTHONPYCACHEPREFIX=str(folder / "cache"),
        )
    except FailedError as error:
        return f"its compiler refuses the sources: {error}"
    return "its compiler accepts the sources"


if __name__ == "__main__":
    sys.exit(main())
