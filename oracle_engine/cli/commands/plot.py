"""`oracle-engine plot`: the reports of `stages` in one figure, to compare data sets or latent spaces."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import invalid
from ..options import Commands, add_command

# curves that colours, dashes and marks tell apart
MOST = 6


def add_plot(commands: Commands) -> None:
    """Add the command to `commands`."""
    parser = add_command(commands, "plot", "compare reports of `stages` in one figure", run_plot)
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="stages.json of each data set")
    parser.add_argument("--out", default="comparison.png", metavar="FILE", help=".png, .pdf or .svg (comparison.png)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the curves, instead of the names of the data")
    parser.add_argument("--linear", action="store_true", help="t on a linear axis, as published, instead of logit(t)")


def run_plot(arguments: Namespace) -> None:
    """Draw the reports into one figure, and print the transition of each."""
    from ...base.files import check_writable
    from ...science.plot_style import require_matplotlib, save_figure
    from ...science.stages.curve_plots import curves_figure
    from ...science.stages.report import StageReport
    from ..shared import check_figure, say

    out = Path(arguments.out)
    require_matplotlib()
    check_figure("--out", out, "name comparison.png")
    _check(arguments, out)
    check_writable(out, "--out")
    reports = [StageReport.from_json(Path(name)) for name in arguments.reports]
    names = arguments.names or [report.data["name"] for report in reports]
    save_figure(curves_figure(reports, linear=arguments.linear, names=names), out)
    rows = [
        {"name": name, "median ESS = 2": report.measured.ess_2, "error": report.errors.ess_2}
        | {"predicted": report.predicted.anisotropic}
        for name, report in zip(names, reports, strict=True)
    ]
    text = "\n".join([*_table(rows), "", f"{out} written"])
    say(arguments, text, {"reports": rows, "files": [str(out)]})


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of the transitions."""
    yield f"{'':<24}{'median ESS = 2':>18}{'predicted':>11}"
    for row in rows:
        found, error, predicted = row["median ESS = 2"], row["error"], row["predicted"]
        told = "none" if found is None else f"{found:.3f}" + ("" if error is None else f" +- {error:.3f}")
        yield f"{row['name']!s:<24}{told:>18}{'none' if predicted is None else f'{predicted:.3f}':>11}"


def _check(arguments: Namespace, out: Path) -> None:
    """Raise InputError for too many reports, names that do not fit them, and a figure that would replace one."""
    if len(arguments.reports) > MOST:
        raise invalid("REPORT", f"must be at most {MOST} reports", len(arguments.reports), "compare fewer at once")
    if arguments.names is not None and len(arguments.names) != len(arguments.reports):
        found = f"{len(arguments.names)} names of {len(arguments.reports)} reports"
        raise invalid("--names", "must name every report", found, "give one name each")
    if any(out.resolve() == Path(name).resolve() for name in arguments.reports):
        raise invalid("--out", "must be another file than REPORT", out, "name another file")
