"""Targets refuse options, sources and arguments that cannot be meant, in words that help."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refusals import refused
from target_cases import pictures

from oracle_engine import (
    Exact,
    Flip,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    PosteriorDraw,
    References,
    conditional_target,
    posterior_draw,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "flow"}, "`prediction` must be one of velocity, denoiser, score, noise; received 'flow'"),
        ({"estimate": References}, "`estimate` must be an estimate of the posterior mean; .* Remedy: pass Exact"),
        ({"leave_one_out": True, "estimate": References(4)}, "`leave_one_out` contradicts References"),
        ({"guidance": 2.0, "estimate": References(4)}, "`guidance` needs an estimate that is unbiased"),
        ({"augmentation": "crop"}, "`augmentation` must be Flip.*'crop', after which the loop draws from another set"),
        ({"augmentation": Flip((-3,))}, r"`augmentation` must flip dimensions of a sample; received \(-3,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_contradict_each_other(options: Any, message: str, generator: torch.Generator) -> None:
    with refused(message):
        OracleTarget(OracleEngine(pictures(6, generator)), **options)


@pytest.mark.parametrize(
    ("estimate", "source", "message"),
    [
        (References(4), None, "`source` is needed for References; received None. Remedy: pass the indices"),
        (Exact(), None, "`source` is needed for leave_one_out"),
        (Exact(), torch.tensor([0, 6]), r"`source` must be indices of samples, -1 .. 5; received 6"),
        (References(4), torch.tensor([0, -1]), r"`source` must be indices of samples, 0 .. 5; received -1"),
        (Exact(), torch.tensor([0.0, 1.0]), r"`source` must be integers, one or \[2\]; received torch.float32"),
        (Exact(), torch.tensor([0, 1, 2]), r"`source` must be integers, one or \[2\]; received torch.int64 \[3\]"),
    ],
)
def test_sources_that_cannot_be_used(estimate: Any, source: Any, message: str, generator: torch.Generator) -> None:
    leave_one_out = isinstance(estimate, Exact)
    target = OracleTarget(OracleEngine(pictures(6, generator)), estimate=estimate, leave_one_out=leave_one_out)
    with refused(message):
        target(torch.zeros(2, 2, 3), 0.5, source=source)


@pytest.mark.parametrize("estimate", [Exact(), References(4), PosteriorDraw()])
def test_a_sample_that_cannot_have_made_x_is_refused(estimate: Any, generator: torch.Generator) -> None:
    data = pictures(6, generator)
    target, x = OracleTarget(OracleEngine(data), estimate=estimate), 0.99 * data[torch.tensor([1, 2])]
    assert bool(target(x, 0.99, source=torch.tensor([1, 2])).isfinite().all())
    with refused("`source` must be the index of the sample that x was made from"):
        target(x, 0.99, source=torch.tensor([1, 5]))


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_a_target_is_refused_in_words(generator: torch.Generator) -> None:
    with refused("`engine` must be an OracleEngine; received OracleDataset"):
        OracleTarget(pictures(6, generator))  # type: ignore[arg-type]
    with refused(r"`point_std` must be one width for all samples; received a tensor of shape \[6\]"):
        OracleEngine(pictures(6, generator), point_std=torch.ones(6))  # type: ignore[arg-type]
    with refused(r"`eps` must have the shape of x1, \[2, 3\]; received \[2, 4\]"):
        conditional_target("gvp", torch.zeros(2, 3), torch.zeros(2, 4), 0.5)
    with refused("`t` must leave a finite target"):
        conditional_target("vp", torch.zeros(2, 3), torch.zeros(2, 3), 1.0)
    with refused("`count` must be at least 1"):
        References(0)
    with refused("`dims` must be different and count from the end"):
        Flip((0,))
    with refused("`probability` must lie between 0 and 1"):
        Flip(probability=1.0)
    nobody = OracleDataset(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    with refused("`weights` must be positive for some sample; received none for query 0"):
        posterior_draw(OracleEngine(nobody), torch.zeros(1, 2), 0.5, labels=0)
    with refused("`block_values` must be at least 1; received 0"):
        posterior_draw(OracleEngine(nobody), torch.zeros(1, 2), 0.5, block_values=0)


@pytest.mark.parametrize(
    "options", [{}, {"augmentation": Flip()}, {"estimate": References(4)}, {"estimate": PosteriorDraw()}]
)
def test_a_target_that_its_dtype_cannot_hold_is_refused(options: Any, generator: torch.Generator) -> None:
    target = OracleTarget(OracleEngine(pictures(6, generator)), "score", **options)
    x, t = target.engine.data[:6].half(), 1.0 - 1e-5
    with refused("`x` must have a dtype that holds the answer; received torch.float16, .* for a larger score"):
        target(x, t, source=None if "augmentation" in options else torch.arange(6))
