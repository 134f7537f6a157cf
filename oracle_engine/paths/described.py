"""Paths as plain values, and back, so that they can be told over a wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from ..base.errors import invalid
from .paths import EDM, GVP, VP, LinearVP, Path, Polynomial, RectifiedFlow

KINDS = {kind.__name__: kind for kind in (RectifiedFlow, GVP, VP, LinearVP, Polynomial, EDM)}


def path_facts(path: Path) -> dict[str, Any] | None:
    """Return the kind of a path and its parameters, as values that JSON can hold, or None for another path."""
    if KINDS.get(type(path).__name__) is not type(path) or not is_dataclass(path) or isinstance(path, type):
        return None
    return {"kind": type(path).__name__, **asdict(path)}


def path_of_facts(facts: Mapping[str, Any]) -> Path:
    """Return the path that :func:`path_facts` describes. Raises InputError for what describes none."""
    held = dict(facts)
    kind = KINDS.get(held.pop("kind", ""))
    if kind is None:
        raise invalid("path", f"must be one of {', '.join(KINDS)}", facts.get("kind"), "name the path yourself")
    try:
        return kind(**held)
    except TypeError as error:
        raise invalid("path", f"must be described as {kind.__name__} is", error, "name the path yourself") from None
