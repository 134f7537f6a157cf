"""The speed passages of README.md and docs/, from results: `python -m bench.readme`, with `--check` to change nothing.

A passage lies between two comments, of which the first names its kind and its file in bench/results:

    <!-- bench.readme speed amd-epyc-avx2-2-threads.json -->
    <!-- end of bench.readme -->
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oracle_engine.base.errors import invalid

from .__main__ import RESULTS
from .gpu_passage import gpu_passage, gpu_summary
from .late.passages import late_passage, range_passage
from .passages import brief_passage, speed_passage
from .record import read_json

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "reference" / "benchmarks.md")

PASSAGES: Mapping[str, Callable[[Mapping[str, Any], Path], str]] = {
    "speed": speed_passage,
    "speed-brief": brief_passage,
    "gpu": gpu_passage,
    "gpu-summary": gpu_summary,
    "late": late_passage,
    "late-range": range_passage,
}

BEGIN = re.compile(r"^<!-- bench\.readme (\S+) (\S+) -->\n(.*?)^<!-- end of bench\.readme -->$", re.M | re.S)


def renewed(text: str, folder: Path = RESULTS) -> str:
    """Return a document with its passages made anew from the results in `folder`.

    Raises InputError for a passage that is none of PASSAGES, or a file that is not there.
    """
    return BEGIN.sub(lambda found: _passage(found, folder), text)


def _passage(found: re.Match[str], folder: Path) -> str:
    kind, name = found[1], found[2]
    if kind not in PASSAGES:
        raise invalid("passage", f"must be one of {', '.join(PASSAGES)}", kind, "correct the comment in the document")
    if not (folder / name).is_file():
        raise invalid("results", f"must be a file in {folder}", name, "measure it, or correct the comment")
    passage = PASSAGES[kind](read_json(folder / name), folder / name)
    return f"<!-- bench.readme {kind} {name} -->\n\n{passage}\n\n<!-- end of bench.readme -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents anew, or with --check return 1 where one of them and the results disagree."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether they are as the results are")
    parser.add_argument("--document", type=Path, action="append", help="default: README.md and the page of benchmarks")
    options = parser.parse_args(arguments)
    status = 0
    for document in options.document or DOCUMENTS:
        before = document.read_text("utf-8")
        after = renewed(before)
        if options.check:
            status |= before != after
        else:
            document.write_text(after, "utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
