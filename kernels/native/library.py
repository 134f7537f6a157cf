"""The shared library of native kernels that suits this machine, or the reason why there is none."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ...base.errors import invalid
from ...base.machine.environment import CPU_INFO
from ...base.machine.settings import native_choice, native_setting
from .build import FAILURE, LIBRARIES, left_out, sources_digest, targets

LONG_VECTORS = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}

# what /proc/cpuinfo must list for a target; aarch64 has all that it needs
FEATURES = {
    "amx": {*LONG_VECTORS, "avx512vbmi", "amx_tile", "amx_int8"},
    "v4": LONG_VECTORS,
    "v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
    "aarch64": set[str](),
}


@dataclass(frozen=True)
class NativeLibrary:
    """A loaded library, or none; `reason` says in words which version serves, and why no better one or none does."""

    library: ctypes.CDLL | None
    target: str | None
    reason: str


def native_library() -> NativeLibrary:
    """Return the library that serves: the best that can be used here, or the one that ORACLE_NATIVE names.

    Raises InputError where ORACLE_NATIVE is no known choice, or names one that this machine cannot run.
    """
    return _chosen(native_setting())


@cache
def _chosen(setting: str | None) -> NativeLibrary:
    choice = native_choice(setting)
    if choice == "off":
        return NativeLibrary(None, None, "native kernels are switched off by ORACLE_NATIVE")
    usable = usable_targets()
    if choice != "auto":
        if choice not in usable:
            received = f"{choice!r} on a machine with {', '.join(usable) or 'none'}"
            raise invalid("ORACLE_NATIVE", "must name kernels that this machine can run", received, "unset it")
        usable = [choice]
    return _first(usable)


def _first(usable: list[str]) -> NativeLibrary:
    """Return the first library of `usable` that can be loaded; its reason says what is wrong with those before it."""
    wrong: list[str] = []
    without = left_out(LIBRARIES)
    for name in usable:
        if library_path(name).is_file():
            found = _load(name)
            if found.library is not None:
                return replace(found, reason="; ".join((found.reason, *wrong)))
            wrong.append(found.reason)
        elif name in without:
            wrong.append(f"native kernels for {name} were left out: {without[name].splitlines()[0]}")
    # where some are not there at all, to make them helps more than to know what is wrong with the others
    return NativeLibrary(None, None, wrong[0]) if wrong and len(wrong) == len(usable) else _none()


def library_path(target: str) -> Path:
    """Return where the library for `target` is once it is built."""
    return LIBRARIES / f"liboracle-{target}.so"


def usable_targets(cpu_info: Path = CPU_INFO) -> list[str]:
    """Return the targets that this machine can run, the best first.

    cpu_info: the file in which Linux lists the processors.
    """
    try:
        lines = cpu_info.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
    return [name for name in targets() if FEATURES[name] <= flags]


def _load(target: str) -> NativeLibrary:
    try:
        library = ctypes.CDLL(str(library_path(target)))
    except OSError as error:
        return NativeLibrary(None, None, f"native kernels could not be loaded: {error}")
    if not _is_current(library):
        return NativeLibrary(None, None, "native kernels are of other sources than these; run: make native")
    if not library.oracle_permitted():
        return NativeLibrary(None, None, f"native kernels for {target} may not use the matrix units of this processor")
    return NativeLibrary(library, target, f"native kernels for {target} serve the CPU")


def _is_current(library: ctypes.CDLL) -> bool:
    """Return whether `library` was made from the sources beside it: what they agree on is laid out by both sides."""
    expected = sources_digest()
    if not expected:
        return True
    try:
        made_from = library.oracle_sources
    except AttributeError:
        return False
    made_from.restype = ctypes.c_char_p
    return bool(made_from() == expected.encode())


def _none() -> NativeLibrary:
    failure = LIBRARIES / FAILURE
    if not targets():
        why = "are made for Linux on x86-64 and aarch64 only"
    elif not usable_targets():
        why = "need AVX2, which this processor lacks"
    elif failure.is_file():
        why = f"were not built: {failure.read_text('utf-8').strip().splitlines()[0]}"
    else:
        why = "were not built; run: make native"
    return NativeLibrary(None, None, f"native kernels {why}")
