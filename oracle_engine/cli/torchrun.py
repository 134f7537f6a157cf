"""A command on processes that torchrun started: they hold the data together, and the first of them reports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import invalid

if TYPE_CHECKING:
    from ..data.dataset import OracleDataset
    from ..engine.engine import OracleEngine

# commands whose data may be shared by processes, and those that every process runs by itself
TOGETHER = ("stages", "velocity", "sample")
APART = ("job",)

# whether the command that runs does so together with other processes
_runs_together: ContextVar[bool] = ContextVar("runs together", default=False)


def together() -> bool:
    """Return whether this process runs a command together with others."""
    return _runs_together.get()


def reports() -> bool:
    """Return whether this process prints results and writes files: the first of several, or the only one."""
    return not together() or os.environ.get("RANK") == "0"


@contextmanager
def one_of_many(command: str) -> Iterator[None]:
    """Run `command`, by its name, in the process group of torchrun, where this process is one of several.

    All but the first process print nothing inside. Raises InputError for a command that one process runs.
    """
    several = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    alone = not several or command in APART
    _runs_together.set(not alone)
    if alone:
        yield
        return
    if command not in TOGETHER:
        remedy = f"run {command} without torchrun"
        raise invalid("torchrun", f"must run one of {', '.join(TOGETHER + APART)}", command, remedy)
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    if reports():
        yield
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    # after an error the others may be gone, and the end of the process is the end of its group
    dist.destroy_process_group()
    _runs_together.set(False)


def engine_of_process(data: OracleDataset, path: str, **options: Any) -> OracleEngine:
    """Return the engine over `data` along `path`, with these `options`: over the part of this process of several."""
    from ..engine.engine import OracleEngine
    from ..engine.sharded import sharded

    return sharded(data, path, **options) if together() else OracleEngine(data, path, **options)
