"""Numbers of bytes as people write them: read and printed in one way."""

from __future__ import annotations

import re

from .arrays import is_whole
from .errors import invalid

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BY_NAME = {name.lower(): size for name, size in UNITS.items()}


def bytes_of(name: str, size: int | str) -> int:
    """Return a size in bytes, at least 1.

    name: of the parameter, for errors. size: a whole number, or a text such as "8GiB" or "500 MB".
    Raises InputError for anything else.
    """
    found = int(size) if is_whole(size) else 0
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        unit = _BY_NAME.get(match[2].lower()) if match else None
        found = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if found < 1:
        raise invalid(
            name, "must be a number of bytes above 0, or a text such as '8GiB'", repr(size), f"pass {name}='8GiB'"
        )
    return found


def in_words(size: int | float) -> str:
    """Return a number of bytes in the unit that suits it, such as "1.5 GiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:,.1f} {unit}"
    return f"{size:,.0f} bytes"
