"""The version of the package and the ORACLE_* environment variables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from ..errors import invalid

__version__ = "0.2.0"

BackendName = Literal["auto", "native", "torch", "reference", "triton"]
NativeName = Literal["auto", "off", "v3", "v4", "amx", "aarch64"]

_VARIABLES = ("ORACLE_DATA", "ORACLE_CACHE", "ORACLE_BLOCK_MB", "ORACLE_BACKEND", "ORACLE_NATIVE")


@dataclass(frozen=True)
class Settings:
    """The ORACLE_* variables, read at each call of :meth:`read` and never at import.

    data: ORACLE_DATA, an existing folder in which data sets are looked for, or None.
    cache: ORACLE_CACHE, a folder for what can be made anew, such as decoded pictures, or None; it need not exist.
    block_mb: ORACLE_BLOCK_MB, the size in megabytes of a block of rows held in cache, above 0; None leaves the choice
        to the engine.
    backend: ORACLE_BACKEND, which implementation answers where the caller names none.
    native: ORACLE_NATIVE, which version of the native kernels is loaded, or off for none.
    """

    data: Path | None = None
    cache: Path | None = None
    block_mb: float | None = None
    backend: BackendName = "auto"
    native: NativeName = "auto"

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings in `environ`; an empty value counts as unset.

        environ: names and values of variables; None is the environment of the process.

        Raises InputError where ORACLE_DATA names no folder, ORACLE_BLOCK_MB is no positive finite number,
        ORACLE_BACKEND is no known backend, or ORACLE_NATIVE no known version.
        """
        raw = _raw_settings(environ)
        return cls(
            data=_folder("ORACLE_DATA", raw["ORACLE_DATA"]),
            cache=None if raw["ORACLE_CACHE"] is None else Path(raw["ORACLE_CACHE"]).expanduser(),
            block_mb=_positive("ORACLE_BLOCK_MB", raw["ORACLE_BLOCK_MB"]),
            backend=_backend("ORACLE_BACKEND", raw["ORACLE_BACKEND"]),
            native=_native("ORACLE_NATIVE", raw["ORACLE_NATIVE"]),
        )


def cache_folder() -> Path:
    """Return the folder for what can be made anew: ORACLE_CACHE, or oracle-engine in XDG_CACHE_HOME or ~/.cache."""
    named = Settings.read().cache
    if named is not None:
        return named
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "oracle-engine"


def block_megabytes() -> float:
    """Return ORACLE_BLOCK_MB, in megabytes, above 0, or 0.0 where it is unset.

    Every scan calls this function, so that it reads no other variable. Raises InputError where the value is no number
    above 0.
    """
    value = os.environ.get("ORACLE_BLOCK_MB", "").strip()
    return _positive("ORACLE_BLOCK_MB", value or None) or 0.0


def native_setting() -> str | None:
    """Return ORACLE_NATIVE as it is set, or None; every scan calls this function."""
    return os.environ.get("ORACLE_NATIVE")


def native_choice(setting: str | None) -> NativeName:
    """Return the version that `setting`, ORACLE_NATIVE, names, or auto where it is None or empty.

    Raises InputError where the value is no known version.
    """
    return _native("ORACLE_NATIVE", (setting or "").strip() or None)


def _raw_settings(environ: Mapping[str, str] | None) -> dict[str, str | None]:
    source = os.environ if environ is None else environ
    return {name: source.get(name, "").strip() or None for name in _VARIABLES}


def _folder(name: str, value: str | None) -> Path | None:
    """Return the folder that a setting names, or None where it is not set."""
    if value is None:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise invalid(name, "must name an existing folder", repr(value), f"create it, or unset {name}")
    return path


def _positive(name: str, value: str | None) -> float | None:
    """Return the value of a setting as a number above 0, or None where it is not set."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise invalid(name, "must be a number above 0", repr(value), f"unset {name} for automatic")
    return number


def _backend(name: str, value: str | None) -> BackendName:
    return cast(BackendName, _one_of(name, value, get_args(BackendName)))


def _native(name: str, value: str | None) -> NativeName:
    return cast(NativeName, _one_of(name, value, get_args(NativeName)))


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> str:
    choice = (value or "auto").lower()
    if choice not in known:
        raise invalid(name, f"must be one of {', '.join(known)}", repr(value), f"unset {name} for auto")
    return choice
