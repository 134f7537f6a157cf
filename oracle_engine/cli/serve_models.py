"""The models of a server: one that the options describe, or several of a TOML file."""

from __future__ import annotations

import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..base.errors import DataFileError, bad_file
from ..base.names import PATH_NAMES
from ..engine.engine import OracleEngine
from ..serving.models import check_name
from .shared import engine_of

# what a table of the file may say, and of which kind; each is the option of that name
KEYS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "data_key": (str,),
    "folder": (str,),
    "range": (list,),
    "count": (int,),
    "size": (int, list),
    "gray": (bool,),
    "labels_file": (str,),
    "path": (str,),
    "index": (str,),
    "device": (str,),
    "resident": (str,),
    "memory": (str, int),
    "guidance": (int, float),
}

Engines = dict[str, tuple[OracleEngine, float | None]]


def named_engines(arguments: Namespace) -> Engines:
    """Return the engines by name, each with its scale of guidance or None.

    arguments: of `oracle-engine serve`. Raises DataFileError for a file --config that cannot be understood, and as
    :func:`engine_of` does.
    """
    if arguments.config is None:
        check_name(arguments.name)
        return {arguments.name: (engine_of(arguments), arguments.guidance)}
    file = Path(arguments.config)
    tables = _tables(file)
    return {name: _engine(file, name, table, arguments) for name, table in tables.items()}


def _tables(file: Path) -> dict[str, Any]:
    """Return the tables of the models in a TOML file, by name."""
    expected = "a TOML file with tables [models.NAME]"
    try:
        held = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(file, expected, str(error)) from None
    models = held.get("models")
    if set(held) != {"models"} or not isinstance(models, dict) or not models:
        raise _wrong(file, expected, ", ".join(held) or "nothing")
    return models


def _engine(file: Path, name: str, table: Any, arguments: Namespace) -> tuple[OracleEngine, float | None]:
    """Return the engine that a table describes, and its guidance scale or None."""
    _check(file, name, table)
    known = {"path": "rectified_flow", "gray": False, "seed": arguments.seed}
    given: dict[str, Any] = dict.fromkeys(KEYS) | known | table
    if given["range"] is not None:
        low, high = given["range"]
        given["range"] = (float(low), float(high))
    if isinstance(given["size"], list):
        given["size"] = tuple(given["size"])
    # names of files are those beside the file
    for key in ("data", "folder", "index", "labels_file"):
        if given[key] is not None and (file.parent / given[key]).exists():
            given[key] = str(file.parent / given[key])
    scale = given["guidance"]
    return engine_of(Namespace(**given)), None if scale is None else float(scale)


def _check(file: Path, name: str, table: Any) -> None:
    """Raise DataFileError where a table does not describe a model."""
    try:
        check_name(name)
    except ValueError:
        raise _wrong(file, "names of letters, digits, dots, dashes and underscores", repr(name)) from None
    if not isinstance(table, dict) or "data" not in table:
        raise _wrong(file, f"a table [models.{name}] with data", "none")
    for key, value in table.items():
        # in TOML true is no number
        if key not in KEYS or not isinstance(value, KEYS[key]) or (isinstance(value, bool) and bool not in KEYS[key]):
            raise _wrong(file, f"in [models.{name}] the keys {', '.join(KEYS)}", f"{key} = {value!r}")
    if table.get("path", "rectified_flow") not in PATH_NAMES:
        raise _wrong(file, f"in [models.{name}] a path among {', '.join(PATH_NAMES)}", table["path"])
    pair = table.get("range")
    if pair is not None and not (len(pair) == 2 and all(type(end) in (int, float) for end in pair)):
        raise _wrong(file, f"in [models.{name}] a range of two numbers", str(pair))


def _wrong(file: Path, expected: str, found: str) -> DataFileError:
    return bad_file(file, expected, found, "mend the file of --config", parameter="--config")
