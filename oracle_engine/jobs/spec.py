"""What a job is: all that its answers depend on, as job.json holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch

from ..base.files import hash_tensors

# shards of a job at most, unless somebody asks for more, and samples of each at least: a state is written for each,
# which takes as long as the scan of some thousand samples
USUAL_SHARDS, LEAST_SAMPLES = 16, 1 << 15


def shard_count(samples: int) -> int:
    """Return into how many shards the data of a job are dealt where nobody says: a power of two.

    samples: how many there are.
    """
    return min(USUAL_SHARDS, 1 << max(0, (samples // LEAST_SAMPLES).bit_length() - 1))


@dataclass(frozen=True)
class Unit:
    """The scan of one shard for one block of queries, by their numbers."""

    block: int
    shard: int


@dataclass(frozen=True)
class Spec:
    """What a job is begun with.

    what: velocity, denoiser, score, noise or log_density. data: fingerprint of the samples. x, t, labels: digests of
    the queries, their times and classes. path, t_max, backend: of the engine. device: its type. guidance: scale, or
    None. batch: queries of a block. shards: into which the samples are dealt. threads: of a unit, since sums depend on
    how they are shared. version: of this package. shape, dtype: of all answers, [B, ...]. suffix: of their file.
    source: the file of the queries, for those who look into the folder.
    """

    what: str
    data: str
    x: str
    t: str
    labels: str
    path: str
    t_max: float | None
    guidance: float | None
    backend: str
    device: str
    batch: int
    shards: int
    threads: int
    version: str
    shape: list[int]
    dtype: str
    suffix: str
    source: str

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Spec:
        """Return what :meth:`facts` returned. Raises KeyError where something is missing."""
        return cls(**{field.name: facts[field.name] for field in fields(cls)})

    def facts(self) -> dict[str, Any]:
        """Return the parts by name, as values that json can write."""
        return asdict(self)

    @property
    def blocks(self) -> int:
        """How many blocks of queries there are."""
        return -(-self.shape[0] // self.batch)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the answers."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @cached_property
    def digest(self) -> str:
        """A hash that no other job has, which is written into each of its files."""
        return hash_tensors(repr(self.facts()), [])

    def units(self, block: int) -> Iterator[Unit]:
        """Yield the units of a block, in the order of the shards."""
        for shard in range(self.shards):
            yield Unit(block, shard)

    def difference(self, wished: Spec) -> str | None:
        """Return the name of the first part that is another in `wished`, or None where both give the same answers."""
        names = [field.name for field in fields(self) if field.name not in ("source", "suffix")]
        return next((name for name in names if getattr(self, name) != getattr(wished, name)), None)
