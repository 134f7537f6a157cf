"""`oracle-engine index`: builds the index of a data set, which late queries search, and describes such a file."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import invalid
from ..options import Commands, add_command, add_source, refuse_key

if TYPE_CHECKING:
    from ...data.dataset import OracleDataset
    from ...search.index import SearchIndex


def add_index(commands: Commands) -> None:
    """Add the command, with its actions `build` and `info`, to `commands`."""
    summary = "what late queries search with: build it once, or describe one"
    group = commands.add_parser("index", help=summary, description=summary, allow_abbrev=False)
    actions = group.add_subparsers(required=True, metavar="ACTION")
    _add_build(actions)
    info = add_command(actions, "info", "what an index file holds, and whether it fits a data set", run_index_info)
    info.add_argument("file", metavar="FILE", help="what index build wrote")
    add_source(info, None, required=False)
    refuse_key(info)


def _add_build(actions: Commands) -> None:
    """Add `index build` and its options."""
    build = add_command(actions, "build", "build the index of a data set and write it to a file", run_index_build)
    add_source(build, None)
    build.add_argument(
        "--index",
        metavar="KIND",
        help="screen, the kind that saves most, if any; pca, pca8, int8 or exact8 by name; flat, pca searched by "
        "FAISS; or a FAISS factory string, not certified (screen)",
    )
    build.add_argument("--append", metavar="FILE", help="extend this index, of the first of the samples, by the others")
    build.add_argument(
        "--no-neighbours", action="store_true", help="leave out distances to nearest samples: sooner built"
    )
    build.add_argument("--out", required=True, metavar="FILE", help="where to write the index")
    build.add_argument("--overwrite", action="store_true", help="replace the file --out where it exists")
    refuse_key(build)


def run_index_build(arguments: Namespace) -> None:
    """Build the index of a data set and write it to a file, which exists before only with --overwrite.

    arguments: of `oracle-engine index build`.

    Raises InputError where the file cannot be written, or --append stands beside another choice.
    """
    from ..index_facts import format_facts, index_facts
    from ..shared import load_there, say

    target = _free_target(arguments)
    began = time.perf_counter()
    data = load_there(arguments)
    index = _built(arguments, data)
    index.save(target)
    took = time.perf_counter() - began
    facts = {"file": str(target), "data": repr(data), **index_facts(index, target), "elapsed": took}
    say(arguments, f"{format_facts(facts)}\n{target} written; {took:.1f} s", facts)


def run_index_info(arguments: Namespace) -> None:
    """Print what an index file holds and, given a data set, whether the index is of that data set."""
    from ...search.index import SearchIndex
    from ..index_facts import format_facts, index_facts
    from ..shared import load, say

    source = Path(arguments.file)
    index = SearchIndex.read(source)
    facts: dict[str, Any] = {"file": str(source), **index_facts(index, source)}
    if arguments.data is not None:
        data = load(arguments)
        facts |= {"data": repr(data), "fits": data.fingerprint == index.origin.fingerprint}
    say(arguments, format_facts(facts), facts)


def _free_target(arguments: Namespace) -> Path:
    """Return where the index is written. Raises InputError where a file that is needed would be lost."""
    from ..shared import check_output

    target = Path(arguments.out)
    # an index may be extended in its own file
    same = arguments.append is not None and target.resolve() == Path(arguments.append).resolve()
    held = Namespace(data=arguments.data, append=None if same else arguments.append)
    check_output(held, "--out", target)
    if target.exists() and not arguments.overwrite:
        raise invalid("--out", "must be free", f"{target}, which exists", "name another file, or pass --overwrite")
    return target


def _built(arguments: Namespace, data: OracleDataset) -> SearchIndex:
    """Return the index of the data, built anew or extended from an older one."""
    from ...base.progress import progress_bars
    from ...search.index import SearchIndex, build_index

    with progress_bars() as progress:
        if arguments.append is None:
            return build_index(
                data, arguments.index or "screen", neighbours=not arguments.no_neighbours, progress=progress
            )
        if arguments.index is not None or arguments.no_neighbours:
            remedy = "leave --index and --no-neighbours out: the extended index is like the one it extends"
            raise invalid("--append", "must stand alone", "another choice beside it", remedy)
        return SearchIndex.read(arguments.append).extended(data, arguments.append, progress)
