"""What an engine can say before any query about the routes it will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Bool, Float64, Int64, Tensor
from ...data.dataset import OracleDataset
from ...kernels.screens import BOUND_FAILURE, TRIAL_MASS, Knowledge, Source, default_widths, source_log_omitted
from ...paths.paths import Coefficients, Path, coefficients
from ...paths.predictions import marginal_variance
from ...queries.answer import Route
from ...queries.modes import Auto, Budget, FullScan, Mode, TopK
from ...search.index import SearchIndex


@dataclass(frozen=True)
class Level:
    """From which t a search tries its level of `width` coordinates; None for never.

    unknown: for any query; source: where the sample it was made from is known; trajectory: along a deterministic run.
    """

    width: int
    unknown: float | None
    source: float | None
    trajectory: float | None

    def __str__(self) -> str:
        times = [("", self.unknown), (" with source", self.source), (" on a trajectory", self.trajectory)]
        words = [f"{'never' if t is None else f't >= {t:.3g}'}{what}" for what, t in times]
        return f"{self.width:,} coordinates: {', '.join(words)}"


@dataclass(frozen=True)
class RouteForecast:
    """Which routes an engine can take.

    routes: by the names of `Route`, in the order they are tried. words: what follows from that.
    levels: of the screen, where there is one. costs: what a search and a scan cost where the screen was prepared, in
        words, or "". untouched: the t from which on half of the training queries that know
        their source need no data at all, or None.
    """

    routes: tuple[str, ...]
    words: str
    levels: tuple[Level, ...] = ()
    untouched: float | None = None
    costs: str = ""

    def __str__(self) -> str:
        known = [] if self.untouched is None else [f"half of the known sources need no data: t >= {self.untouched:.3g}"]
        costs = [f"measured: {self.costs}"] if self.costs else []
        return "\n".join([self.words, *(f"{'':<10}{line}" for line in [*map(str, self.levels), *costs, *known])])


# times of the grid
STEPS = 1000

HOW = "engine.prepare(), or `oracle-engine index build` and --index"


def forecast(
    mode: Mode, index: SearchIndex | None, data: OracleDataset, *, path: Path, point_std: float
) -> RouteForecast:
    """Return the routes that queries over `data` can take, and from when on a search is tried; reads no data.

    mode: of the engine. index: what it searches with, or None. path, point_std: what times mean.
    """
    if isinstance(mode, FullScan):
        return _only_exact("mode 'exact' scans every sample")
    if index is None:
        return _without_index(mode, data)
    if index.kind == "none" and index.screened and not isinstance(mode, Auto):
        return RouteForecast(
            (), f"this mode answers nothing without a screen, and none pays here ({index.reason}): prepare('pca')"
        )
    if isinstance(mode, TopK):
        return RouteForecast((index.route.label,), f"mode 'top_k' scores {mode.count:,} samples at every t")
    if isinstance(mode, Budget):
        return RouteForecast((Route.SAMPLED.label,), f"mode 'budget' estimates from {mode.rows:,} samples at every t")
    if index.screen is None and not index.screened:
        return _only_exact(f"{index.spec} cannot certify its answers: mode 'auto' leaves it alone, 'top_k' uses it")
    known = () if index.distances is None else (Route.SOURCE.label,)
    untouched = _untouched(index, data, path, point_std)
    if index.screen is None:
        return RouteForecast((*known, Route.EXACT.label), f"no screen pays: {index.reason}", untouched=untouched)
    routes = (*known, index.route.label, Route.EXACT.label)
    if index.route is Route.FAISS:
        return RouteForecast(
            routes, "FAISS is asked at every t, exact where its answer is not proved", untouched=untouched
        )
    words = f"the {index.kind} screen is tried from these t on, exact where its answer is not proved ({index.reason})"
    levels = screen_levels(index, path, point_std)
    return RouteForecast(routes, words, levels, untouched, str(index.screen.costs))


def screen_levels(index: SearchIndex, path: Path, point_std: float = 0.0) -> tuple[Level, ...]:
    """Return from which times of `path` each level of the screen of `index` is tried; none without a screen.

    point_std: width of every sample in value space.
    """
    if index.screen is None:
        return ()
    thresholds = index.screen.thresholds
    known = [_first_times(thresholds[kind], index.origin.scale, path, point_std) for kind in Knowledge]
    return tuple(map(Level, index.screen.widths, *known))


def _only_exact(words: str) -> RouteForecast:
    return RouteForecast((Route.EXACT.label,), words)


def _without_index(mode: Mode, data: OracleDataset) -> RouteForecast:
    """Return the forecast of an engine without an index."""
    if not isinstance(mode, Auto):
        return RouteForecast((), f"this mode answers nothing without an index: call {HOW}")
    if default_widths(data.rows):
        return _only_exact(f"no index; late in t one would pay: {HOW}")
    return _only_exact(f"no index; none would pay for {len(data):,} samples of {data.dim:,} values")


def _first_times(thresholds: Sequence[float], scale: float, path: Path, point_std: float) -> list[float | None]:
    times, at, precision = _grid(scale, path, point_std, torch.device("cpu"))
    ratio = at.alpha_t.square() * precision
    return [_first(times, ratio >= least) for least in thresholds]


def _untouched(index: SearchIndex, data: OracleDataset, path: Path, point_std: float) -> float | None:
    """Return the time from which on half of the queries are answered from their source alone, or None."""
    if index.distances is None:
        return None
    times, at, precision = _grid(index.origin.scale, path, point_std, data.device)
    row = index.distances.sort().indices[len(data) // 2]
    source = Source(row.expand(len(times)), torch.zeros_like(times), BOUND_FAILURE)
    omitted = source_log_omitted(data.rows, at.alpha_t, precision, source, index.distances)
    return _first(times, omitted <= math.log(TRIAL_MASS))


def _grid(
    scale: float, path: Path, point_std: float, device: torch.device
) -> tuple[Float64[Tensor, "T"], Coefficients, Float64[Tensor, "T"]]:
    """Return the times of a forecast, the path at them, and the inverse variance in row units."""
    times = torch.linspace(0.0, 1.0, STEPS + 1, dtype=torch.float64, device=device)
    at = coefficients(path, times)
    return times, at, scale**2 / marginal_variance(at, point_std).clamp_min(1e-300)


def _first(times: Float64[Tensor, "T"], holds: Bool[Tensor, "T"]) -> float | None:
    place: Int64[Tensor, "n"] = holds.nonzero()[:, 0]
    return round(float(times[place[0]]), 3) if len(place) else None
