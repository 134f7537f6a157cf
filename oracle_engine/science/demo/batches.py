"""Batches of the training demonstration: queries, their three targets, and the queries that evaluate the networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...engine.oracle import Oracle
from ...paths.paths import RectifiedFlow
from ...training.conditional import conditional_target, path_sample
from ...training.references import References
from ...training.targets import OracleTarget
from .report import TARGET_NAMES
from .velocity_net import VelocityNet

DEMO_PATH = RectifiedFlow()
# training ends a little before the data, where the velocity of a query that is not on the path grows without bound
LAST_TIME = 0.99
EVALUATED_QUERIES = 1024
EVALUATED_BATCH = 256


@dataclass(frozen=True)
class TrainBatch:
    """Queries x_t = alpha(t) x1 + sigma(t) eps with the samples and the noise that made them.

    x1, eps, x_t: [B, *shape]. t: [B]. source: index of the sample of each query, [B] int64, or -1 for a sample that is
    not among the data.
    """

    x1: Float[Tensor, "B ..."]
    eps: Float[Tensor, "B ..."]
    t: Float[Tensor, "B"]
    x_t: Float[Tensor, "B ..."]
    source: Int64[Tensor, "B"]


class Targets:
    """The conditional target, the one over references and the oracle, with the seconds that each took."""

    def __init__(self, engine: OracleEngine, references: int, seed: int) -> None:
        """Prepare the targets.

        engine: the oracle, along DEMO_PATH. references: samples over which EFM averages.
        seed: of these samples, whose generator is their own: their number must not change the batches.
        """
        drawn = References(references, seeded(seed))
        self.efm, self.oracle = OracleTarget(engine, estimate=drawn), OracleTarget(engine)
        self.device = engine.data.device
        self.seconds: tuple[list[float], ...] = tuple([] for _ in TARGET_NAMES)

    def __call__(self, batch: TrainBatch) -> list[Float[Tensor, "B ..."]]:
        """Return the targets of a batch, [B, *shape] each, in the order of TARGET_NAMES; note their seconds."""
        targets: tuple[Callable[[], Tensor], ...] = (
            lambda: conditional_target(DEMO_PATH, batch.x1, batch.eps, batch.t),
            lambda: self.efm(batch.x_t, batch.t, source=batch.source),
            lambda: self.oracle(batch.x_t, batch.t),
        )
        found = []
        for target, seconds in zip(targets, self.seconds, strict=True):
            began = seconds_on(self.device)
            found.append(target())
            seconds.append(seconds_on(self.device) - began)
        return found


@dataclass(frozen=True)
class Evaluation:
    """Queries on which the networks are evaluated, the same after any number of steps.

    known: queries of samples of the data, half before and half after the stage boundary. velocities: their oracle
    velocities, [B, *shape]. unseen: queries of samples that are held out. unseen_targets: their conditional targets.
    """

    known: TrainBatch
    velocities: Float[Tensor, "B ..."]
    unseen: TrainBatch
    unseen_targets: Float[Tensor, "H ..."]

    @classmethod
    def draw(cls, oracle: OracleTarget, held_out: Float[Tensor, "H ..."], boundary: float, seed: int) -> Evaluation:
        """Return at most 1,024 queries of the data, and one of each sample that is held out.

        oracle: the target whose data are drawn and whose velocities are compared. held_out: samples, [H, *shape].
        boundary: the stage boundary, in (0, 1). seed: of the queries.
        """
        draws = seeded(seed)
        known = _either_side(oracle.engine, min(boundary, LAST_TIME), draws)
        parts = zip(known.x_t.split(EVALUATED_BATCH), known.t.split(EVALUATED_BATCH), strict=True)
        velocities = torch.cat([oracle(x, t) for x, t in parts])
        nobody = torch.full((len(held_out),), -1, device=held_out.device)
        unseen = noised_batch(held_out.float(), nobody, (0.0, LAST_TIME), draws)
        return cls(known, velocities, unseen, conditional_target(DEMO_PATH, unseen.x1, unseen.eps, unseen.t))

    def errors(self, networks: Sequence[VelocityNet]) -> dict[str, Float64[Tensor, "3 b"]]:
        """Return the losses of every network for every query, by the names of a StepLosses.

        networks: one for each of TARGET_NAMES.
        """
        navigation, refinement = _errors(networks, self.known, self.velocities).chunk(2, 1)
        held_out = _errors(networks, self.unseen, self.unseen_targets)
        return {"navigation": navigation, "refinement": refinement, "held_out": held_out}


def noised_batch(
    x1: Float[Tensor, "B ..."], source: Int64[Tensor, "B"], span: tuple[float, float], draws: torch.Generator
) -> TrainBatch:
    """Return one query of each sample, at a time drawn uniformly from `span`.

    x1: the samples, [B, *shape] float32. source: their indices, [B] int64. span: first and last time, in [0, 1].
    draws: the generator of times and noise, on the CPU.
    """
    t = span[0] + (span[1] - span[0]) * torch.rand(len(x1), generator=draws)
    eps = torch.randn(x1.shape, generator=draws)
    t, eps = t.to(x1.device), eps.to(x1.device)
    return TrainBatch(x1, eps, t, path_sample(DEMO_PATH, x1, eps, t), source)


def drawn_batch(engine: OracleEngine, count: int, span: tuple[float, float], draws: torch.Generator) -> TrainBatch:
    """Return queries of samples that are drawn uniformly, at times drawn uniformly from `span`.

    engine: whose data are drawn. count: of queries. span: first and last time, in [0, 1].
    draws: the generator of samples, times and noise, on the CPU.
    """
    x1, source = _drawn(engine, count, draws)
    return noised_batch(x1, source, span, draws)


def seconds_on(device: torch.device) -> float:
    """Return a clock in seconds, once all work on the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _drawn(engine: Oracle, count: int, draws: torch.Generator) -> tuple[Tensor, Int64[Tensor, "B"]]:
    data = engine.data
    source = torch.randint(len(data), (count,), generator=draws).to(data.device)
    return data.sample_values(data.row_of(source)).float(), source


def _either_side(engine: Oracle, edge: float, draws: torch.Generator) -> TrainBatch:
    """Return as many queries before the time `edge`, which lies early, as after it."""
    count = min(EVALUATED_QUERIES, 4 * len(engine.data)) // 2 * 2
    x1, source = _drawn(engine, count, draws)
    half = count // 2
    early = noised_batch(x1[:half], source[:half], (0.0, edge), draws)
    late = noised_batch(x1[half:], source[half:], (edge, LAST_TIME), draws)
    return TrainBatch(*(torch.cat(pair) for pair in zip(_tensors(early), _tensors(late), strict=True)))


def _tensors(batch: TrainBatch) -> tuple[Tensor, ...]:
    return batch.x1, batch.eps, batch.t, batch.x_t, batch.source


@torch.no_grad()
def _errors(networks: Sequence[VelocityNet], batch: TrainBatch, wanted: Tensor) -> Float64[Tensor, "3 B"]:
    """Return |model - wanted|^2 / D of every network for every query."""
    gaps = [(network(batch.x_t, batch.t) - wanted).reshape(len(wanted), -1) for network in networks]
    return torch.stack([gap.double().square().mean(1) for gap in gaps])
