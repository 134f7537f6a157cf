"""What engines over shards are asked in tests, and all that they answer."""

from __future__ import annotations

from typing import Any

import torch
from closed_form import clusters, normal
from torch import Tensor

import oracle_engine as oe
from oracle_engine import OracleDataset, OracleEngine

# what was asked and which part of the answer, and the answer
Answers = dict[tuple[str, str], Tensor]

COUNT, DIM, CLASSES, BATCH = 200, 12, 9, 36

STATISTICS = ("log_density", "ess", "entropy", "variance", "top_weights")


def make_data() -> OracleDataset:
    """Return weighted samples of classes in no order, a few without one."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    return OracleDataset(clusters(COUNT, DIM, generator), labels, weights)


def make_queries(data: OracleDataset) -> tuple[Tensor, Tensor]:
    """Return queries made from the first samples at early and late times."""
    generator = torch.Generator().manual_seed(6)
    t = torch.linspace(0.02, 0.97, BATCH, dtype=torch.float64)
    return oe.path_sample("rectified_flow", data[:BATCH].double(), normal(BATCH, DIM, generator), t), t


def questions(data: OracleDataset) -> dict[str, dict[str, Any]]:
    """Return the conditions under which queries are asked."""
    assert data.labels is not None
    own = data.labels[:BATCH]
    unions = torch.stack([own, torch.where(own == 0, -1, 0)], dim=1)
    return {
        "everything": {},
        "classes": {"labels": own},
        "unions": {"labels": unions},
        "without their samples": {"exclude": torch.arange(BATCH)},
        "without their samples in classes": {"labels": own.clamp_min(0), "exclude": torch.arange(BATCH)},
        "with sources": {"source": torch.arange(BATCH)},
        "guided": {"labels": own, "guidance": oe.Guidance(2.0, t_min=0.2, t_max=0.8)},
    }


def answers(engine: OracleEngine, data: OracleDataset) -> Answers:
    """Return what an engine over `data` answers to all questions."""
    x, t = make_queries(data)
    assert data.labels is not None
    found: Answers = {}
    for name, asked in questions(data).items():
        found[name, "velocity"] = engine.velocity(x, t, **asked)
        if "guidance" not in asked:
            posterior = engine.posterior(x, t, top_k=4, **asked)
            for part in (*STATISTICS, "top_indices", "survivors"):
                found[name, part] = getattr(posterior, part)
    for name in ("denoiser", "score", "noise", "log_density"):
        leaf = x.clone().requires_grad_()
        value = getattr(engine, name)(leaf, t, labels=data.labels[:BATCH], exclude=torch.arange(BATCH))
        value.square().sum().backward()
        assert leaf.grad is not None
        found[name, "value"], found[name, "gradient"] = value.detach(), leaf.grad
    return found
