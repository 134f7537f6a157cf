"""Compile `src/*/*.cpp` to one shared library a target: `python kernels/native/build.py [folder] [--sanitize]`.

setup.py runs this file before anything is installed, so that it needs nothing but Python. Libraries of the same sources
are kept, and a target that the compiler does not know is left out; where another compiler shall make them, remove the
folder first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
LIBRARIES = Path(__file__).resolve().parent / "lib"

# where a build that failed says why, beside the libraries that it did not make
FAILURE = "failure.txt"

# where a build says which targets it left out and why, beside the libraries that it made
LEFT_OUT = "left-out.json"

# the machines that a library of this name runs on, and what tells the compiler so; the best comes first
TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "amx": (
            *("-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi", "-mamx-tile", "-mamx-int8"),
            "-mprefer-vector-width=512",
        ),
        "v4": ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"),
        "v3": ("-march=x86-64-v3",),
    },
    "aarch64": {"aarch64": ("-march=armv8-a",)},
}

# a target that takes the objects of another one, apart from those of sources that ask for what it alone has
SHARING = {"amx": ("v4", "__AMX_")}

# sources that are compiled as one, as most of either is the same code for the rows of a scan
AS_ONE = (("scans/scan.cpp", "scans/segments.cpp"),)

# what a compiler is asked to make of each target: an assembler may be older than the compiler that calls it
PROBE = """
#if defined(__AMX_INT8__)
asm("tdpbsud %tmm2, %tmm1, %tmm0");
#endif
"""

# a sum is what the source says: no reordering, but products and sums may share a rounding
FLAGS = (
    *("-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"),
    # vectors are handed over inside one file only; what GCC 12 says of its own headers
    *("-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
)
OPTIMISED = ("-O3",)
# a null pointer is an address that the first of the sanitizers refuses
SANITIZED = (
    *("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"),
    "-fno-omit-frame-pointer",
)


class BuildError(Exception):
    """No library can be made here; the message says why."""


def targets() -> dict[str, tuple[str, ...]]:
    """Return the targets of this machine and the flags of each; none on a system that is not Linux."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return TARGETS.get(machine, {}) if sys.platform == "linux" else {}


def sources(pattern: str) -> list[Path]:
    """Return the files of all rooms whose names match `pattern`."""
    return sorted(SOURCES.rglob(pattern))


