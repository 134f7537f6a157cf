"""Small models that are trained on the spot, so that every figure runs without a model of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...base.progress import Progress
from ...base.seeds import seeded
from ...engine.engine import OracleEngine
from ...training.conditional import conditional_target, path_sample
from ..demo.batches import LAST_TIME
from ..demo.velocity_net import LEARNING_RATE, VelocityNet
from .fig8 import Checkpoint
from .models import VelocityFunction

# queries of a step
BATCH = 128


def trained(
    engine: OracleEngine,
    *,
    width: int,
    steps: int,
    stops: Sequence[float] = (0.05, 0.25, 1.0),
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Checkpoint]:
    """Return checkpoints of a small network trained on the conditional target over the data of the engine.

    engine: along whose path it trains, unconditionally. width: hidden units. steps: of Adam, at batches of 128.
    stops: parts of the training after which a checkpoint is kept. seed: of the network and the batches.
    progress: called after each step. The global generator of torch is left as it was.
    """
    data, draws = engine.data, seeded(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VelocityNet(data.dim, width).to(data.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    kept, wanted = [], {max(1, round(steps * part)) for part in stops}
    for step in range(1, steps + 1):
        source = torch.randint(len(data), (BATCH,), generator=draws).to(data.device)
        x1 = data.sample_values(data.row_of(source)).float()
        eps = torch.randn(x1.shape, generator=draws).to(x1.device)
        t = (LAST_TIME * torch.rand(BATCH, generator=draws)).to(x1.device)
        target = conditional_target(engine.path, x1, eps, t)
        optimiser.zero_grad()
        (network(path_sample(engine.path, x1, eps, t), t) - target).square().mean().backward()
        optimiser.step()
        schedule.step()
        if step in wanted:
            kept.append(Checkpoint(step, _frozen(network)))
        if progress is not None:
            progress(step, steps)
    return kept


def _frozen(network: VelocityNet) -> VelocityFunction:
    """Return the network as it is now; further training leaves it alone."""
    import copy

    kept = copy.deepcopy(network).eval().requires_grad_(False)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the velocity of queries x [B, *shape] at t [B]."""
        return kept(x.float(), t.float()).to(x.dtype)  # type: ignore[no-any-return]

    return velocity
