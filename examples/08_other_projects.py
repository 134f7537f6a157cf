"""One oracle in the call shapes of other projects: REPA, SiT, diffusers, EDM, torchdiffeq."""

import torch

import oracle_engine as oe
from oracle_engine import adapters

torch.manual_seed(0)
data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
x, y, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), torch.full((4,), 0.4)

ours = engine.velocity(x, t, labels=y)
sit = adapters.VelocityModel(engine, "sit")(x, t, y=y)  # t = 1 is data: the same
repa, _ = adapters.VelocityModel(engine, "repa")(x, 1 - t, y=y)  # s = 0 is data: the other sign
flux = adapters.DiffusersTransformer(engine)(hidden_states=x, timestep=1000 * (1 - t)).sample
func = adapters.ODEFunction(engine)(t[0], x)  # func(t, x) of torchdiffeq
print(f"sit {(sit - ours).norm():.1e}, repa {(repa + ours).norm():.1e}, flux {(flux + engine(x, t)).norm():.1e}")
print(f"torchdiffeq {(func - engine(x, t)).norm():.1e}")

D = adapters.EDMDenoiser(oe.OracleEngine(data, path="edm"))
print(f"EDM: at sigma = 80 the denoiser is the mean picture, {(D(80 * x, 80.0) - data[:].mean(0)).norm():.2f} away")
