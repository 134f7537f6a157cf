"""What functions that take an engine say to anything else."""

from __future__ import annotations

from typing import Any

from ..base.errors import invalid
from .engine import OracleEngine
from .oracle import Oracle


def check_oracle(engine: Any, name: str = "engine") -> None:
    """Check that `engine` answers queries: an OracleEngine, or a RemoteOracle.

    engine: what was passed. name: the parameter that the error names.
    Raises InputError as :func:`check_engine` does.
    """
    if not isinstance(engine, Oracle):
        check_engine(engine, name)


def check_engine(engine: Any, name: str = "engine") -> None:
    """Check that `engine` is an OracleEngine.

    engine: what was passed. name: the parameter that the error names.
    Raises InputError for anything else; for an object that has an engine, such as an OracleTarget, it says which.
    """
    if isinstance(engine, OracleEngine):
        return
    inner = getattr(engine, "engine", None)
    remedy = "make one with OracleEngine(data)"
    if isinstance(engine, Oracle):
        remedy = "make one with OracleEngine(data) where the data are: this needs more than a server answers"
    elif isinstance(inner, Oracle):
        remedy = "pass the engine inside of it, its attribute .engine"
    elif isinstance(engine, type) and issubclass(engine, OracleEngine):
        remedy = "pass an instance, OracleEngine(data)"
    found = f"the class {engine.__name__}" if isinstance(engine, type) else type(engine).__name__
    raise invalid(name, "must be an OracleEngine", found, remedy)
