"""Build dist/: `python -m release.wheels`. A source distribution, and from it a native and a pure wheel."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .environments import DIST, ROOT, FailedError, run

LIBRARIES = "oracle_engine/kernels/native/lib/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build everything, print its names, and return 1 where something cannot be built or is not what it should be."""
    try:
        for path in build(DIST):
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 2**20:.1f} MiB")
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(folder: Path) -> list[Path]:
    """Return the source distribution, the native and the pure wheel, made in `folder`, which is emptied before.

    Raises FailedError where one of them cannot be built, the native one lacks libraries where there is a compiler, or a
    build without one does not end in a wheel.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = source_distribution(folder)
    native = wheel(source, folder)
    pure = wheel(source, folder, ORACLE_BUILD="pure")
    with tempfile.TemporaryDirectory() as scratch:
        without = wheel(source, Path(scratch), CXX="/nonexistent/compiler")
        if libraries(without):
            raise FailedError(f"{without.name} has libraries without a compiler: {libraries(without)}")
    if not libraries(native):
        raise FailedError(f"{native.name} has no libraries; the pure wheel is {pure.name}")
    if libraries(pure) or not pure.name.endswith("-py3-none-any.whl"):
        raise FailedError(f"{pure.name} is not pure: {libraries(pure)}")
    return [source, native, pure]


def source_distribution(folder: Path) -> Path:
    """Return the source distribution of the checkout, made in `folder`."""
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    name = run([sys.executable, "-c", code, str(folder)], ROOT).strip().splitlines()[-1]
    return folder / name


def wheel(source: Path, folder: Path, **variables: str) -> Path:
    """Return the wheel that pip builds from a source distribution; `variables` are those of its environment."""
    before = set(folder.glob("*.whl"))
    limits = str(ROOT / "constraints.txt")
    settings = {"PIP_CONSTRAINT": limits, "PIP_BUILD_CONSTRAINT": limits, **variables}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)]
    run(command, folder, **settings)
    (made,) = set(folder.glob("*.whl")) - before
    return made


def libraries(path: Path) -> list[str]:
    """Return the native libraries in a wheel."""
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.startswith(LIBRARIES) and name.endswith(".so")]


if __name__ == "__main__":
    sys.exit(main())
