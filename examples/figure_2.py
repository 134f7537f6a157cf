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
# # Figure 2 on your data
#
# When do many samples share the posterior, and when has one of them it all? Needs the extra `demo` for the digits,
# matplotlib for the figures. Name your own data: a tensor, an array, `"pictures.npy"`, a folder.

# %%
import oracle_engine as oe

data = oe.load_dataset("digits")
engine = oe.OracleEngine(data)
data

# %% [markdown]
# The transition is predicted from the spectrum of the data, before any query is asked.

# %%
print(f"navigation ends near t = {oe.stage_boundary(engine):.3f}")

# %% [markdown]
# Then it is measured: training queries at times around it, each answered by all samples. More queries give smaller
# errors.

# %%
report = oe.analyse(engine, queries=64)
print(report)

# %% [markdown]
# Top-1 weight, effective sample size and the variance V(t) of the conditional target, as in the paper.

# %%
figure = report.figure("paper")
figure

# %% [markdown]
# The same digits with values in [0, 1] in place of [-1, 1] are half as far apart, and have their transition later.

# %%
halved = oe.OracleEngine(oe.load_dataset("digits", value_map=(0, 1)))
print(f"in [0, 1] navigation ends near t = {oe.stage_boundary(halved):.3f}")

# %% [markdown]
# On the command line: `oracle-engine stages --data digits` writes the table, `stages.json` and a figure;
# `oracle-engine paper all --quick` draws the other figures of the paper.
