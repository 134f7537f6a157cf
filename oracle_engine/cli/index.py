"""`oracle-engine index`: build what late queries search with, once, and say what such a file holds."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.errors import invalid
from ..base.progress import PartProgress, progress_bars
from ..data.dataset import OracleDataset
from ..engine.outlook import screen_levels
from ..kernels.screens import SCREEN_KINDS
from ..paths.paths import RectifiedFlow
from ..search.index import SearchIndex, build_index
from .shared import device_named, load, say


def run_index_build(arguments: Namespace) -> None:
    """Build the index of a data set and write it to a file that was not there, or that may be overwritten."""
    target = Path(arguments.out)
    if target.is_dir():
        raise invalid("--out", "must name a file", f"{target}, a folder", "name a file in it, such as data.index")
    if target.exists() and not arguments.overwrite:
        raise invalid("--out", "must be free", f"{target}, which exists", "name another file, or pass --overwrite")
    began = time.perf_counter()
    with progress_bars() as progress:
        data, device = load(arguments), device_named(arguments.device)
        data = data if device is None else data.to(device)
        index = _built(arguments, data, progress)
        index.save(target)
    took = time.perf_counter() - began
    facts = {"file": str(target), "data": repr(data), **index_facts(index, target), "elapsed": took}
    say(arguments, f"{format_facts(facts)}\n{target} written; {took:.1f} s", facts)


def _built(arguments: Namespace, data: OracleDataset, progress: PartProgress) -> SearchIndex:
    if arguments.append is None:
        return build_index(data, arguments.index or "screen", not arguments.no_neighbours, progress)
    if arguments.index is not None or arguments.no_neighbours:
        remedy = "leave --index and --no-neighbours out: the extended index is like the old one"
        raise invalid("--append", "must stand alone", "another choice beside it", remedy)
    return SearchIndex.read(arguments.append).extended(data, arguments.append, progress)


def run_index_info(arguments: Namespace) -> None:
    """Say what an index file holds and, given a data set, whether it is the index of that."""
    source = Path(arguments.file)
    index = SearchIndex.read(source)
    facts: dict[str, Any] = {"file": str(source), **index_facts(index, source)}
    if arguments.data is not None:
        data = load(arguments)
        facts |= {"data": repr(data), "fits": data.fingerprint == index.origin.fingerprint}
    say(arguments, format_facts(facts), facts)


def index_facts(index: SearchIndex, file: Path) -> dict[str, Any]:
    """Return what is worth knowing of an index and its file; times are those of the rectified flow."""
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
        "neighbours": index.distances is not None,
        "bytes": file.stat().st_size,
    }


def format_facts(facts: dict[str, Any]) -> str:
    """Return the facts as aligned text."""
    by = {"none": "no screen", "pca": "screen of leading coordinates", "int8": "screen of 8-bit codes"}
    what = by.get(facts["kind"], "screen of the samples, which are stored in 8 bits")
    searched = "" if facts["kind"] == "none" else f", searched by {'FAISS' if facts['spec'] == 'flat' else 'torch'}"
    factory = facts["spec"] not in ("screen", "flat", *SCREEN_KINDS)
    lines = {
        "index": f"{facts['spec']}, built by FAISS on its first use" if factory else f"{what}{searched}",
        "why": "" if factory else facts["reason"],
        "of": f"{facts['of']}, {facts['samples']:,} samples of {facts['dim']:,} values",
        "print": facts["fingerprint"],
        "size": f"{facts['bytes'] / 2**20:,.1f} MiB",
        "answers": "" if facts["kind"] == "none" and not factory else _promise(facts["certified"]),
        "nearest": "distances are in it: late training queries with source need no data" if facts["neighbours"] else "",
        "fits": "" if "fits" not in facts else f"{'yes' if facts['fits'] else 'NO'}, {facts['data']}",
    }
    text = [f"{name:<9} {words}" for name, words in lines.items() if words]
    return "\n".join([*text, *_level_lines(facts["levels"])])


def _promise(certified: bool) -> str:
    return "certified" if certified else "not certified: for mode 'top_k' only"


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