def sources_digest() -> str:
    """Return the digest of the sources and of how they are compiled, or "" where they are not beside this file."""
    files = sources("*.[ch]pp")
    if not files:
        return ""
    found = hashlib.sha256()
    for path in (*files, Path(__file__).resolve()):
        found.update(path.relative_to(SOURCES.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def compiler() -> str:
    """Return the C++ compiler: CXX, or the first that is found. Raises BuildError where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise BuildError(f"no C++ compiler was found, of {', '.join(names)}")
    return found


def build(folder: Path, extra: Sequence[str], names: Sequence[str] = ()) -> list[Path]:
    """Compile libraries of this machine into `folder` and return their paths.

    extra: flags beside those of the target. names: of the targets, all where it is empty. Raises BuildError where there
    is no compiler, or where it fails. Targets that it does not know are left out, unless it knows none.
    """
    chosen = {name: flags for name, flags in targets().items() if not names or name in names}
    if not chosen:
        raise BuildError(f"there are no native kernels for {platform.machine()} on {sys.platform}")
    tool = compiler()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _leave_out(folder, tool, chosen)
    # a file includes another by its room and its name
    common = [*FLAGS, "-iquote", str(SOURCES), f'-DORACLE_SOURCES="{sources_digest()}"']
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects: dict[str, list[Path]] = {name: [] for name in chosen}
        jobs: dict[Path, list[str]] = {}
        for unit in _units():
            for name in chosen:
                maker = _maker(name, unit, chosen)
                made = Path(scratch) / "-".join((maker, *unit[-1].relative_to(SOURCES).with_suffix(".o").parts))
                jobs[made] = [*common, *extra, *chosen[maker], *_compiled(unit), "-o", str(made)]
                objects[name].append(made)
        list(pool.map(lambda job: _run(tool, job), jobs.values()))
        return [_link(tool, folder, name, objects[name], [*extra, *chosen[name]]) for name in chosen]


def ensure_built(folder: Path) -> list[Path]:
    """Compile all libraries of this machine, unless `folder` has those of the same sources. Raises BuildError."""
    without = left_out(folder)
    made = [_library(folder, name) for name in targets() if name not in without]
    digest = sources_digest().encode()
    if made and digest and all(path.exists() and digest in path.read_bytes() for path in made):
        return made
    return build(folder, OPTIMISED)


def left_out(folder: Path) -> dict[str, str]:
    """Return the targets that the build of the libraries in `folder` left out, and why."""
    try:
        return dict(json.loads((folder / LEFT_OUT).read_text("utf-8")))
    except FileNotFoundError:
        return {}


def runtime_library(name: str) -> str:
    """Return the path of a library of the compiler, such as that of a sanitizer. Raises BuildError where it is none."""
    done = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def build_if_possible(folder: Path) -> list[Path]:
    """Compile as :func:`ensure_built` does; where that fails, say why in a file of `folder` and return no paths."""
    failure = folder / FAILURE
    try:
        made = ensure_built(folder)
    except BuildError as error:
        folder.mkdir(parents=True, exist_ok=True)
        failure.write_text(f"{error}\n", "utf-8")
        print(f"native kernels are left out, the portable ones serve: {error}", file=sys.stderr)
        return []
    failure.unlink(missing_ok=True)
    return made


def _leave_out(folder: Path, tool: str, chosen: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return those of `chosen` that the compiler knows, and say which it does not, in a file of `folder` too."""
    unknown: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = Path(scratch) / "probe.cpp"
        source.write_text(PROBE, "utf-8")
        for name, flags in chosen.items():
            try:
                _run(tool, [*flags, "-c", str(source), "-o", str(source.with_suffix(".o"))])
            except BuildError as error:
                unknown[name] = str(error)
    if len(unknown) == len(chosen):
        # the last target asks the least of a compiler
        raise BuildError(unknown[list(chosen)[-1]])
    for name, why in unknown.items():
        # one of other sources would only be found to be that
        _library(folder, name).unlink(missing_ok=True)
        print(f"native kernels for {name} are left out: {why}", file=sys.stderr)
    (folder / LEFT_OUT).unlink(missing_ok=True)
    if unknown:
        (folder / LEFT_OUT).write_text(json.dumps(unknown), "utf-8")
    return {name: flags for name, flags in chosen.items() if name not in unknown}


def _library(folder: Path, target: str) -> Path:
    return folder / f"liboracle-{target}.so"


def _units() -> list[tuple[Path, ...]]:
    """Return the sources that are compiled at once; those that take longest come first, and nothing waits for them."""
    together = [tuple(SOURCES / name for name in names) for names in AS_ONE]
    return [*together, *((path,) for path in sources("*.cpp") if not any(path in unit for unit in together))]


def _compiled(unit: tuple[Path, ...]) -> list[str]:
    """Return the arguments of the compiler that name the sources of `unit`."""
    return [*(part for path in unit[:-1] for part in ("-include", str(path))), "-c", str(unit[-1])]


def _maker(target: str, unit: tuple[Path, ...], chosen: Collection[str]) -> str:
    """Return the target among `chosen` whose object of `unit` is that of `target`."""
    other, own = SHARING.get(target, (target, ""))
    return other if other in chosen and not any(own in path.read_text("utf-8") for path in _read_by(unit)) else target


def _read_by(unit: tuple[Path, ...]) -> set[Path]:
    """Return the sources of `unit` and all that they include, but for headers of the system."""
    found: set[Path] = set()
    left = list(unit)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [SOURCES / name for name in re.findall(r'^#include "(.+)"', path.read_text("utf-8"), re.MULTILINE)]
    return found


def _link(tool: str, folder: Path, target: str, objects: Sequence[Path], flags: Sequence[str]) -> Path:
    made, final = objects[0].with_name(f"{target}.so"), _library(folder, target)
    _run(tool, ["-shared", "-fopenmp", *flags, *map(str, objects), "-o", str(made)])
    # in one step: a process that has the old one mapped keeps it
    made.replace(final)
    return final


def _run(tool: str, arguments: Sequence[str]) -> None:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{Path(tool).name} failed: {(done.stderr.strip() or 'without a word')[-2000:]}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """Build into the folder that `arguments` name, or beside the sources; fail where that is not possible."""
    folder = next((Path(name) for name in arguments if name != "--sanitize"), LIBRARIES)
    try:
        made = build(folder, SANITIZED) if "--sanitize" in arguments else build_if_possible(folder)
    except BuildError as error:
        sys.exit(str(error))
    print(*made, sep="\n")
    sys.exit(not made)


if __name__ == "__main__":
    main(sys.argv[1:])
