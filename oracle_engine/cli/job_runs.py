"""What `oracle-engine job` does: it opens what a job needs, sets workers to work, and writes the file of answers."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from ..base.errors import invalid
from ..base.files import hash_tensors
from ..base.machine.clusters import require_ray
from ..base.machine.settings import __version__
from ..base.names import BUILTIN_NAMES
from ..base.progress import progress_bar
from ..engine.engine import OracleEngine
from ..jobs.folder import WHOLE_JOB, JobFolder, check_free, read_spec
from ..jobs.processes import on_processes
from ..jobs.ray_tasks import on_ray
from ..jobs.spec import Spec, shard_count
from ..jobs.status import Status
from ..jobs.units import Units
from ..jobs.work import Worker
from ..queries.labels import resolve_labels
from ..queries.stored import Queries
from .query_answers import check_finite, check_query_times, queries_of
from .query_files import result_file
from .shared import load, placed, say

# what the parts of a job come from, where that is not the option of their name
OPTION_OF = {
    "x": "IN",
    "t": "the times of IN, or --t,",
    "labels": "the labels of IN",
    "t_max": "--t-max",
    "backend": "ORACLE_BACKEND",
    "version": "oracle-engine",
    "shape": "IN",
    "dtype": "IN",
}

# seconds between two moves of the progress bar
BAR_PERIOD = 0.2
# shards of a job at most
MOST_SHARDS = 4096


def run(arguments: Namespace) -> None:
    """Begin the job that `arguments` describe, or go on with it; finish it, and say so.

    Raises InputError that names the option where one cannot be used, or is another than the job was begun with.
    """
    began = time.perf_counter()
    _check(arguments)
    with _threads(_threads_of(arguments)):
        folder, units = _opened(arguments)
        with progress_bar(f"units of {arguments.what}") as progress:
            while not folder.result.exists():
                _work(arguments, folder, units, progress)
                _write_result(folder)
    if os.environ.get("RANK", "0") == "0":
        _say_done(arguments, folder, time.perf_counter() - began)


def status(arguments: Namespace) -> None:
    """Print how far the job in the folder OUT.d is. Raises InputError where there is none."""
    found = Status.of(JobFolder.open(Path(arguments.job)))
    say(arguments, f"{arguments.job}: {found}", {"job": arguments.job} | found.facts())


def finish(arguments: Namespace) -> None:
    """Write the file of all answers. Raises InputError where some are missing, or there is no job."""
    folder = JobFolder.open(Path(arguments.job))
    if not _write_result(folder):
        found = f"{len(folder.pending()):,} of {folder.spec.blocks:,} blocks without one"
        raise invalid("folder", "must hold all answers", found, "run the same `oracle-engine job` again")
    _say_done(arguments, folder, None)


def run_worker(arguments: Namespace, number: int, goes_on: Callable[[], bool]) -> None:
    """Do units of a job that was begun, as one of --workers processes.

    arguments: of `oracle-engine job`. number: of the process. goes_on: asked before each unit. Raises InputError where
    another machine, of Ray, has other files under the same names; on this one they were compared just now.
    """
    folder = JobFolder.open(Path(arguments.job))
    torch.set_num_threads(folder.spec.threads)
    engine = _engine(arguments)
    queries = _resolved(queries_of(arguments), engine)
    if arguments.engine == "ray":
        _check_same(folder.spec, _spec(arguments, engine, queries))
    units = Units(engine, queries, folder.spec)
    first = number * folder.spec.shards // arguments.workers
    Worker(folder, units, first=first, goes_on=goes_on).work()


def _check(arguments: Namespace) -> None:
    """Complete the arguments. Raises InputError for those that do not go together."""
    arguments.engine = arguments.engine or ("torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "local")
    if arguments.engine == "torchrun":
        if "RANK" not in os.environ:
            remedy = "run `torchrun --nproc-per-node 8 -m oracle_engine job ...`, or leave --engine out"
            raise invalid("--engine", "can be torchrun for processes that it started", "none", remedy)
        if arguments.workers is not None:
            raise invalid("--workers", "is the number of ranks under torchrun", arguments.workers, "leave it out")
    if arguments.engine == "ray":
        require_ray("--engine ray")
    arguments.workers = 1 if arguments.workers is None else arguments.workers
    for name, most in (("workers", 1 << 16), ("shards", MOST_SHARDS), ("batch", 1 << 30), ("threads", 1 << 16)):
        number = getattr(arguments, name)
        if number is not None and not 1 <= number <= most:
            raise invalid(f"--{name}", f"must lie in 1..{most:,}", number, "leave it out")
    if arguments.guidance is not None and arguments.what == "log_density":
        raise invalid("--guidance", "has no meaning for --what log_density", arguments.guidance, "leave it out")
    check_free(Path(arguments.job))


def _threads_of(arguments: Namespace) -> int:
    """Return the threads of a worker: those of the job where it is begun, since answers depend on them."""
    path = Path(arguments.job)
    if arguments.threads is None and (path / "job.json").is_file():
        return read_spec(path).threads
    return int(arguments.threads or max(1, torch.get_num_threads() // arguments.workers))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _opened(arguments: Namespace) -> tuple[JobFolder, Units]:
    """Return the folder of the job, begun where it is not yet, and its units."""
    stored = queries_of(arguments)
    if len(stored.x) == 0:
        raise invalid("IN", "must hold queries", "none", "name another file")
    engine = _engine(arguments)
    check_query_times(engine, stored.t)
    queries = _resolved(stored, engine)
    spec = _spec(arguments, engine, queries)
    path = Path(arguments.job)
    if not (path / "job.json").is_file():
        # a block that cannot be asked is refused before anything is written
        done = 0
        for block in queries.blocks(arguments.batch):
            check_finite(arguments.input, block, done)
            done += len(block.x)
        Units(engine, queries, spec).check()
    folder = JobFolder.begin(path, spec)
    _check_same(folder.spec, spec)
    return folder, Units(engine, queries, spec)


def _check_same(begun: Spec, wished: Spec) -> None:
    """Raise InputError, which names the option, where a job was begun as another one."""
    name = begun.difference(wished)
    if name is not None:
        option = OPTION_OF.get(name, f"--{name}")
        requirement = f"must be as the job was begun, {getattr(begun, name)}"
        remedy = "pass what it was begun with, or name another folder"
        raise invalid(option, requirement, getattr(wished, name), remedy)


def _engine(arguments: Namespace) -> OracleEngine:
    if arguments.device == "cuda" and arguments.engine == "torchrun":
        arguments.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = placed(arguments)
    return OracleEngine(load(arguments), arguments.path, mode="exact", t_max=arguments.t_max, **place)


def _resolved(queries: Queries, engine: OracleEngine) -> Queries:
    """Return queries whose labels are classes, read once for all blocks."""
    labels = resolve_labels(queries.labels, len(queries.x), engine.data.segments, torch.device("cpu"))
    return Queries(queries.x, queries.t, labels)


def _spec(arguments: Namespace, engine: OracleEngine, queries: Queries) -> Spec:
    """Return the spec of the job that the arguments describe."""
    alone = arguments.what == "log_density"
    dtype = torch.float64 if alone else queries.x.dtype
    return Spec(
        what=arguments.what,
        data=engine.data.fingerprint,
        x=hash_tensors("", [queries.x]),
        t=hash_tensors("", [queries.t]),
        labels=hash_tensors("", [queries.labels]),
        path=arguments.path,
        t_max=arguments.t_max,
        guidance=arguments.guidance,
        backend=engine.backend,
        device=engine.data.device.type,
        batch=arguments.batch,
        shards=arguments.shards or shard_count(len(engine.data)),
        threads=torch.get_num_threads(),
        version=__version__,
        shape=list(queries.x.shape[:1] if alone else queries.x.shape),
        dtype=str(dtype).removeprefix("torch."),
        suffix=Path(arguments.input).suffix,
        source=str(arguments.input),
    )


def _work(arguments: Namespace, folder: JobFolder, units: Units, progress: Callable[[int, int], None]) -> None:
    """Do what is left of the units, in this process or in others."""

    total = folder.spec.blocks * folder.spec.shards

    def done() -> int:
        """Return how many units are done, and show it."""
        found = folder.units_done()
        progress(found, total)
        return found

    if arguments.engine == "ray":
        cards = int(folder.spec.device == "cuda")
        task = partial(run_worker, anywhere(arguments))
        on_ray(arguments.workers, task, done, threads=folder.spec.threads, cards=cards)
    elif arguments.workers > 1:
        on_processes(arguments.workers, partial(run_worker, arguments), done)
    else:
        _work_here(folder, units, done)


def _work_here(folder: JobFolder, units: Units, done: Callable[[], int]) -> None:
    rank, size = (int(os.environ.get(name, given)) for name, given in (("RANK", "0"), ("WORLD_SIZE", "1")))
    Worker(folder, units, first=rank * folder.spec.shards // size, progress=_seldom(done)).work()


def anywhere(arguments: Namespace) -> Namespace:
    """Return arguments whose files are named as they are from any folder."""
    found = Namespace(**vars(arguments))
    for name in ("input", "job", "data", "folder", "labels_file"):
        given = getattr(found, name)
        if given is not None and given not in BUILTIN_NAMES:
            setattr(found, name, str(Path(given).expanduser().resolve()))
    return found


def _seldom(call: Callable[[], object]) -> Callable[[], None]:
    """Return what calls `call` once in BAR_PERIOD at most: it looks into folders."""
    last = [0.0]

    def calls() -> None:
        """Call, unless the last call is not long ago."""
        if time.monotonic() - last[0] > BAR_PERIOD:
            call()
            last[0] = time.monotonic()

    return calls


def _write_result(folder: JobFolder) -> bool:
    """Write the file of all answers where it is not there yet, and return whether it is there then."""
    spec = folder.spec
    with folder.claims.hold(WHOLE_JOB, wait=True):
        if not folder.result.exists():
            if folder.pending():
                return False
            try:
                with result_file(folder.result, spec.what, spec.shape, spec.torch_dtype) as write:
                    for block in range(spec.blocks):
                        answer = folder.answer(block)
                        if answer is None:
                            raise _Damaged
                        write(answer)
            except _Damaged:
                return False
        folder.clear()
    return True


class _Damaged(Exception):
    """An answer is not there, or is damaged, and has to be found again."""


def _say_done(arguments: Namespace, folder: JobFolder, seconds: float | None) -> None:
    spec = folder.spec
    facts = {"out": str(folder.result), "what": spec.what, "shape": spec.shape, "dtype": spec.dtype}
    took = "" if seconds is None else f"; {seconds:.1f} s"
    say(arguments, f"{folder.result}: {spec.what} of {spec.shape[0]:,} queries{took}", facts | {"elapsed": seconds})
