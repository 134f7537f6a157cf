"""Class-conditional velocities, unions of classes, guidance in an interval, and one sample left out."""

import torch

import oracle_engine as oe
from oracle_engine import samplers

torch.manual_seed(0)
data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
x, t = torch.randn(4, 1, 8, 8), 0.4

each = engine.velocity(x, t, labels=torch.tensor([3, 3, 8, -1]))  # -1: any class
union = engine.velocity(x, t, labels=torch.tensor([[3, 8]] * 4))  # a 3 or an 8
without = engine.velocity(x, t, exclude=17)  # as if sample 17 were not there
print(f"a class moves v by {(each[0] - union[0]).norm():.3f}, sample 17 by {(without - engine(x, t)).norm():.1e}")

noise = samplers.initial_noise(engine, 10)
run = samplers.sample(
    engine, noise, samplers.sampling_times(20), labels=torch.arange(10), guidance=oe.Guidance(2.0, 0.2, 0.8)
)
nearest = torch.cdist(run.x.flatten(1), data[:].flatten(1)).argmin(dim=1)
assert data.labels is not None
print("asked for", list(range(10)), "and got", data.labels[nearest].tolist())
