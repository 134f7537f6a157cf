# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An oracle behind a server
#
# In a shell: `oracle-engine serve --data digits`. This notebook needs the extra `serve` and matplotlib, and none of
# the data.

# %%
import torch

from oracle_engine import samplers
from oracle_engine.serving import RemoteOracle

oracle = RemoteOracle("http://127.0.0.1:8000")
oracle

# %% [markdown]
# Who could a picture of noise become? Early nearly everybody, late one sample.

# %%
torch.manual_seed(0)
noise = torch.randn(1, *oracle.data.sample_shape)
for t in (0.0, 0.3, 0.6, 0.9):
    p = oracle.posterior((1 - t) * noise, t, top_k=3)
    heaviest = int(p.top_indices[0, 0])
    print(f"t = {t}: {float(p.ess):8.1f} samples count, most of all {heaviest}; route {p.route[0]}")

# %% [markdown]
# A run of the oracle, a request a step for all pictures together.

# %%
labels = torch.arange(16) % 10
x = samplers.initial_noise(oracle, 16)
run = samplers.sample(oracle, x, samplers.sampling_times(20), labels=labels, guidance=1.5)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 8, figsize=(8, 2))
for axis, picture in zip(axes.flat, run.x[:, 0], strict=True):
    axis.imshow(picture.numpy(), cmap="gray")
    axis.axis("off")

# %% [markdown]
# What cannot be asked is refused in the words of the server.

# %%
try:
    oracle.velocity(noise, 0.5, labels=12)
except ValueError as error:
    print(error)
