"""`oracle-engine index`: build what late queries search with, once, and say what such a file holds."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .commands import device_of, load, say
from .errors import invalid
from .index import SearchIndex, build_index
from .outlook import screen_levels
from .paths import RectifiedFlow
from .progress import progress_bars


def run_index_build(arguments: Namespace) -> None:
    """Build the index of a data set and write it to a file that was not there, or that may be overwritten."""
    target = Path(arguments.out)
    if target.is_dir():
        raise invalid("--out", "must name a file", f"{target}, a folder", "name a file in it, such as data.index")
    if target.exists() and not arguments.overwrite:
        raise invalid("--out", "must be free", f"{target}, which exists", "name another file, or pass --overwrite")
    began = time.perf_counter()
    with progress_bars() as progress:
        data, device = load(arguments), device_of(arguments.device)
        data = data if device is None else data.to(device)
        index = build_index(data, arguments.index, not arguments.no_neighbours, progress)
        index.save(target)
    took = time.perf_counter() - began
    facts = {"file": str(target), "data": repr(data), **index_facts(index, target), "elapsed": took}
    say(arguments, f"{format_facts(facts)}\n{target} written; {took:.1f} s", facts)


def run_index_info(arguments: Namespace) -> None:
    """Say what an index file holds and, given a data set, whether it is the index of that."""
    source = Path(arguments.file)
    index = SearchIndex.read(source)
    facts: dict[str, Any] = {"file": str(source), **index_facts(index, source)}
    if arguments.data is not None:
        data = load(arguments)
        facts |= {"data": repr(data), "fits": data.fingerprint == index.fingerprint}
    say(arguments, format_facts(facts), facts)


def index_facts(index: SearchIndex, file: Path) -> dict[str, Any]:
    """Return what is worth knowing of an index and its file; times are those of the rectified flow."""
    screen = index.screen
    return {
        "spec": index.spec,
        "certified": index.search.certified,
        "of": index.name,
        "fingerprint": index.fingerprint,
        "samples": None if screen is None else len(screen),
        "dim": None if screen is None else len(screen.basis),
        "levels": [asdict(level) for level in screen_levels(index, RectifiedFlow())],
        "neighbours": index.distances is not None,
        "bytes": file.stat().st_size,
    }


def format_facts(facts: dict[str, Any]) -> str:
    """Return the facts as aligned text."""
    what = {"screen": "screen, searched by torch", "flat": "screen, searched by FAISS"}
    size = "" if facts["samples"] is None else f", {facts['samples']:,} samples of {facts['dim']:,} values"
    lines = {
        "index": what.get(facts["spec"], f"{facts['spec']}, built by FAISS on its first use"),
        "of": f"{facts['of']}{size}",
        "print": facts["fingerprint"],
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
        "answers": "certified" if facts["certified"] else "not certified: for mode 'top_k' only",
        "nearest": "distances are in it: late training queries with source need no data" if facts["neighbours"] else "",
        "fits": "" if "fits" not in facts else f"{'yes' if facts['fits'] else 'NO'}, {facts['data']}",
    }
    text = [f"{name:<9} {words}" for name, words in lines.items() if words]
    return "\n".join([*text, *_level_lines(facts["levels"])])


def _level_lines(levels: list[dict[str, Any]]) -> list[str]:
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
