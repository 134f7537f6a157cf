"""`oracle-engine stages`: the two stages of a data set as a table, stages.json and stages.png."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path

from ..base.files import replacing
from ..base.progress import progress_bar
from ..engine.engine import OracleEngine
from ..science.stage_plots import require_matplotlib, stages_figure
from ..science.stages import analyse
from .shared import device_named, load, say


def run_stages(arguments: Namespace) -> None:
    """Analyse the two stages; print the table, write stages.json and stages.png."""
    if not arguments.no_figure:
        # now, not after the analysis
        require_matplotlib()
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with progress_bar(f"stages of {arguments.data}") as progress:
        engine = OracleEngine(load(arguments), arguments.path, device=device_named(arguments.device))
        report = analyse(engine, arguments.times, arguments.queries, arguments.seed, progress)
    files = [folder / "stages.json"]
    with replacing(files[0]) as partial:
        partial.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    if not arguments.no_figure:
        files.append(folder / "stages.png")
        stages_figure(report, files[1])
    names = [str(file) for file in files]
    took = f"{' and '.join(names)} written; {time.perf_counter() - began:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": names})
