"""The description of an index file, as plain values and as text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engine.plans.forecast import screen_levels
from ..kernels.screens import SCREEN_KINDS
from ..paths.paths import RectifiedFlow
from ..search.index import SearchIndex

_KINDS = {
    "none": "no screen",
    "pca": "screen of leading coordinates",
    "pca8": "screen of leading coordinates in 8 bits",
    "int8": "screen of 8-bit codes",
}


def index_facts(index: SearchIndex, file: Path) -> dict[str, Any]:
    """Return the kind, the data set, the levels and the size of an index, as plain values that json can write.

    index: what the file holds. file: where it is, for its size in bytes.
    The times of the levels are those of the rectified flow.
    """
    return {
        "spec": index.spec,
        "kind": index.kind,
        "reason": index.reason,
        "certified": index.search.certified,
        "of": index.origin.name,
        "fingerprint": index.origin.fingerprint,
        "samples": index.origin.count,
        "dim": len(index.centre),
        "levels": [asdict(level) for level in screen_levels(index, RectifiedFlow())],
        "costs": "" if index.screen is None else str(index.screen.costs),
        "neighbours": index.distances is not None,
        "bytes": file.stat().st_size,
    }


def format_facts(facts: dict[str, Any]) -> str:
    """Return the facts of :func:`index_facts` as aligned text; `fits` and `data` may be among them."""
    # any other specification is a factory string of FAISS
    factory = facts["spec"] not in ("screen", "flat", *SCREEN_KINDS)
    nothing = facts["kind"] == "none" and not factory
    lines = {
        "index": f"{facts['spec']}, built by FAISS on its first use" if factory else _screen_words(facts),
        "why": "" if factory else facts["reason"],
        "of": f"{facts['of']}, {facts['samples']:,} samples of {facts['dim']:,} values",
        "print": facts["fingerprint"],
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
        "answers": "" if nothing else _promise(facts["certified"]),
        "measured": facts["costs"],
        "nearest": "distances are in it: late training queries with source need no data" if facts["neighbours"] else "",
        "fits": "" if "fits" not in facts else f"{'yes' if facts['fits'] else 'NO'}, {facts['data']}",
    }
    text = [f"{name:<9} {words}" for name, words in lines.items() if words]
    return "\n".join([*text, *_level_lines(facts["levels"])])


def _screen_words(facts: dict[str, Any]) -> str:
    kind = _KINDS.get(facts["kind"], "screen of the samples, which are stored in 8 bits")
    searched = "FAISS" if facts["spec"] == "flat" else "torch"
    return kind if facts["kind"] == "none" else f"{kind}, searched by {searched}"


def _promise(certified: bool) -> str:
    return "certified" if certified else "not certified: for mode 'top_k' only"


def _level_lines(levels: list[dict[str, Any]]) -> list[str]:
    """Return the table of the levels of a screen."""
    if not levels:
        return []
    head = "level     any query    source known    trajectory     (tried from this t of the rectified flow)"
    times = ("unknown", "source", "trajectory")
    cells = [[_time(level[name]) for name in times] for level in levels]
    rows = [
        f"{level['width']:<9,} {a:<12} {b:<15} {c}".rstrip() for level, (a, b, c) in zip(levels, cells, strict=True)
    ]
    return ["", head, *rows]


def _time(t: float | None) -> str:
    return "never" if t is None else f"t >= {t:.3f}"
