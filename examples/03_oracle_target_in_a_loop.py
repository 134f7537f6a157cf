"""A training loop in which the oracle takes the place of the conditional target."""

import torch
from torch import Tensor, nn

import oracle_engine as oe

torch.manual_seed(0)
data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
target = oe.OracleTarget(engine)

net = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))
optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)


def model(x: Tensor, t: Tensor) -> Tensor:
    """Return the velocity of the network."""
    out: Tensor = net(torch.cat([x.flatten(1), t[:, None]], dim=1))
    return out.reshape_as(x)


first = last = 0.0
for step in range(200):
    source = torch.randint(len(data), (64,))
    x1, eps, t = data[source], torch.randn(64, 1, 8, 8), torch.rand(64) * 0.98
    x_t = oe.path_sample(engine.path, x1, eps, t)
    u = target(x_t, t, source=source)  # in place of oe.conditional_target(engine.path, x1, eps, t)
    loss = (model(x_t, t) - u).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    last = float(loss.detach())
    first = last if step == 0 else first
print(f"loss against the oracle: {first:.3f} at first, {last:.3f} after 200 steps")
