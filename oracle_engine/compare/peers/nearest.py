"""Posterior means over the k nearest samples of x / alpha, which FAISS finds, weighted by a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..workloads import Batch
from .centred import Centred, UnavailableError

# neighbours of each query
NEIGHBOURS = 100

# cells of the inverted file, and limits of its clustering, which is not timed and hardly changes the recall
CELLS, ROUNDS, POINTS_PER_CELL = 1024, 8, 40

# cells searched for each query
PROBES = (16, 64)

# links of a node of the graph, and nodes that are kept open in a search
LINKS, OPEN = 32, 128

# values of the samples from which on a graph takes many minutes to build
MOST_LINKED = 200_000_000

# gathered values held at once
GATHERED_VALUES = 1 << 24

FLAT, IVF, HNSW = "faiss-flat", "faiss-ivf", "faiss-hnsw"


def peer_names() -> list[str]:
    """Return the names of the sides of :func:`faiss_peers`."""
    return [FLAT, *(f"{IVF}{CELLS}-{probes}" for probes in PROBES)]


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
        step = max(1, GATHERED_VALUES // (place.shape[1] * x.shape[1]))
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
        distances, place = self.index.search(point.numpy(), min(NEIGHBOURS, len(self.data.samples)))
        found = torch.from_numpy(place)
        return torch.where(found < 0, torch.inf, torch.from_numpy(distances)), found


def faiss_peers(data: Centred, kept: Path | None, name: str) -> dict[str, NearestPeer]:
    """Return the flat index and an inverted file; none without FAISS. kept: a folder for the inverted file `name`."""
    try:
        flat = nearest_peer(FLAT, data)
    except UnavailableError:
        return {}
    inverted = _inverted(data, CELLS, None if kept is None else kept / f"{name}-ivf{CELLS}.faiss")
    sides = zip(peer_names()[1:], PROBES, strict=True)
    return {FLAT: flat} | {side: NearestPeer(data, inverted, n) for side, n in sides}


def nearest_peer(kind: str, data: Centred) -> NearestPeer:
    """Return the peer of one kind of index, FLAT, IVF or HNSW, built now.

    Raises UnavailableError without FAISS, off the CPU, and where the index would take many minutes.
    """
    if data.samples.device.type != "cpu":
        raise UnavailableError("these indexes are on the CPU")
    faiss = _faiss()
    faiss.omp_set_num_threads(torch.get_num_threads())
    count, dim = data.samples.shape
    if kind == IVF:
        cells = max(1, min(CELLS, count // POINTS_PER_CELL))
        return NearestPeer(data, _inverted(data, cells, None), min(cells, PROBES[0]))
    if kind == HNSW and data.samples.numel() > MOST_LINKED:
        raise UnavailableError(f"a graph over {count:,} x {dim:,} values takes many minutes to build")
    index = faiss.IndexHNSWFlat(dim, LINKS) if kind == HNSW else faiss.IndexFlatL2(dim)
    if kind == HNSW:
        index.hnsw.efSearch = max(OPEN, NEIGHBOURS)
    index.add(data.samples.numpy())
    return NearestPeer(data, index, None)


def _inverted(data: Centred, cells: int, file: Path | None) -> Any:
    """Return the inverted file over the samples, from `file` where it has been built before."""
    faiss = _faiss()
    if file is not None and file.exists():
        return faiss.read_index(str(file))
    index = faiss.index_factory(data.samples.shape[1], f"IVF{cells},Flat")
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, POINTS_PER_CELL
    # few points for each cell are meant
    index.cp.min_points_per_centroid = 1
    index.train(data.samples.numpy())
    index.add(data.samples.numpy())
    if file is not None:
        faiss.write_index(index, str(file))
    return index


def _faiss() -> Any:
    """Import FAISS. Raises UnavailableError without it."""
    try:
        import faiss
    except ImportError as error:
        raise UnavailableError("faiss-cpu is not installed") from error
    return faiss
