"""Late in t few samples matter: a prepared engine finds them, and proves what it left out."""

import torch

import oracle_engine as oe

torch.manual_seed(0)
data = oe.load_dataset("patches", count=2000)
engine = oe.OracleEngine(data, tolerance=1e-4).prepare("pca")
print(engine.plan(batch=16))

source = torch.randint(len(data), (16,))
t = torch.linspace(0.5, 0.99, 16)
x = oe.path_sample(engine.path, data[source], torch.randn(16, 3, 32, 32), t)
p = engine.posterior(x, t, source=source)
for time, route, survivors, error in zip(t, p.route, p.survivors, p.velocity_error, strict=True):
    print(f"t = {time:.2f}  {route:6}  scored {survivors:5}  velocity off by at most {error:.1e}")
