"""Sampling: the oracle navigates, a model refines; and a full-oracle run, which ends on samples of the data."""

import torch

import oracle_engine as oe
from oracle_engine import samplers

torch.manual_seed(0)
data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
smooth = oe.OracleEngine(data, point_std=0.3)  # stands for your model: callables (x, t) -> velocity will do

x = samplers.initial_noise(engine, 16)
times = samplers.sampling_times(40, shift=0.5)  # below 1: more steps in the noise
boundary = oe.stage_boundary(engine)
for name, field in (("oracle", engine), ("oracle, then model", samplers.Switch(engine, smooth, boundary))):
    run = samplers.sample(field, x, times, method="heun")
    nearest = torch.cdist(run.x.flatten(1), data[:].flatten(1)).min(dim=1).values
    print(f"{name}: distance to the nearest sample {nearest.mean():.3f}")
