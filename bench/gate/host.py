"""What answers ask of the host: `python -m bench.gate.host` counts functions of the package and operations of torch.

The counts are held to those in host.json, which may only become smaller: a busy machine does not change them, as it
does times. They are taken in a fresh process, without the hooks of a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import oracle_engine
from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import native_library
from oracle_engine.kernels.gpu.tools.figures import Number

from .kept import Change, Kept, changes, read, updated

ROOT = Path(__file__).resolve().parents[2]
PATH = Path(__file__).parent / "host.json"
SECTION = "host"

# small enough that the work around a scan is most of it
COUNT, DIM, BATCH, CLASSES = 500, 64, 8, 5

# what is kept becomes only smaller; counts may be larger than it by this share, a little for each change until someone
# looks
ALLOWED = 0.1

# calls before the one that is counted: the first ones fill caches
WARM = 3


def host() -> dict[str, dict[str, Number]]:
    """Return the counts of every question on every backend that serves here, from a fresh process."""
    command = [sys.executable, "-m", "bench.gate.host", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, Number]] = json.loads(done.stdout)
    return found


def counts() -> dict[str, dict[str, Number]]:
    """Return the same, counted in this process."""
    backends = ["torch", *(["native"] if native_library().library is not None else [])]
    return {
        f"{name} {backend}": counted(ask) for backend in backends for name, ask in questions(_engine(backend)).items()
    }


def questions(engine: OracleEngine) -> Mapping[str, Callable[[], Any]]:
    """Return what an engine is asked, by a name for each."""
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(BATCH, DIM, generator=generator), torch.linspace(0.1, 0.9, BATCH)
    labels = torch.arange(BATCH) % CLASSES
    return {
        "velocity": lambda: engine.velocity(x, t),
        "one query": lambda: engine.velocity(x[:1], 0.5),
        "log density": lambda: engine.log_density(x, t),
        "posterior": lambda: engine.posterior(x, t, top_k=4),
        "classes": lambda: engine.velocity(x, t, labels=labels),
    }


def counted(ask: Callable[[], Any]) -> dict[str, Number]:
    """Return how many functions of the package and operations of torch a question takes, once caches are full."""
    for _ in range(WARM):
        ask()
    functions = 0
    own = str(Path(oracle_engine.__file__).parent), str(ROOT / "kernels")

    def count(frame: FrameType, event: str, argument: object) -> None:
        """Count the calls of functions of the package."""
        nonlocal functions
        # a comprehension is a function to some versions of Python only
        code = frame.f_code
        functions += event == "call" and code.co_filename.startswith(own) and not code.co_name.startswith("<")

    sys.setprofile(count)
    try:
        ask()
    finally:
        sys.setprofile(None)
    with Operations() as operations:
        ask()
    return {"python_calls": float(functions), "operations": float(operations.count)}


class Operations(TorchDispatchMode):
    """Counts the operations of torch inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation, and count it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def _engine(backend: str) -> OracleEngine:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(COUNT, DIM, generator=generator)
    return OracleEngine(OracleDataset(points, torch.arange(COUNT) % CLASSES), backend=backend)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print what is not as it is kept, and return 1 where something is worse, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate.host", description=__doc__)
    parser.add_argument("--json", action="store_true", help="only print the counts, those of this process")
    parser.add_argument("--write", action="store_true", help=f"keep what is new or smaller in {PATH.name}")
    parser.add_argument("--accept", metavar="REASON", help="keep what is larger too, and the reason beside it")
    options = parser.parse_args(arguments)
    if options.json:
        print(json.dumps(counts()))
        return 0
    kept, found = read(PATH), host()
    told = changes(kept.sections.get(SECTION, {}), found)
    print("\n".join(map(str, told)) or "as it is kept")
    if options.write or options.accept:
        section = updated(kept.sections.get(SECTION, {}), found, whole=False, worse_too=bool(options.accept))
        reasons = {str(change): options.accept for change in told if change.worse and options.accept}
        Kept(kept.compiler, {SECTION: section}, {**kept.accepted, **reasons}).write(PATH)
    return int(bool(larger(told)) and not options.accept)


def larger(told: Sequence[Change]) -> list[str]:
    """Return the counts that are larger than what is kept by more than ALLOWED, or gone, in words."""
    return [
        str(change)
        for change in told
        if change.worse and (change.was is None or change.now is None or change.now > (1 + ALLOWED) * change.was)
    ]


if __name__ == "__main__":
    sys.exit(main())
