"""Two commits against each other: `python -m bench.compare OLD NEW --data digits --batch 1,64 --t .1,.9`.

Each commit is checked out into a folder of its own and answers in a process of its own; so does OLD once more. In every
round all three answer the same batch once, in rotated order. How far the two processes of OLD are apart is noise, and a
change is one only where NEW is further from OLD than that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from oracle_engine.cli.commands.bench import listed_of
from oracle_engine.compare.tables import as_text, milliseconds

from .__main__ import say

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = Path("kernels", "native", "lib")

OLD, AGAIN, NEW = "old", "old again", "new"
FASTER, SLOWER, NOISE = "faster", "slower", "within noise"

# how often rounds are drawn again for the band, which holds so much of the medians
DRAWS, HELD = 2000, 0.99

COLUMNS = ["B", "t", "old ms", "new ms", "new / old", "noise", "verdict"]


@dataclass(frozen=True)
class Change:
    """One workload of both commits.

    ratio: median over the rounds of the time of NEW / OLD. band: how far from 1 that ratio gets by noise alone, as a
    factor of at least 1.
    """

    batch: int
    t: float
    old: float
    new: float
    ratio: float
    band: float

    @property
    def verdict(self) -> str:
        """FASTER, SLOWER or NOISE."""
        if 1 / self.band <= self.ratio <= self.band:
            return NOISE
        return FASTER if self.ratio < 1 else SLOWER

    @property
    def cells(self) -> list[str]:
        """The line of a table."""
        times = [milliseconds(1e3 * self.old), milliseconds(1e3 * self.new)]
        return [str(self.batch), f"{self.t:g}", *times, f"{self.ratio:.3f}", f"x {self.band:.3f}", self.verdict]


@dataclass
class Asked:
    """The process of one commit."""

    process: subprocess.Popen[str]

    def seconds(self, work: Mapping[str, Any]) -> float:
        """Return the seconds of one answer to a workload."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(work)}\n")
        self.process.stdin.flush()
        return float(self.said()["seconds"])

    def said(self) -> dict[str, Any]:
        """Return the next line. Ends the program where the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the process of a commit ended with status {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table, and return 1 where NEW is slower by more than noise."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    add = parser.add_argument
    add("old", help="a commit, as git names it")
    add("new", help="another")
    add("--data", default="patches", help="digits, patches, or the path of a file (patches)")
    add("--count", type=int, default=0, metavar="N", help="samples; 0 for all")
    add("--batch", type=listed_of(int), default=[1, 64], metavar="B,...", help="numbers of queries")
    add("--t", type=listed_of(float), default=[0.1, 0.5, 0.9], metavar="T,...", help="times")
    add("--rounds", type=int, default=15, help="in which each side answers once (15)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of all threads, for a busy machine")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folders = [stack.enter_context(checkout(name)) for name in (options.old, options.new)]
        places = dict(zip((OLD, AGAIN, NEW), (folders[0], folders[0], folders[1]), strict=True))
        sides = {name: stack.enter_context(asked(place, options)) for name, place in places.items()}
        backends = {name: side.said()["backend"] for name, side in sides.items()}
        say(f"{options.old}: {backends[OLD]}; {options.new}: {backends[NEW]}")
        works = [{"batch": batch, "t": t, "clock": options.clock} for batch, t in product(options.batch, options.t)]
        changes = [measured(sides, work, options.rounds) for work in works]
    print(as_text(COLUMNS, [change.cells for change in changes]))
    return int(any(change.verdict == SLOWER for change in changes))


def measured(sides: Mapping[str, Any], work: Mapping[str, Any], rounds: int) -> Change:
    """Return the change of one workload after so many rounds in rotated order."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(sides[name].seconds(work))
    return change_of(int(work["batch"]), float(work["t"]), seconds)


def change_of(batch: int, t: float, seconds: Mapping[str, Sequence[float]]) -> Change:
    """Return what the seconds of all sides in all rounds come to."""
    ratios = [new / old for new, old in zip(seconds[NEW], seconds[OLD], strict=True)]
    noise = [math.log(again / old) for again, old in zip(seconds[AGAIN], seconds[OLD], strict=True)]
    return Change(batch, t, median(seconds[OLD]), median(seconds[NEW]), median(ratios), math.exp(band(noise)))


def band(noise: Sequence[float]) -> float:
    """Return how far from 0 medians of these numbers lie, with HELD of all draws of as many of them."""
    draw = random.Random(0)
    medians = sorted(abs(median(draw.choices(noise, k=len(noise)))) for _ in range(DRAWS))
    return medians[min(DRAWS - 1, int(HELD * DRAWS))]


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a folder with the files of a commit and its native kernels, which goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        folder = Path(scratch) / "tree"
        _run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(folder), commit])
        try:
            native(folder)
            yield folder
        finally:
            _run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder)])


def native(folder: Path) -> None:
    """Put the native kernels into a checkout: those of this one where their sources agree, else compiled now."""
    if all(_same(folder, name) for name in ("src", "build.py")) and (ROOT / LIBRARIES).is_dir():
        shutil.copytree(ROOT / LIBRARIES, folder / LIBRARIES, dirs_exist_ok=True)
    elif (folder / "kernels" / "native" / "build.py").is_file():
        say(f"compiling the native kernels of {folder}")
        subprocess.run([sys.executable, str(folder / "kernels" / "native" / "build.py")], check=False)


def _same(folder: Path, name: str) -> bool:
    place = Path("kernels", "native", name)
    command = ["diff", "-qr", "-x", "__pycache__", str(ROOT / place), str(folder / place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def asked(folder: Path, options: argparse.Namespace) -> Iterator[Asked]:
    """Yield the process that answers with the package in `folder`, and end it afterwards."""
    command = [sys.executable, str(ROOT / "bench" / "asked.py"), options.data, str(options.count), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with subprocess.Popen(
        command, env=environment, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Asked(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())


if __name__ == "__main__":
    sys.exit(main())
