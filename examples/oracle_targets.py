# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
# ---

# %% [markdown]
# # Oracle targets in a training loop
#
# The same network, data, noise and steps, once with the conditional target and once with the oracle in its place.
# Needs the extra `demo`.

# %%
import torch
from torch import nn

import oracle_engine as oe

data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
target = oe.OracleTarget(engine)

# %% [markdown]
# The network is as small as the digits. `target(x_t, t)` is a tensor like `x_t`: whatever computes a loss from the
# conditional target takes it.

# %%
STEPS, BATCH = 100, 64


def model(net, x, t):
    """Return the velocity of the network."""
    return net(torch.cat([x.flatten(1), t[:, None]], dim=1)).reshape_as(x)


def train(oracle):
    """Return the trained network and its losses."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=2e-3), []
    for _ in range(STEPS):
        source = torch.randint(len(data), (BATCH,))
        x1, eps, t = data[source], torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH) * 0.98
        x_t = oe.path_sample(engine.path, x1, eps, t)
        u = target(x_t, t, source=source) if oracle else oe.conditional_target(engine.path, x1, eps, t)
        loss = (model(net, x_t, t) - u).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return net, losses


conditional, conditional_losses = train(oracle=False)
exact, exact_losses = train(oracle=True)
print(f"last losses: {conditional_losses[-1]:.3f} conditional, {exact_losses[-1]:.3f} oracle")

# %% [markdown]
# The loss of conditional flow matching is larger by a part that no network can learn, V(t). Both networks are
# measured by the part that one can: the distance to the oracle, before the transition and after it.

# %%
source = torch.randint(len(data), (512,), generator=torch.Generator().manual_seed(1))
for name, net in (("conditional", conditional), ("oracle", exact)):
    with torch.no_grad():
        found = oe.oracle_loss(lambda x, t, net=net: model(net, x, t), target, data[source], source=source)
    for part in found.terms.stages(oe.stage_boundary(engine)):
        print(f"{name:11} {part.name:10}  to learn {part.oracle:.3f}, V(t) {part.variance:.3f}")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 2.5))
axes.plot(conditional_losses, label="conditional target")
axes.plot(exact_losses, label="oracle target")
axes.set_xlabel("step")
axes.set_ylabel("loss")
axes.legend(frameon=False)
figure

# %% [markdown]
# `oracle-engine train-demo` does this with more care: three targets from one seed, losses and gradients along t.
