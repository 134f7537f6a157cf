"""Two processes train one network on oracle targets over data that they hold together: torchrun, DDP and oe.sharded."""

import os
import subprocess
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import oracle_engine as oe

STEPS, BATCH = 40, 64


class Net(nn.Module):
    """A small network that returns a velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at x and t."""
        out: Tensor = self.layers(torch.cat([x.flatten(1), t[:, None]], dim=1))
        return out.reshape_as(x)


def train() -> None:
    """Train, as each of the processes that torchrun started."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    data = oe.load_dataset("digits")
    engine = oe.sharded(
        data, queries="own"
    )  # each process holds half of the samples, and asks about a batch of its own
    target = oe.OracleTarget(engine)
    torch.manual_seed(rank)
    net = DistributedDataParallel(Net())
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(STEPS):
        source = torch.randint(len(data), (BATCH,))
        x1, eps, t = data[source], torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH) * 0.98
        x_t = oe.path_sample(engine.path, x1, eps, t)
        loss = (net(x_t, t) - target(x_t, t, source=source)).square().mean()
        optimiser.zero_grad()
        loss.backward()  # DDP averages the gradients of both
        optimiser.step()
        losses.append(float(loss.detach()))
    weights = [torch.zeros(64) for _ in range(dist.get_world_size())]
    dist.all_gather(weights, net.module.layers[2].bias.detach())
    if rank == 0:
        print(
            f"{dist.get_world_size()} processes, loss {losses[0]:.3f} at first and {losses[-1]:.3f} after {STEPS} steps"
        )
        print("all have the same network:", all(torch.equal(weights[0], other) for other in weights))
    dist.destroy_process_group()


if "RANK" in os.environ:
    train()
else:
    # in a shell: torchrun --nproc-per-node 2 examples/10_sharded_training.py
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="")
