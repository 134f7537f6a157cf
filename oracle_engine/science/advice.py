"""What a data set asks of training and sampling: one line a choice, with its number and the reason for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

import torch

from ..base.arrays import Float64, Tensor
from ..base.errors import invalid
from ..base.progress import Progress
from ..base.seeds import seeded
from ..engine.engine import OracleEngine
from ..paths.paths import Path
from ..paths.time_grids import shift_for
from ..training.conditional import conditional_target, path_sample
from ..training.references import References
from ..training.targets import OracleTarget
from .demo.batches import LAST_TIME
from .stages.analysis import analyse
from .stages.report import StageReport
from .transition import crossing, draw_rows, time_of_snr

# shares of the steps of a run for which the shift is given
WISHED_SHARES = (0.25, 0.5)
# counts of references that are tried
REFERENCE_COUNTS = (16, 64, 256, 1024, 4096)
REFERENCE_QUERIES = 128
# a class has been decided when its weight in the posterior over all classes has reached this
DECIDED = 0.99
# letters of a line of text
LINE_LETTERS = 90


@dataclass(frozen=True)
class Advice:
    """One choice: its name, what is advised in words, why, and the numbers as plain values that json can write."""

    name: str
    value: str
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdviceReport:
    """Every choice for a data set. data: what it is. report: the analysis that the numbers come from."""

    data: str
    items: tuple[Advice, ...]
    report: StageReport = field(repr=False)

    def format_table(self) -> str:
        """Return the choices with their reasons as text, one screen."""
        width = max(len(item.name) for item in self.items)
        lines = [self.data, f"{self.report.queries} training queries; {self.report.scope}", ""]
        for item in self.items:
            words = [*wrap(item.value, LINE_LETTERS), *(f"  {line}" for line in wrap(item.reason, LINE_LETTERS))]
            lines += [f"{'' if place else item.name:<{width}}  {line}" for place, line in enumerate(words)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the choices as plain values that json can write."""
        items = {item.name: {"value": item.value, "reason": item.reason, **item.facts} for item in self.items}
        return {"data": self.data, "advice": items, "report": self.report.to_json()}


def advise(
    engine: OracleEngine,
    *,
    batch: int = 256,
    variance: float = 0.1,
    queries: int = 256,
    seed: int = 0,
    per_class: bool = False,
    progress: Progress | None = None,
) -> AdviceReport:
    """Return what the data of an engine ask of training and sampling along its path.

    engine: the oracle. batch: queries of a training step, for memory and time. variance: the wished variance of the EFM
    target around the oracle, as a part of that of CFM, in (0, 1). queries: training queries of the analysis at each
    time. seed: of all draws. per_class: as in :func:`.stages.analysis.analyse`. progress: called as there.

    Transition, timestep shift in three conventions, guidance interval, EFM references, the late share of a batch, what
    a change of scale of latents would do, memory and time of exact targets. Raises InputError for a `variance` outside
    (0, 1), and as `analyse` does. Costs an analysis and a few batches of targets.
    """
    if not 0.0 < variance < 1.0:
        raise invalid("variance", "must lie in (0, 1)", variance, "pass 0.1 for a tenth of CFM's")
    report = analyse(engine, queries=queries, seed=seed, per_class=per_class, progress=progress, strip=1, strip_times=1)
    end = report.measured.ess_2 if report.measured.ess_2 is not None else report.predicted.anisotropic
    items = [_transition(report)]
    if end is not None:
        items += [_shift(end), _guidance(report, end), _late(end)]
        items += [_scale(engine, report)] if report.predicted.anisotropic is not None else []
    items.append(_references(engine, variance, seed, per_class=per_class))
    items.append(_cost(engine, batch))
    data = report.data
    words = f"{data['name']}: N = {data['samples']:,}, D = {data['dim']:,}, {data['values']}, {report.path}"
    return AdviceReport(words, tuple(items), report)


def _transition(report: StageReport) -> Advice:
    """Return the line about the transition."""
    measured, error, predicted = report.measured.ess_2, report.errors.ess_2, report.predicted.anisotropic
    if measured is None:
        return Advice("transition", "none in the grid of times", "the posterior never narrows to two samples there")
    told = "" if error is None else f" +- {error:.3f}"
    value = f"t = {measured:.3f}{told} (data at t = 1)"
    guess = "none" if predicted is None else f"{predicted:.3f}"
    reason = f"half of the queries are down to an ESS of 2; predicted from N, D and the spectrum: {guess}"
    return Advice("transition", value, reason, {"t": measured, "error": error, "predicted": predicted})


def _shift(end: float) -> Advice:
    """Return the line about the timestep shift. end: of navigation."""
    ours = {share: shift_for(share, end) for share in WISHED_SHARES}
    words = "; ".join(
        f"{100 * share:.0f} % of the steps before it: {shift:.2f} (SD3, Flux, diffusers: {1 / shift:.2f})"
        for share, shift in ours.items()
    )
    reason = (
        f"equal steps spend {100 * end:.0f} % on navigation; t_m = s t / (1 + (s - 1) t) as in LightningDiT; tools "
        "whose time runs from data take 1 / s"
    )
    facts = {"from_noise": {str(share): shift for share, shift in ours.items()}, "equal_steps": end}
    return Advice("timestep shift", words, reason, facts)


