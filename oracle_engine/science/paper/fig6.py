"""Figure 6: held-out samples, noised to t and resumed by a model."""

from __future__ import annotations

from collections.abc import Sequence

from ...base.arrays import Float, Tensor
from ...base.errors import invalid
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...paths.time_grids import sampling_times
from ...samplers.fields import Velocity
from ...samplers.runs import noised, sample
from ..memorisation import COPY_RATIO
from .boundary import marks_at, predicted_boundary, times_around
from .fig5 import SWITCH_MULTIPLES
from .result import Curve, Panel, PaperResult, data_facts
from .takeover import Ends, ends_sheet

# a time at which little noise is left
REFINING = 0.9

FIG6_NOTE = (
    "Published: held-out images noised to t and resumed by a trained model. From late t a model that generalises "
    "returns to the held-out sample, from early t it makes another; one that memorises goes to training samples "
    "instead."
)


def fig6(
    engine: OracleEngine,
    model: Velocity,
    held_out: Float[Tensor, "K ..."],
    *,
    times: Sequence[float] | None = None,
    steps: int = 50,
    threshold: float = COPY_RATIO,
    seed: int = 0,
) -> PaperResult:
    """Return what becomes of held-out samples that are noised to t and resumed by the model.

    engine, model, steps, threshold, seed: as in :func:`fig5`. held_out: samples that the model did not see,
    [K, *sample_shape] in value space. times: in [0, 1); None takes multiples of the predicted transition.
    """
    _check(engine, held_out)
    boundary = predicted_boundary(engine, seed)
    grid = (
        tuple(sorted({*times_around(boundary, SWITCH_MULTIPLES), REFINING})) if times is None else tuple(sorted(times))
    )
    unseen = held_out.to(engine.data.device, engine.data.value_dtype)
    ends, back = [], []
    for t in grid:
        x = noised(engine, unseen, t, generator=seeded(seed, engine.data.device))
        run = sample(model, x, sampling_times(steps, start=t), path=engine.path)
        ends.append(Ends.of(engine, run.x, threshold, seed))
        back.append(float((run.x.double() - unseen).square().mean().sqrt()))
    rows = tuple(
        (t, gap, end.distance, end.ratio, end.rate.rate, end.rate.error)
        for t, gap, end in zip(grid, back, ends, strict=True)
    )
    named = [("held out", unseen), *((f"t = {t:.2f}", end.x) for t, end in zip(grid, ends, strict=True))]
    return PaperResult(
        name="fig6",
        title="Held-out samples, noised to t and resumed by the model",
        facts=data_facts(engine) | {"held out": len(unseen), "steps": steps, "copy if ratio <": round(threshold, 3)},
        columns=("t", "to the held-out sample", "to the nearest sample", "ratio", "copy rate", "+-"),
        rows=rows,
        note=FIG6_NOTE,
        panels=_panels(rows, marks_at(boundary)),
        sheet=ends_sheet(engine, named),
    )


def _check(engine: OracleEngine, held_out: Tensor) -> None:
    """Raise InputError where there are no held-out samples of the shape of the data."""
    if tuple(held_out.shape[1:]) != engine.data.sample_shape or len(held_out) < 1:
        found = list(held_out.shape)
        raise invalid("held_out", "must be samples like those of the data", found, "pass samples in value space")


def _panels(rows: Sequence[tuple[float, ...]], marks: dict[str, float]) -> tuple[Panel, Panel]:
    """Return the panel of distances and that of copies, from the columns of the table."""
    grid, back, distance, _, rate, error = zip(*rows, strict=True)
    own = Curve("to the held-out sample itself", grid, back)
    near = Curve("to the nearest training sample", grid, distance)
    copies = Curve("", grid, rate, error)
    return (
        Panel("where the resumed runs end", "t", "RMS distance a coordinate", (own, near), marks=marks),
        Panel("copies of training samples", "t", "copy rate (± 2 errors)", (copies,), share=True, marks=marks),
    )
