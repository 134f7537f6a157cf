"""Any question about any data, wherever the samples are while they are scanned, has the answer of the formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from closed_form import FAMILIES, direct_weights, normal, stored_as, values_of
from hypothesis import given, settings
from hypothesis import strategies as st
from job_cases import make_spec
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.engine.residency import LEAST_ROWS, beside
from oracle_engine.jobs.units import Units
from oracle_engine.paths.paths import PATHS, Coefficients, coefficients
from oracle_engine.queries.stored import Queries

BATCH, CLASSES, NAMED = 3, 3, 4


@dataclass(frozen=True)
class Question:
    """Queries x [B, D] at times t [B] with conditions, and which samples each of them may use, [B, N].

    free: which it may use without its class.
    """

    data: OracleDataset
    path: str
    x: Tensor
    t: Tensor
    given: dict[str, Any]
    used: Tensor
    free: Tensor

    @property
    def at(self) -> Coefficients:
        return coefficients(PATHS[self.path](), self.t)

    def weights(self, allowed: Tensor) -> Tensor:
        """The posterior weights over the samples that are `allowed`, [B, N], in the order of the points."""
        log_weights = self.log_weights.masked_fill(~allowed, -torch.inf)
        return direct_weights(self.values, self.x, self.at.alpha_t, self.at.sigma_t, log_weights)

    @property
    def values(self) -> Tensor:
        return values_of(self.data)[self.data.row_of(torch.arange(len(self.data)))]

    @property
    def log_weights(self) -> Tensor:
        held = self.data.rows.log_weights
        every = torch.arange(len(self.data))
        return torch.zeros(len(every), dtype=torch.float64) if held is None else held[self.data.row_of(every)]

    def velocity(self, guidance: float | None) -> Tensor:
        mean = self.weights(self.used) @ self.values
        if guidance is not None:
            free = self.weights(self.free) @ self.values
            mean = free + guidance * (mean - free)
        at = self.at
        noise = (self.x - at.alpha_t[:, None] * mean) / at.sigma_t[:, None]
        return at.d_alpha_t[:, None] * mean + at.d_sigma_t[:, None] * noise

    def log_density(self) -> Tensor:
        at, log_weights = self.at, self.log_weights.masked_fill(~self.used, -torch.inf)
        squares = torch.stack(
            [(x - alpha * self.values).square().sum(1) for x, alpha in zip(self.x, at.alpha_t, strict=True)]
        )
        logits = log_weights - 0.5 * squares / at.sigma_t.square()[:, None]
        normal_constant = 0.5 * self.x.shape[1] * (2 * torch.pi * at.sigma_t.square()).log()
        return logits.logsumexp(1) - log_weights.logsumexp(1) - normal_constant


# a last column of -1, so that no row is taken for a one-hot one
UNIONS = st.sampled_from([[0, -1, -1, -1], [2, 1, -1, -1], [1, 0, 2, -1], [-1, -1, -1, -1]])
TIMES = st.one_of(st.floats(1e-4, 1 - 1e-4), st.sampled_from([1e-4, 0.5, 0.99, 1 - 1e-4]))

QUESTIONS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "family": st.sampled_from(sorted(FAMILIES)),
        "size": st.tuples(st.sampled_from([5, 60, 150]), st.sampled_from([2, 33, 70, 150])),
        "dtype": st.sampled_from(STORAGE_DTYPES),
        "path": st.sampled_from(sorted(PATHS)),
        "t": st.lists(TIMES, min_size=BATCH, max_size=BATCH),
        "weighted": st.booleans(),
        "unions": st.none() | st.lists(UNIONS, min_size=BATCH, max_size=BATCH),
        "leaves_out": st.booleans(),
    }
)


def question_of(
    *,
    seed: int,
    family: str,
    size: tuple[int, int],
    dtype: torch.dtype,
    path: str,
    t: list[float],
    weighted: bool,
    unions: list[list[int]] | None,
    leaves_out: bool,
) -> Question:
    """Return queries made from samples, which may ask for classes and leave the samples they were made from out."""
    generator, (count, dim) = torch.Generator().manual_seed(seed), size
    # every class has a sample, and the last sample has no class
    labels = torch.randint(CLASSES, (count,), generator=generator)
    labels[:CLASSES], labels[-1] = torch.arange(CLASSES), -1
    weights = 0.1 + torch.rand(count, generator=generator, dtype=torch.float64) if weighted else None
    data = OracleDataset(stored_as(FAMILIES[family](count, dim, generator), dtype), labels, weights)
    times, own = torch.tensor(t, dtype=torch.float64), torch.randint(count, (BATCH,), generator=generator)
    at = coefficients(PATHS[path](), times)
    x = at.alpha_t[:, None] * data[own].double() + at.sigma_t[:, None] * normal(BATCH, dim, generator)
    asked, used = {}, torch.ones(BATCH, count, dtype=torch.bool)
    free = used
    if unions is not None:
        asked["labels"] = named = torch.tensor(unions)
        used = ((named[:, :, None] == labels).any(1) & (labels >= 0)) | (named < 0).all(1)[:, None]
    if leaves_out:
        kept = torch.arange(count) != own[:, None]
        # of a class of one sample none would be left
        kept |= ~(used & kept).any(1, keepdim=True)
        used, free = used & kept, free & kept
        asked["exclude"] = torch.where(kept.all(1), -1, own)
    return Question(data, path, x, times, asked, used, free)


def streamed(data: OracleDataset, path: str) -> OracleEngine:
    """Return an engine that reads `data` in the smallest blocks."""
    stored = data.rows.stored
    least = beside(data) + 2 * min(len(data), LEAST_ROWS) * (data.dim * stored.element_size() + 8)
    return OracleEngine(data, path, resident="stream", memory=least)


def of_shards(question: Question, backend: str, guidance: float | None) -> Tensor:
    """Return the velocities of a job over 16 shards."""
    engine, queries = OracleEngine(question.data, question.path, backend=backend), question
    stored = Queries(queries.x, queries.t, queries.given.get("labels"))
    spec = make_spec(stored, path=question.path, shards=16, guidance=guidance, backend=engine.backend)
    units = Units(engine, stored, spec)
    return units.answer(0, [units.state(unit) for unit in spec.units(0)])


@settings(max_examples=40)
@given(QUESTIONS, st.sampled_from([None, 0.0, 2.5]), st.sampled_from(["auto", "torch"]))
def test_every_way_has_the_answer_of_the_formula(drawn: dict[str, Any], guidance: float | None, backend: str) -> None:
    question = question_of(**drawn)
    scale = guidance if "labels" in question.given else None
    truth, noise = question.velocity(scale), question.at.d_sigma_t.abs() * question.data.dim**0.5
    size = torch.maximum(truth.norm(dim=1), noise) * (1.0 if scale is None else abs(scale) + abs(1.0 - scale))
    asked = question.given if scale is None else question.given | {"guidance": scale}
    engines = [OracleEngine(question.data, question.path, backend=backend), streamed(question.data, question.path)]
    for engine in engines:
        assert_rows_close(engine.velocity(question.x, question.t, **asked), truth, "bar", size)
        assert_same_statistics(engine, question)
    if "exclude" not in question.given:
        assert_rows_close(of_shards(question, backend, scale), truth, "bar", size)


def assert_same_statistics(engine: OracleEngine, question: Question) -> None:
    weights = question.weights(question.used)
    found = engine.posterior(question.x, question.t, top_k=NAMED, **question.given)
    assert_close(found.ess, 1.0 / weights.square().sum(1), "moment")
    assert_close(found.entropy, -torch.xlogy(weights, weights).sum(1), "moment")
    assert_close(found.log_density, question.log_density(), "moment")
    assert_close(found.top_weights, weights.topk(NAMED, dim=1).values, "moment")
    named = weights.gather(1, found.top_indices.clamp_min(0)).masked_fill(found.top_indices < 0, 0.0)
    assert_close(found.top_weights, named, "moment")
