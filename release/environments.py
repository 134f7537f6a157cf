"""Virtual environments of their own, and what is run in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"

# what may leak from the environment that this runs in
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "ORACLE_BUILD", "ORACLE_BACKEND", "ORACLE_NATIVE")


class FailedError(Exception):
    """A command that failed; the message ends with what it said last."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, python: str) -> Environment:
        """Make an environment of the interpreter `python`. Raises FailedError where that cannot be."""
        run([python, "-m", "venv", str(folder)], folder.parent)
        return cls(folder)

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(self.folder / "bin" / "python")

    def install(self, *requirements: str, constraints: Sequence[Path] = ()) -> None:
        """Install what pip is told. Raises FailedError where it cannot."""
        limits = [word for path in constraints for word in ("-c", str(path))]
        run([self.python, "-m", "pip", "install", "--quiet", *limits, *requirements], self.folder.parent)

    def version(self, name: str) -> str:
        """Return the version of an installed distribution."""
        code = f"from importlib.metadata import version; print(version({name!r}))"
        return run([self.python, "-c", code], self.folder.parent).strip()


def run(command: Sequence[str], folder: Path, **variables: str) -> str:
    """Return what a command prints, run in a folder. Raises FailedError with its last words where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in LEAKS}
    done = subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"{' '.join(command)}\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def native_wheel() -> Path:
    """Return the wheel with native kernels in dist/. Raises FailedError without one."""
    found = sorted(path for path in DIST.glob("*.whl") if "none-any" not in path.name)
    if not found:
        raise FailedError(f"{DIST} holds no wheel with native kernels: run python -m release.wheels")
    return found[-1]


def folder_of_tests(folder: Path) -> Path:
    """Return a folder with the tests and their settings, in which the package can only come from an installation."""
    place = folder / "checked"
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def quick_tests() -> list[str]:
    """Return the tests of `make quick`."""
    return [f"tests/{name}" for name in (ROOT / "tests" / "quick.txt").read_text("utf-8").split()]


def quick(environment: Environment, place: Path) -> str:
    """Return the last line of the quick tests, run in `place` with the package that is installed."""
    origin = run([environment.python, "-c", "import oracle_engine; print(oracle_engine.__file__)"], place).strip()
    if not Path(origin).is_relative_to(environment.folder):
        raise FailedError(f"the package comes from {origin}, not from {environment.folder}")
    command = [environment.python, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *quick_tests()]
    return run(command, place, OMP_NUM_THREADS="1").strip().splitlines()[-1]
