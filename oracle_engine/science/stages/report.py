"""The report of the two-stage analysis, as JSON, as a table and as figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import bad_file, invalid
from ..transition import Predictor
from .points import QUANTILES, StagePoint, TransitionTimes
from .strip import Strip
from .table import stage_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLAIN = ("data", "path", "scope", "population", "held_out", "queries", "seed", "device", "versions", "elapsed")

# what tables and figures name of the data
DESCRIBED = {"name", "samples", "dim", "sample_shape", "storage", "values", "value_range", "note"}


@dataclass(frozen=True)
class StageReport:
    """The result of `analyse`: one point for each time, the transition, and what it was computed from.

    data: name, description, samples (N), dim (D), sample_shape, storage, values (their map, range and variance in
    words), value_map, value_range, variance_per_dim, note and fingerprint of the data set.
    path: its repr. scope: in words, which samples a posterior is over. population: how many at most.
    held_out: whether the queries are of samples that are not among the data.
    queries: number of queries at each time. seed: of these queries. device: of the data.
    versions: of this package, torch and Python. elapsed: seconds of the analysis.
    points: one for each time, in increasing order. measured, errors: times of the transition and their standard
    errors, by the bootstrap over the queries. predicted: from the data set alone.
    neighbour_ratio: median distance of a sample to its nearest other one, relative to that of independent draws, or
    None. strip: a few queries followed along t, None in a report read from JSON; it takes no part in comparisons.
    """

    data: dict[str, Any]
    path: str
    scope: str
    population: int
    held_out: bool
    queries: int
    seed: int
    device: str
    versions: dict[str, str]
    elapsed: float
    points: tuple[StagePoint, ...]
    measured: TransitionTimes
    errors: TransitionTimes
    predicted: Predictor
    neighbour_ratio: float | None
    strip: Strip | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the strip's tensors as plain values that json can write."""
        transition = {name: asdict(getattr(self, name)) for name in ("measured", "errors", "predicted")}
        strip = None if self.strip is None else {"times": list(self.strip.times), "sources": list(self.strip.sources)}
        return {name: getattr(self, name) for name in _PLAIN} | {
            "quantiles": list(QUANTILES),
            "points": [asdict(point) for point in self.points],
            "transition": transition,
            "neighbour_ratio": self.neighbour_ratio,
            "strip": strip,
        }

    @classmethod
    def from_json(cls, source: Mapping[str, Any] | str | Path) -> StageReport:
        """Return the report that :meth:`to_json` described, without the pictures of its strip.

        source: what `to_json` returned, or the path of a file that holds it, such as stages.json.
        Raises DataFileError where a file holds something else, InputError where a mapping does, FileNotFoundError where
        there is no file.
        """
        if isinstance(source, Mapping):
            try:
                return _from_facts(cls, source)
            except (KeyError, TypeError, AttributeError) as error:
                requirement = "must be what StageReport.to_json returns"
                raise invalid("source", requirement, _why(error), "pass report.to_json()") from error
        path, remedy = Path(source), "write it with `oracle-engine stages`"
        try:
            return _from_facts(cls, json.loads(path.read_text("utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise bad_file(path, "a report of `oracle-engine stages`", _why(error), remedy) from error

    def __str__(self) -> str:
        return self.format_table()

    def format_table(self) -> str:
        """Return the points, their checks and the transition as aligned text."""
        return stage_table(self)

    def figure(self, layout: str = "poster", *, linear: bool = False) -> Figure:
        """Return the matplotlib figure of the report, for a notebook or to be saved.

        layout: "poster", every statistic above pictures of a few queries; "paper", top-1 weight, ESS and V(t) side by
        side over two columns of a page. linear: draw t on a linear axis up to a little after the transition, as the
        published figures do, in place of a logit axis.
        Raises InputError for another layout, MissingDependencyError where matplotlib is not installed.
        """
        from .figures import report_figure

        return report_figure(self, layout, linear=linear)

    def _repr_png_(self) -> bytes | None:
        """Return the figure for a notebook, or None where matplotlib is not installed."""
        from .figures import notebook_png

        return notebook_png(self)

    def _repr_html_(self) -> str:
        """Return figure and table for a notebook."""
        from .figures import notebook_html

        return notebook_html(self)


def _from_facts(cls: type[StageReport], facts: Mapping[str, Any]) -> StageReport:
    """Return the report that to_json wrote. Raises KeyError where a field is missing."""
    plain = {name: facts[name] for name in _PLAIN}
    if not plain["data"].keys() >= DESCRIBED:
        raise KeyError(min(DESCRIBED - plain["data"].keys()))
    found, names = facts["transition"], {part.name for part in fields(StagePoint)}
    points = []
    for point in facts["points"]:
        held: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in point.items()}
        points.append(StagePoint(**{name: _number(held[name]) for name in names}))
    if not points:
        raise KeyError("points")
    return cls(
        **plain,
        points=tuple(points),
        measured=TransitionTimes(**found["measured"]),
        errors=TransitionTimes(**found["errors"]),
        predicted=Predictor(**found["predicted"]),
        neighbour_ratio=facts["neighbour_ratio"],
    )


def _number(value: Any) -> Any:
    """Return a number, numbers or None. Raises TypeError for anything else."""
    parts = value if isinstance(value, tuple) else (value,)
    if not all(part is None or (isinstance(part, (int, float)) and not isinstance(part, bool)) for part in parts):
        raise TypeError(f"one with {value!r} in place of a number")
    return value


def _why(error: Exception) -> str:
    return f"one that lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
