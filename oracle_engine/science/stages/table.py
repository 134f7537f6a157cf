"""The report of the two-stage analysis as aligned text: points, checks, and the transition by every definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .points import DEFINITIONS, StagePoint

if TYPE_CHECKING:
    from .report import StageReport

# a prediction is called off where it differs by more than this part, and by more than three standard errors
OFF = 0.05
# nearest samples below this part of the distance of independent draws are near copies of one another
NEAR = 0.6

# later, nearly all queries have settled, and the few others make no standard error
SETTLED = 0.97
# standard errors above which an identity is doubted
DOUBTFUL = 4.0

HEAD = (
    f"{'':<26}{'ESS, quantiles':^27}{'median':>8}{'cos(u, v)':>14}{'E|u-v|^2 / D':>22}{'own is':>11}{'class':>7}",
    f"{'t':<8}{'top-1':<6}{'+-':^6}{'margin'}{'5 %':>9}{'50 %':>9}{'95 %':>9}{'entropy':>8}{'mean':>7}{'> .9':>6}"
    f"{'V(t)':>9}{'+-':>7}{'pairs':>9}{'first':>9}{'mass':>7}",
)


def stage_table(report: StageReport) -> str:
    """Return the report as text."""
    data = report.data
    kind = "held-out" if report.held_out else "training"
    shape = " x ".join(map(str, data["sample_shape"])) or "scalar"
    origin = f", from {data['origin']}" if data.get("origin") else ""
    lines = [
        f"{data['name']}: N = {data['samples']:,} samples, D = {data['dim']:,} ({shape}, {data['storage']}){origin}",
        data["values"],
        *([f"note: {data['note']}"] if data["note"] else []),
        f"{report.path}, {report.queries} {kind} queries, seed {report.seed}; {report.scope}",
        "",
        *HEAD,
        *(_row(point) for point in report.points),
        "",
        *check_lines(report),
        "",
        *transition_lines(report),
    ]
    return "\n".join(lines)


def check_lines(report: StageReport) -> list[str]:
    """Return what the identities of training queries say about the statistics; empty for held-out queries."""
    if report.held_out:
        return ["held-out queries: E|u-v|^2/D of the pairs exceeds V(t), since u leads to a sample the oracle lacks"]
    changing = [point for point in report.points if point.top_weight < SETTLED]
    nishimori = [_ratio(point.nishimori, point.nishimori_error) for point in changing]
    both = [_ratio(point.velocity_gap - point.velocity_variance, _hypot(point)) for point in changing]
    return [
        f"check: mean own weight = mean sum of squared weights (Nishimori) within {_worst(nishimori)}",
        f"check: V(t) from moments = from pairs within {_worst(both)}",
    ]


def transition_lines(report: StageReport) -> list[str]:
    """Return the transition by every definition, the predictions, and why they may be off."""
    rows: list[str] = []
    for name, words in DEFINITIONS.items():
        error = getattr(report.errors, name)
        note = "" if error is None else f"+- {error:.3f}"
        rows.append(_time("" if rows else "measured", words, getattr(report.measured, name), note))
    predicted = report.predicted
    spectrum = f"spectrum of {predicted.spectrum_samples:,} samples"
    rows.append(_time("predicted", "anisotropic", predicted.anisotropic, spectrum))
    rows.append(_time("", "isotropic", predicted.isotropic, "N, D and the variance per dimension"))
    return [*rows, *why_off(report)]


def why_off(report: StageReport) -> list[str]:
    """Return a line that says why the prediction differs from the measured transition, where it does."""
    measured, predicted, error = report.measured.ess_2, report.predicted.anisotropic, report.errors.ess_2 or 0.0
    if measured is None or predicted is None or abs(measured - predicted) <= max(OFF * measured, 3.0 * error):
        return []
    side = "early" if predicted < measured else "late"
    gap = f"the prediction is {abs(measured - predicted):.3f} {side}: it takes samples for independent Gaussian draws,"
    ratio = report.neighbour_ratio
    if predicted < measured and ratio is not None and ratio < NEAR:
        return [
            f"{gap} but the nearest other sample is at",
            f"{ratio:.2f} of their distance (median): samples that overlap, repeat or vary little stay alike longer",
        ]
    return [f"{gap} which these are not"]


def _time(head: str, words: str, t: float | None, note: str) -> str:
    told = "none in the grid" if t is None else f"t = {t:.3f}"
    return f"{head:<10} {words:<34} {told:<10} {note}".rstrip()


def _row(point: StagePoint) -> str:
    """Return the line of the table about one time."""
    ess = "".join(f"{point.ess_quantiles[place]:>9,.1f}" for place in (0, 2, 4))
    own = "" if point.own_share is None else f"{100 * point.own_share:.1f} %"
    mass = "" if point.class_mass is None else f"{point.class_mass:.3f}"
    error, gap = _error(point.velocity_variance_error, ".1g"), point.velocity_gap
    return (
        f"{point.t:<8.4g}{point.top_weight:.4f}{_error(point.top_weight_error, '.3f'):>6}{point.margin:>6.3f}{ess}"
        f"{point.entropy:>8.2f}{point.cosine:>7.3f}{100 * point.cosine_share:>4.0f} %{point.velocity_variance:>9.3g}"
        f"{error:>7}{gap:>9.3g}{own:>9}{mass:>7}"
    ).rstrip()


def _error(error: float | None, form: str) -> str:
    return "" if error is None else format(error, form).removeprefix("0") if form == ".3f" else format(error, form)


def _hypot(point: StagePoint) -> float | None:
    # the two share their queries: an upper bound of the error of their difference
    errors = (point.velocity_variance_error, point.velocity_gap_error)
    return None if None in errors else sum(error for error in errors if error is not None)


def _ratio(value: float | None, error: float | None) -> float | None:
    return None if value is None or not error else abs(value) / error


def _worst(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return "no known number of standard errors"
    words = f"{max(known):.1f} standard errors at the worst of {len(known)} times"
    # where few queries differ from the rest, the error of their mean is not known well
    return words if max(known) <= DOUBTFUL else f"{words}; where it stays so with more queries, something is wrong"