def _guidance(report: StageReport, end: float) -> Advice:
    """Return the line about the interval in which guidance has something to decide."""
    times = [point.t for point in report.points]
    masses = [point.class_mass for point in report.points]
    known = [mass for mass in masses if mass is not None]
    decided = crossing(times, known, DECIDED) if len(known) == len(times) else None
    last = end if decided is None else decided
    value = f"t in [0, {last:.2f}] (SD3, Flux, diffusers: sigma in [{1 - last:.2f}, 1])"
    reason = (
        f"the class of a query has {100 * DECIDED:.0f} % of the posterior from there on: guidance has nothing to decide"
        if decided is not None
        else "one sample has the posterior from there on, with and without the class"
    )
    facts = {"t_min": 0.0, "t_max": last, "from_class_mass": decided is not None}
    return Advice("guidance interval", value, reason, facts)


def _late(end: float) -> Advice:
    """Return the line about the part of a batch that lies after the transition."""
    normal = 1.0 - 0.5 * (1.0 + math.erf(math.log(end / (1.0 - end)) / math.sqrt(2.0)))
    value = f"{100 * (1 - end):.0f} % of uniform times, {100 * normal:.0f} % of logit-normal(0, 1) times"
    reason = (
        "after the transition the oracle target is the conditional one, so exact targets change the other part alone"
    )
    return Advice("late share of a batch", value, reason, {"uniform": 1.0 - end, "logit_normal": normal})


def _scale(engine: OracleEngine, report: StageReport) -> Advice:
    """Return the line about the scale of the data."""
    spread = math.sqrt(engine.data.variance_per_dim)
    found = report.predicted.anisotropic
    assert found is not None
    moved = _moved(engine.path, found, spread, engine.point_std)
    value = f"standard deviation {spread:.3g} a coordinate; at 1 the predicted transition {found:.3f} would be at "
    value += "none" if moved is None else f"{moved:.3f}"
    reason = (
        "only SNR times variance counts: scaling latents by c is a change of t; compare latent spaces at equal scale"
    )
    return Advice("normalisation", value, reason, {"std": spread, "predicted_at_unit_std": moved})


def _moved(path: Path, t: float, spread: float, point_std: float) -> float | None:
    """Return the time at which the path has the SNR of `t` times the squared spread."""
    from ..paths.paths import coefficients
    from ..paths.predictions import marginal_variance

    at = coefficients(path, torch.tensor([t], dtype=torch.float64))
    snr = float(at.alpha_t.square() / marginal_variance(at, point_std))
    return time_of_snr(path, snr * spread**2)


def _references(engine: OracleEngine, variance: float, seed: int, *, per_class: bool) -> Advice:
    """Return the line about the number of references of an EFM target."""
    counts = [count for count in REFERENCE_COUNTS if count < len(engine.data)]
    found = reference_variances(engine, counts, seed=seed, per_class=per_class)
    enough = next((count for count, part in found.items() if part <= variance), None)
    told = ", ".join(f"{count}: {100 * part:.0f} %" for count, part in found.items()) or "none tried"
    wished = f"{100 * variance:.0f} % of CFM's variance"
    value = f"more than tried for {wished}: take the exact target" if enough is None else f"M = {enough:,} for {wished}"
    reason = f"variance around the oracle at t uniform in [0, {LAST_TIME}], by M: {told}"
    return Advice("EFM references", value, reason, {"count": enough, "variance": {str(k): v for k, v in found.items()}})


def reference_variances(
    engine: OracleEngine, counts: Sequence[int], *, seed: int = 0, per_class: bool = False
) -> dict[int, float]:
    """Return the variance of EFM targets around the oracle relative to that of CFM, by the number of references.

    engine: the oracle. counts: numbers of references, each at least 1. seed: of 128 queries at times uniform in
    [0, .99], and of the references. per_class: condition every query on its class.
    """
    data, draws = engine.data, seeded(seed)
    rows = draw_rows(data, REFERENCE_QUERIES, seed)
    source, x1 = data.index_of(rows), data.sample_values(rows).double()
    t = (LAST_TIME * torch.rand(len(rows), generator=draws, dtype=torch.float64)).to(data.device)
    eps = torch.randn(x1.shape, generator=draws, dtype=torch.float64).to(data.device)
    x_t = path_sample(engine.path, x1, eps, t)
    labels = None
    if per_class:
        assert data.labels is not None
        labels = data.labels[source]
    oracle = engine.velocity(x_t, t, labels=labels)
    spread = _squares(conditional_target(engine.path, x1, eps, t) - oracle)
    found = {}
    for count in counts:
        efm = OracleTarget(engine, estimate=References(count, seeded(seed + 1)))
        found[count] = _squares(efm(x_t, t, source=source, labels=labels) - oracle) / max(spread, 1e-300)
    return found


def _squares(gap: Float64[Tensor, "B ..."]) -> float:
    return float(gap.square().mean())


def _cost(engine: OracleEngine, batch: int) -> Advice:
    """Return the line about time and memory of exact targets."""
    plan = engine.plan(batch)
    held = engine.data.rows.stored.nbytes / 2**20
    cost = f"at most {1e3 * plan.seconds:,.0f} ms and {plan.memory / 2**20:,.0f} MiB"
    value = f"{cost} a batch of {batch} on {engine.data.device}"
    reason = f"{engine.backend}; {plan.operations / 1e9:,.1f} GFLOP, the data hold {held:,.0f} MiB"
    facts = {"seconds": plan.seconds, "memory": plan.memory, "batch": batch, "backend": engine.backend}
    return Advice("exact targets", value, reason, facts)
