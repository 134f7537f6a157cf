"""Posterior means over the k nearest samples of x / alpha, which FAISS finds, weighted by a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..workloads import Batch
from .centred import Centred

# neighbours of each query
NEIGHBOURS = 100

# cells of the inverted file, and limits of its clustering, which is not timed and hardly changes the recall
CELLS, ROUNDS, POINTS_PER_CELL = 1024, 8, 40

# cells searched for each query
PROBES = (16, 64)

# gathered values held at once
GATHERED_VALUES = 1 << 24

FLAT = "faiss-flat"


def peer_names() -> list[str]:
    """Return the names of all sides that use FAISS."""
    return [FLAT, *(f"faiss-ivf{CELLS}-{probes}" for probes in PROBES)]


@dataclass(frozen=True)
class NearestPeer:
    """Posterior means over the NEIGHBOURS nearest samples that a FAISS index finds.

    probes: cells of an inverted file to search; None for an index without cells.
    """

    data: Centred
    index: Any
    probes: int | None

    def velocity(self, batch: Batch) -> Tensor:
        """Return the velocity [B, D]."""
        x, time = batch.x.flatten(1), batch.times[:, None].float()
        distances, place = self.nearest(batch)
        logits = distances * (-0.5 * (time / (1 - time)).square())
        weights = logits.softmax(1)
        mean = torch.empty_like(x)
        step = max(1, GATHERED_VALUES // (NEIGHBOURS * x.shape[1]))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            # an inverted file may find fewer: the missing ones have weight zero
            gathered = self.data.samples[place[part].clamp_min(0)]
            mean[part] = torch.bmm(weights[part][:, None], gathered)[:, 0]
        mean += self.data.mean
        return mean - (x - time * mean) / (1 - time)

    def nearest(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return squared distances and indices of the nearest samples, [B, k]; infinite, -1 where there are fewer."""
        point = batch.x.flatten(1) / batch.times[:, None].float() - self.data.mean
        if self.probes is not None:
            self.index.nprobe = self.probes
        distances, place = self.index.search(point.numpy(), NEIGHBOURS)
        found = torch.from_numpy(place)
        return torch.where(found < 0, torch.inf, torch.from_numpy(distances)), found


def faiss_peers(data: Centred, kept: Path | None, name: str) -> dict[str, NearestPeer]:
    """Return the sides of FAISS by name; none without it. kept: a folder where the clustered index is kept."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatL2(data.samples.shape[1])
    flat.add(data.samples.numpy())
    inverted = _inverted(faiss, data, None if kept is None else kept / f"{name}-ivf{CELLS}.faiss")
    sides = zip(peer_names()[1:], PROBES, strict=True)
    return {FLAT: NearestPeer(data, flat, None)} | {side: NearestPeer(data, inverted, n) for side, n in sides}


def _inverted(faiss: Any, data: Centred, file: Path | None) -> Any:
    if file is not None and file.exists():
        return faiss.read_index(str(file))
    index = faiss.index_factory(data.samples.shape[1], f"IVF{CELLS},Flat")
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, POINTS_PER_CELL
    index.train(data.samples.numpy())
    index.add(data.samples.numpy())
    if file is not None:
        faiss.write_index(index, str(file))
    return index
