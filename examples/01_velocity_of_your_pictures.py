"""The velocity of your own pictures: a tensor in, velocities and the samples behind them out."""

import torch
from sklearn.datasets import load_digits

import oracle_engine as oe

# any [N, ...] tensor or array will do, and so will a file or a folder: oe.load_dataset("pictures.npy")
pictures = torch.from_numpy(load_digits().images).mul(255 / 16).to(torch.uint8)[:, None]
data = oe.OracleDataset(pictures)  # uint8 means values in [-1, 1]
print(data)

engine = oe.OracleEngine(data)
print(engine.plan(batch=8))

t = torch.linspace(0.05, 0.95, 8)  # every query has its own time
x = oe.path_sample(engine.path, data[:8], torch.randn(8, 1, 8, 8), t)
velocity = engine(x, t)
posterior = engine.posterior(x, t, top_k=1)
for time, speed, ess, weight in zip(
    t, velocity.flatten(1).norm(dim=1), posterior.ess, posterior.top_weights[:, 0], strict=True
):
    print(f"t = {time:.2f}  |v| = {speed:6.2f}  samples that count: {ess:7.1f}  the heaviest has {weight:.3f}")
