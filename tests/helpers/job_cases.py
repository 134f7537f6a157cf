"""A small job for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from closed_form import clusters, normal

import oracle_engine as oe
from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.jobs.folder import JobFolder
from oracle_engine.jobs.spec import Spec, Unit
from oracle_engine.jobs.units import Units
from oracle_engine.jobs.work import Worker
from oracle_engine.queries.stored import Queries

COUNT, DIM, CLASSES, BATCH, BLOCK, SHARDS = 150, 12, 5, 40, 16, 8


def make_data() -> OracleDataset:
    """Return weighted samples of classes in no order, a few without one."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    return OracleDataset(clusters(COUNT, DIM, generator), labels, weights)


def make_queries(data: OracleDataset, *, labelled: bool) -> Queries:
    """Return queries made from the first samples at early and late times, perhaps with their classes."""
    generator = torch.Generator().manual_seed(6)
    t = torch.linspace(0.02, 0.97, BATCH, dtype=torch.float64)
    x = oe.path_sample("rectified_flow", data[:BATCH].double(), normal(BATCH, DIM, generator), t)
    assert data.labels is not None
    return Queries(x, t, data.labels[:BATCH, None] if labelled else None)


def make_spec(queries: Queries, **parts: object) -> Spec:
    """Return what a small job is, with `parts` of it replaced."""
    spec = Spec(
        what="velocity",
        data="data",
        x="x",
        t="t",
        labels="labels",
        path="rectified_flow",
        t_max=None,
        guidance=None,
        backend="native",
        device="cpu",
        batch=BLOCK,
        shards=SHARDS,
        threads=1,
        version="0",
        shape=list(queries.x.shape),
        dtype="float64",
        suffix=".npy",
        source="in.npy",
    )
    return replace(spec, **parts)  # type: ignore[arg-type]


@dataclass
class Job:
    """A job in `folder` over data and queries; `log` has a letter for each unit that was begun."""

    folder: JobFolder
    units: Units
    log: Path

    @classmethod
    def begin(cls, path: Path, *, labelled: bool = True, **parts: object) -> Job:
        """Begin a job in a new folder with the parts of its spec that are given."""
        data = make_data()
        queries = make_queries(data, labelled=labelled)
        spec = make_spec(queries, **parts)
        log = path.with_suffix(".log")
        units = _Logged(OracleEngine(data), queries, spec, log)
        return cls(JobFolder.begin(path, spec), units, log)

    def work(self, first: int = 0) -> None:
        """Work in this process until everything is answered."""
        Worker(self.folder, self.units, first=first).work()

    def answers(self) -> list[torch.Tensor]:
        """Return the answers of all blocks."""
        found = [self.folder.answer(block) for block in range(self.folder.spec.blocks)]
        assert all(answer is not None for answer in found)
        return [answer.clone() for answer in found if answer is not None]

    def begun(self) -> int:
        """Return how many units were begun by all workers."""
        return len(self.log.read_bytes()) if self.log.exists() else 0


class _Logged(Units):
    def __init__(self, engine: OracleEngine, queries: Queries, spec: Spec, log: Path) -> None:
        super().__init__(engine, queries, spec)
        self._log = log

    def state(self, unit: Unit) -> dict[str, torch.Tensor]:
        with self._log.open("ab") as log:
            log.write(b".")
        return super().state(unit)
