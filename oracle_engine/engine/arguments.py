"""What functions that take an engine say to anything else."""

from __future__ import annotations

from typing import Any

from ..base.errors import invalid
from .engine import OracleEngine


def check_engine(engine: Any, name: str = "engine") -> None:
    """Check that `engine` is an OracleEngine.

    engine: what was passed. name: the parameter that the error names.
    Raises InputError for anything else; for an object that has an engine, such as an OracleTarget, it says which.
    """
    if isinstance(engine, OracleEngine):
        return
    inner = getattr(engine, "engine", None)
    remedy = "make one with OracleEngine(data)"
    if isinstance(inner, OracleEngine):
        remedy = "pass the engine inside of it, its attribute .engine"
    elif isinstance(engine, type) and issubclass(engine, OracleEngine):
        remedy = "pass an instance, OracleEngine(data)"
    found = f"the class {engine.__name__}" if isinstance(engine, type) else type(engine).__name__
    raise invalid(name, "must be an OracleEngine", found, remedy)
