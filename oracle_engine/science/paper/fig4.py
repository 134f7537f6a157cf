"""Figure 4: what the oracle's denoiser shows along t, from the mean of the data to one sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...base.seeds import seeded
from ...data.values import is_picture
from ...engine.engine import OracleEngine
from ...queries.posterior import Posterior
from ...samplers.runs import noised
from ..transition import draw_rows
from .boundary import marks_at, predicted_boundary, times_around
from .result import Curve, Panel, PaperResult, Sheet, check_count, context_of, data_facts

# of the transition
SHOWN_MULTIPLES = (0.2, 0.5, 0.8, 1.0, 1.2, 1.5)

FIG4_NOTE = (
    "Published: denoisers of ImageNet latents, decoded; early ones are blurred layouts of many samples, after the "
    "transition they show one training sample. Here the same for the samples themselves."
)


def fig4(
    engine: OracleEngine, *, times: Sequence[float] | None = None, queries: int = 128, shown: int = 3, seed: int = 0
) -> PaperResult:
    """Return the denoiser of training queries along t: pictures of a few, and distances over all.

    engine: over the data. times: in (0, 1); None takes multiples of the predicted transition. queries: of which the
    means are taken. shown: how many are drawn. seed: of their samples and noise. Costs a posterior for each time.
    """
    check_count("queries", queries, 1)
    boundary = predicted_boundary(engine, seed)
    grid = tuple(times) if times is not None else times_around(boundary, SHOWN_MULTIPLES)
    rows = draw_rows(engine.data, queries, seed)
    samples = engine.data.sample_values(rows)
    order = torch.randperm(len(rows), generator=seeded(seed))[:shown]
    found, pictures = [], []
    for t in grid:
        x = noised(engine, samples.double(), t, generator=seeded(seed, engine.data.device))
        posterior = engine.posterior(x, t, top_k=1)
        found.append((t, *_averages(posterior, samples)))
        pictures.append((x[order].float().cpu(), posterior.mean[order].float().cpu()))
    marks = marks_at(boundary, "predicted")
    curve = Curve("", grid, tuple(row[1] for row in found))
    weight = Curve("", grid, tuple(row[2] for row in found))
    return PaperResult(
        name="fig4",
        title="The denoiser along t",
        facts=data_facts(engine) | {"queries": queries},
        columns=("t", "|denoiser - own sample|^2 / D", "top-1 weight", "median ESS"),
        rows=tuple(found),
        note=FIG4_NOTE,
        panels=(
            Panel("distance to the own sample", "t (0 noise, 1 data)", "|E[X | x] − X|² / D", (curve,), marks=marks),
            Panel("posterior", "t (0 noise, 1 data)", "mean top-1 weight", (weight,), share=True, marks=marks),
        ),
        sheet=_sheet(engine, grid, pictures, samples[order].float().cpu()),
    )


def _averages(posterior: Posterior, samples: torch.Tensor) -> tuple[float, float, float]:
    """Return the mean squared distance a value to the own samples, the mean top-1 weight and the median ESS."""
    gap = (posterior.mean - samples.double()).reshape(len(samples), -1).square().mean(1)
    return float(gap.mean()), float(posterior.top_weights.mean()), float(posterior.ess.median())


def _sheet(
    engine: OracleEngine,
    times: Sequence[float],
    pictures: Sequence[tuple[torch.Tensor, torch.Tensor]],
    samples: torch.Tensor,
) -> Sheet | None:
    """Return the queries and their denoisers along t in two rows of pictures each; None for data that are none."""
    if not is_picture(engine.data.sample_shape):
        return None
    rows = []
    for query, sample in enumerate(samples):
        rows.append(("x_t", torch.stack([*(pair[0][query] for pair in pictures)])))
        rows.append(("denoiser, sample", torch.stack([*(pair[1][query] for pair in pictures), sample])))
    return Sheet(tuple(rows), (*(f"t = {t:g}" for t in times), "sample"), context_of(engine))
