"""A small network trained on the conditional target, over references and on the oracle, from one seed."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from ...base.arrays import Float64, Tensor
from ...base.errors import invalid
from ...base.machine.settings import __version__
from ...base.progress import Progress
from ...base.seeds import seeded
from ...data.dataset import OracleDataset
from ...engine.engine import OracleEngine
from ..transition import stage_boundary
from .batches import LAST_TIME, Evaluation, Targets, drawn_batch, seconds_on
from .report import TARGET_NAMES, Difference, PerTarget, StepLosses, TimeBin, TrainReport
from .settings import TrainSettings
from .velocity_net import LEARNING_RATE, VelocityNet

# samples that are held out at most, and samples that are needed at least
MOST_HELD_OUT, LEAST_SAMPLES = 1024, 20
CHECKPOINTS = 16


def train(
    data: OracleDataset,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> TrainReport:
    """Return the results of training on three targets with the same expectation, over the same batches.

    data: at least 20 samples, of which a tenth but at most 1,024 are held out; labels and weights are not used.
    settings: of the training; None takes the defaults.
    progress: called with (steps done, all steps) after each step of training and each batch of a bin.
    notes: lines that the table of the report begins with.

    The path is the rectified flow, for t in [0, 0.99]. The same seed gives the same numbers but for the times taken,
    and the global generator of torch is left as it was.
    Raises InputError for fewer than 20 samples, and for samples that cannot be told apart.
    Costs steps + bins * draws batches of oracle targets, and the training of three networks.
    """
    began, chosen = time.perf_counter(), settings or TrainSettings()
    kept, held_out = _split(data, chosen.seed)
    trainer = _Trainer(OracleEngine(kept), held_out, chosen, progress)
    checkpoints = trainer.train()
    bins = trainer.measure(trainer.networks[-1])
    return TrainReport(
        **_origin(data, len(kept), len(held_out)),
        settings=asdict(chosen),
        parameters=sum(part.numel() for part in trainer.networks[0].parameters()),
        boundary=trainer.boundary,
        bins=bins,
        checkpoints=checkpoints,
        gains=trainer.gains(),
        target_seconds=PerTarget(*(median(seconds) for seconds in trainer.targets.seconds)),
        step_seconds=median(trainer.step_seconds) / len(TARGET_NAMES),
        elapsed=time.perf_counter() - began,
        notes=tuple(notes),
    )


class _Trainer:
    """Three networks that differ in nothing but their target."""

    def __init__(
        self, engine: OracleEngine, held_out: Tensor, settings: TrainSettings, progress: Progress | None
    ) -> None:
        self.engine, self.settings, self.progress = engine, settings, progress
        self.boundary = stage_boundary(engine, settings.seed)
        self.draws = seeded(settings.seed)
        self.targets = Targets(engine, settings.references, settings.seed)
        self.evaluation = Evaluation.draw(self.targets.oracle, held_out, self.boundary, settings.seed + 1)
        self.networks = [copy.deepcopy(_network(engine, settings)) for _ in TARGET_NAMES]
        self.step_seconds: list[float] = []
        self.total, self.done = settings.steps + settings.bins * settings.draws, 0

    def train(self) -> tuple[StepLosses, ...]:
        """Return the losses along the training of all three networks."""
        optimisers = [torch.optim.Adam(network.parameters(), lr=LEARNING_RATE) for network in self.networks]
        steps = self.settings.steps
        stops = {round(steps * part / CHECKPOINTS) for part in range(CHECKPOINTS + 1)}
        found = [self._checkpoint(0)]
        for step in range(1, steps + 1):
            self._step(optimisers)
            if step in stops:
                found.append(self._checkpoint(step))
            self._advance()
        return tuple(found)

    def measure(self, network: VelocityNet) -> tuple[TimeBin, ...]:
        """Return the variances of targets and gradients at the parameters of `network`, by bins of t."""
        edges = torch.linspace(0.0, LAST_TIME, self.settings.bins + 1).tolist()
        return tuple(self._measure(network, span) for span in pairwise(edges))

    def gains(self) -> dict[str, Difference]:
        """Return how much lower than that of CFM the losses of the others are."""
        return {name: _difference(errors) for name, errors in self.evaluation.errors(self.networks).items()}

    def _step(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        """Train every network on one batch."""
        batch = drawn_batch(self.engine, self.settings.batch, (0.0, LAST_TIME), self.draws)
        targets = self.targets(batch)
        began = seconds_on(self.engine.data.device)
        for network, optimiser, target in zip(self.networks, optimisers, targets, strict=True):
            optimiser.zero_grad()
            (network(batch.x_t, batch.t) - target).square().mean().backward()
            optimiser.step()
        self.step_seconds.append(seconds_on(self.engine.data.device) - began)

    def _measure(self, network: VelocityNet, span: tuple[float, float]) -> TimeBin:
        """Return the variances of targets and gradients in one bin of times."""
        sums = _GradientSums(network)
        for _ in range(self.settings.draws):
            batch = drawn_batch(self.engine, self.settings.batch, span, self.draws)
            targets = self.targets(batch)
            sums.add(network(batch.x_t, batch.t), targets)
            self._advance()
        return sums.time_bin(span, self.settings.batch)

    def _checkpoint(self, step: int) -> StepLosses:
        errors = self.evaluation.errors(self.networks)
        return StepLosses(step, **{name: PerTarget(*values.mean(1).tolist()) for name, values in errors.items()})

    def _advance(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


class _GradientSums:
    """Sums over batches of the gradients of a network at fixed parameters, for each of the three targets."""

    def __init__(self, network: VelocityNet) -> None:
        self.parameters = list(network.parameters())
        size = sum(part.numel() for part in self.parameters)
        self.sums = [torch.zeros(size, dtype=torch.float64) for _ in TARGET_NAMES]
        self.squares, self.spread = [0.0] * len(TARGET_NAMES), [0.0] * len(TARGET_NAMES)
        self.count = 0

    def add(self, answer: Tensor, targets: Sequence[Tensor]) -> None:
        """Add the gradients of one batch; `answer` is what the network returned for it."""
        self.count += 1
        for index, target in enumerate(targets):
            loss = (answer - target).square().mean()
            parts = torch.autograd.grad(loss, self.parameters, retain_graph=True)
            gradient = torch.cat([part.flatten() for part in parts]).double().cpu()
            self.sums[index] += gradient
            self.squares[index] += float(gradient.square().sum())
            self.spread[index] += float((target - targets[-1]).square().mean())

    def time_bin(self, span: tuple[float, float], size: int) -> TimeBin:
        """Return the variances over batches of `size` queries at times in `span`."""
        count = self.count
        norms = [float((total / count).square().sum()) for total in self.sums]
        pairs = zip(self.squares, norms, strict=True)
        # of the mean of a batch, times its size: of a single query
        variances = [size * (square - count * norm) / (count - 1) for square, norm in pairs]
        # the mean over the draws still has its own variance in its norm
        mean = max(0.0, norms[-1] - variances[-1] / (size * count))
        return TimeBin(*span, PerTarget(*(part / count for part in self.spread)), PerTarget(*variances), mean)


def _network(engine: OracleEngine, settings: TrainSettings) -> VelocityNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return VelocityNet(engine.data.dim, settings.width).to(engine.data.device)


def _split(data: OracleDataset, seed: int) -> tuple[OracleDataset, Tensor]:
    """Return the data set without, and the values of, the samples that are held out."""
    if len(data) < LEAST_SAMPLES:
        requirement = f"must have at least {LEAST_SAMPLES} samples, of which some are held out"
        raise invalid("data", requirement, len(data), "name more samples")
    order = torch.randperm(len(data), generator=seeded(seed)).to(data.device)
    count = min(MOST_HELD_OUT, len(data) // 10)
    stored = data.rows.stored[order[count:]].reshape(-1, *data.sample_shape)
    kept = OracleDataset(stored, value_map=data.value_map, name=data.name)
    return kept, data.sample_values(order[:count])


def _difference(errors: Float64[Tensor, "3 B"]) -> Difference:
    # paired: the queries are the same
    gaps = errors[:1] - errors[1:]
    means, spread = gaps.mean(1).tolist(), (gaps.std(1) / math.sqrt(max(1, gaps.shape[1]))).tolist()
    return Difference(efm=means[0], efm_error=spread[0], oracle=means[1], oracle_error=spread[1])


def _origin(data: OracleDataset, kept: int, held_out: int) -> dict[str, Any]:
    """Return the fields of a report that say what it was computed from."""
    described = {"name": data.name, "samples": kept, "dim": data.dim, "held_out": held_out}
    device = f"{data.device}, {torch.get_num_threads()} threads" if data.device.type == "cpu" else str(data.device)
    versions = {"oracle-velocity-engine": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "data": described | data.value_facts() | {"fingerprint": data.fingerprint},
        "device": device,
        "versions": versions,
    }
