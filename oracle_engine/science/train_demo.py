"""A small network trained on the conditional target, over references and on the oracle, from one seed."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

import torch

from ..base.arrays import Float, Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.progress import Progress
from ..base.settings import __version__
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.paths import RectifiedFlow
from ..training.estimates import References
from ..training.targets import OracleTarget, conditional_target, path_sample
from .train_report import TARGET_NAMES, Checkpoint, Difference, PerTarget, TimeBin, TrainReport
from .transition import stage_boundary

PATH = RectifiedFlow()
# training ends a little before the data, where the velocity of a query that is not on the path grows without bound
LAST_TIME = 0.99
TEST_QUERIES = 1024
TEST_BATCH = 256
HELD_OUT = 1024
CHECKPOINTS = 16
LEARNING_RATE = 1e-3
FREQUENCIES = 16


@dataclass(frozen=True)
class TrainSettings:
    """How long, how large and how carefully: steps of `batch` queries for a network of `width` hidden units.

    references: M of EFM. bins: of t. draws: batches in each bin from which gradient variances are taken, at least 2.
    seed: of the network, the batches, and the samples held out.
    """

    steps: int = 300
    batch: int = 64
    width: int = 512
    references: int = 128
    bins: int = 8
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("width", 1), ("references", 1), ("bins", 1), ("draws", 2)):
            if getattr(self, name) < least:
                raise invalid(name, f"must be at least {least}", getattr(self, name), "leave it out for the default")


def train(
    data: OracleDataset,
    settings: TrainSettings | None = None,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> TrainReport:
    """Return what training on three targets with the same expectation shows, over the same batches from one seed.

    data: at least 20 samples, a tenth of them but at most 1,024 held out. progress: called with (done, all) steps.
    notes: said first in the report. Along rectified flow, for t in [0, 0.99], without labels and weights.
    Raises InputError for settings below their least value and data that cannot be told apart.
    Costs steps + bins * draws batches of oracle targets, and three networks.
    """
    began, chosen = time.perf_counter(), settings or TrainSettings()
    kept, held_out = _split(data, chosen.seed)
    engine = OracleEngine(kept)
    run = _Run(engine, held_out, chosen, progress or (lambda done, total: None))
    checkpoints = run.train()
    bins = run.measure(run.networks[-1])
    return TrainReport(
        data={
            "name": data.name,
            "samples": len(kept),
            "dim": data.dim,
            "held_out": len(held_out),
            "fingerprint": data.fingerprint,
        },
        settings=asdict(chosen),
        device=f"{data.device}, {torch.get_num_threads()} threads" if data.device.type == "cpu" else str(data.device),
        versions={
            "oracle-velocity-engine": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        parameters=sum(part.numel() for part in run.networks[0].parameters()),
        boundary=run.boundary,
        bins=bins,
        checkpoints=checkpoints,
        gains=run.gains(),
        target_seconds=PerTarget(*(median(seconds) for seconds in run.target_seconds)),
        step_seconds=median(run.step_seconds) / len(TARGET_NAMES),
        elapsed=time.perf_counter() - began,
        notes=tuple(notes),
    )


class VelocityNet(torch.nn.Module):
    """A residual perceptron for samples of `dim` values: v = c(t) x + f(x, t), f modulated by Fourier features of t.

    The first term carries what no narrow layer could: the part of the velocity along x itself.
    """

    def __init__(self, dim: int, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.time = torch.nn.Sequential(
            torch.nn.Linear(2 * FREQUENCIES, width), torch.nn.SiLU(), torch.nn.Linear(width, (blocks + 1) * width + 1)
        )
        self.first = torch.nn.Linear(dim, width)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(blocks))
        self.last = torch.nn.Linear(width, dim)

    def forward(self, x: Float[Tensor, "B ..."], t: Float[Tensor, "B"]) -> Float[Tensor, "B ..."]:
        """Return the velocity at (x, t), like x."""
        flat = x.flatten(1)
        angles = math.pi * t[:, None] * torch.arange(1, FREQUENCIES + 1, device=x.device, dtype=x.dtype)
        *shifts, along = self.time(torch.cat([angles.sin(), angles.cos()], 1)).split(self.first.out_features, 1)
        hidden = self.first(flat) + shifts[0]
        for block, shift in zip(self.blocks, shifts[1:], strict=True):
            hidden = hidden + block(torch.nn.functional.silu(hidden)) + shift
        answer: Tensor = along * flat + self.last(torch.nn.functional.silu(hidden))
        return answer.reshape(x.shape)


@dataclass(frozen=True)
class _Batch:
    """Queries with the sample and the noise that made them."""

    x1: Float[Tensor, "B ..."]
    eps: Float[Tensor, "B ..."]
    t: Float[Tensor, "B"]
    x_t: Float[Tensor, "B ..."]
    source: Int64[Tensor, "B"]


class _Run:
    """Three networks that differ in nothing but their target."""

    def __init__(self, engine: OracleEngine, held_out: Tensor, settings: TrainSettings, progress: Progress) -> None:
        self.engine, self.settings, self.progress = engine, settings, progress
        self.boundary = stage_boundary(engine, settings.seed)
        self.draws = torch.Generator().manual_seed(settings.seed)
        # of their own: how many references are drawn must not change the batches
        references = References(settings.references, torch.Generator().manual_seed(settings.seed))
        self.efm, self.oracle = OracleTarget(engine, estimate=references), OracleTarget(engine)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = VelocityNet(engine.data.dim, settings.width).to(engine.data.device)
        self.networks = [copy.deepcopy(network) for _ in TARGET_NAMES]
        self.step_seconds: list[float] = []
        self.target_seconds: tuple[list[float], ...] = tuple([] for _ in TARGET_NAMES)
        self.total, self.done = settings.steps + settings.bins * settings.draws, 0
        self._prepare_tests(held_out)

    def train(self) -> tuple[Checkpoint, ...]:
        """Return the losses along the training of all three networks."""
        optimisers = [torch.optim.Adam(network.parameters(), lr=LEARNING_RATE) for network in self.networks]
        steps = self.settings.steps
        stops = {round(steps * part / CHECKPOINTS) for part in range(CHECKPOINTS + 1)}
        found = [self._checkpoint(0)]
        for step in range(1, steps + 1):
            batch = self._batch(self.settings.batch, 0.0, LAST_TIME)
            targets = self._targets(batch)
            began = self._now()
            for network, optimiser, target in zip(self.networks, optimisers, targets, strict=True):
                optimiser.zero_grad()
                (network(batch.x_t, batch.t) - target).square().mean().backward()
                optimiser.step()
            self.step_seconds.append(self._now() - began)
            if step in stops:
                found.append(self._checkpoint(step))
            self._advance()
        return tuple(found)

    def measure(self, network: VelocityNet) -> tuple[TimeBin, ...]:
        """Return the variances of targets and gradients at the parameters of `network`, by bins of t."""
        edges = torch.linspace(0.0, LAST_TIME, self.settings.bins + 1).tolist()
        return tuple(self._measure(network, first, last) for first, last in pairwise(edges))

    def gains(self) -> dict[str, Difference]:
        """Return how much lower than that of CFM the losses of the others are."""
        return {name: _difference(errors) for name, errors in self._test_errors().items()}

    def _measure(self, network: VelocityNet, first: float, last: float) -> TimeBin:
        parameters = list(network.parameters())
        sums = [torch.zeros(sum(part.numel() for part in parameters), dtype=torch.float64) for _ in TARGET_NAMES]
        squares, spread = [0.0] * len(TARGET_NAMES), [0.0] * len(TARGET_NAMES)
        count, size = self.settings.draws, self.settings.batch
        for _ in range(count):
            batch = self._batch(size, first, last)
            targets = self._targets(batch)
            answer = network(batch.x_t, batch.t)
            for index, target in enumerate(targets):
                loss = (answer - target).square().mean()
                parts = torch.autograd.grad(loss, parameters, retain_graph=True)
                gradient = torch.cat([part.flatten() for part in parts]).double().cpu()
                sums[index] += gradient
                squares[index] += float(gradient.square().sum())
                spread[index] += float((target - targets[-1]).square().mean()) / count
            self._advance()
        # of the mean of a batch, times its size: of a single query
        norms = [float((total / count).square().sum()) for total in sums]
        variances = [size * (square - count * norm) / (count - 1) for square, norm in zip(squares, norms, strict=True)]
        # the mean over the draws still has its own variance in its norm
        mean = max(0.0, norms[-1] - variances[-1] / (size * count))
        return TimeBin(first, last, PerTarget(*spread), PerTarget(*variances), mean)

    def _batch(self, count: int, first: float, last: float) -> _Batch:
        data, draws = self.engine.data, self.draws
        source = torch.randint(len(data), (count,), generator=draws).to(data.device)
        return _noised(data.sample_values(data.row_of(source)).float(), source, first, last, draws)

    def _targets(self, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three targets, and note how long they took."""
        asks: tuple[Callable[[], Tensor], ...] = (
            lambda: conditional_target(PATH, batch.x1, batch.eps, batch.t),
            lambda: self.efm(batch.x_t, batch.t, source=batch.source),
            lambda: self.oracle(batch.x_t, batch.t),
        )
        found = []
        for index, ask in enumerate(asks):
            began = self._now()
            found.append(ask())
            self.target_seconds[index].append(self._now() - began)
        return found[0], found[1], found[2]

    def _prepare_tests(self, held_out: Tensor) -> None:
        data = self.engine.data
        count = min(TEST_QUERIES, 4 * len(data)) // 2 * 2
        draws = torch.Generator().manual_seed(self.settings.seed + 1)
        # as many queries on either side of the boundary, which lies early
        source = torch.randint(len(data), (count,), generator=draws).to(data.device)
        x1 = data.sample_values(data.row_of(source)).float()
        half, edge = count // 2, min(self.boundary, LAST_TIME)
        early = _noised(x1[:half], source[:half], 0.0, edge, draws)
        late = _noised(x1[half:], source[half:], edge, LAST_TIME, draws)
        both = zip(*(vars(part).values() for part in (early, late)), strict=True)
        self.tests = _Batch(*(torch.cat(pair) for pair in both))
        parts = zip(self.tests.x_t.split(TEST_BATCH), self.tests.t.split(TEST_BATCH), strict=True)
        self.velocities = torch.cat([self.oracle(x, t) for x, t in parts])
        nobody = torch.full((len(held_out),), -1, device=data.device)
        self.unseen = _noised(held_out.float(), nobody, 0.0, LAST_TIME, draws)
        self.unseen_targets = conditional_target(PATH, self.unseen.x1, self.unseen.eps, self.unseen.t)

    def _checkpoint(self, step: int) -> Checkpoint:
        losses = {name: PerTarget(*errors.mean(1).tolist()) for name, errors in self._test_errors().items()}
        return Checkpoint(step, **losses)

    def _test_errors(self) -> dict[str, Float64[Tensor, "3 b"]]:
        """Return the losses of every network for every test query."""
        navigation, refinement = self._errors(self.tests, self.velocities).chunk(2, 1)
        held_out = self._errors(self.unseen, self.unseen_targets)
        return {"navigation": navigation, "refinement": refinement, "held_out": held_out}

    @torch.no_grad()
    def _errors(self, batch: _Batch, wanted: Tensor) -> Float64[Tensor, "3 B"]:
        """Return |model - wanted|^2 / D of every network for every query."""
        gaps = [(network(batch.x_t, batch.t) - wanted).flatten(1) for network in self.networks]
        return torch.stack([gap.double().square().mean(1) for gap in gaps])

    def _now(self) -> float:
        if self.engine.data.device.type != "cpu":
            torch.accelerator.synchronize(self.engine.data.device)
        return time.perf_counter()

    def _advance(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _noised(x1: Tensor, source: Tensor, first: float, last: float, draws: torch.Generator) -> _Batch:
    t = first + (last - first) * torch.rand(len(x1), generator=draws)
    eps = torch.randn(x1.shape, generator=draws)
    t, eps = t.to(x1.device), eps.to(x1.device)
    return _Batch(x1, eps, t, path_sample(PATH, x1, eps, t), source)


def _split(data: OracleDataset, seed: int) -> tuple[OracleDataset, Tensor]:
    """Return the data set without, and the values of, the samples that are held out."""
    if len(data) < 20:
        raise invalid("data", "must have at least 20 samples, of which some are held out", len(data), "name more")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.device)
    count = min(HELD_OUT, len(data) // 10)
    stored = data.rows.stored[order[count:]].reshape(-1, *data.sample_shape)
    kept = OracleDataset(stored, value_map=data.value_map, name=data.name)
    return kept, data.sample_values(order[:count])


def _difference(errors: Float64[Tensor, "3 B"]) -> Difference:
    # paired: the queries are the same
    gaps = errors[:1] - errors[1:]
    means, spread = gaps.mean(1).tolist(), (gaps.std(1) / math.sqrt(max(1, gaps.shape[1]))).tolist()
    return Difference(means[0], spread[0], means[1], spread[1])
