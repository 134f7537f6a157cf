"""The data set of a packed folder: nothing is computed, and next to nothing is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ...base.arrays import Float64, Int64, Tensor
from ...base.errors import bad_file
from ...base.files import hash_tensors
from ...base.outside.rows import OutsideRows
from ...kernels import Rows
from ..checks import in_order
from ..dataset import OracleDataset
from ..formats import shard_files
from ..labels import by_label, checked_labels
from ..samples import stays_in_files
from ..values import ValueMap
from .manifest import Manifest
from .pack import check_present, opened
from .shard_sides import ShardSide, centre_sum, changed_since, check_sample


class PackedFolder:
    """A folder that was packed, whose shards are those that were packed as far as sizes, times and a sample tell.

    folder, manifest: where and what it is. sides: what is kept about each shard. rows: the samples, [N, D].
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the folder; raises DataFileError, which names the file, for a shard that is missing, changed or new."""
        self.folder, self.manifest = folder, manifest
        check_present(folder, manifest)
        known = {record.name for record in manifest.shards}
        new = next((file for file in shard_files(folder) if file.name not in known), None)
        if new is not None or not known:
            remedy = "run `oracle-engine pack` on the folder again, which reads only what is new"
            raise bad_file(new or folder, "shards that were packed", "one that was not", remedy)
        self.parts = [opened(folder, record) for record in manifest.shards]
        self.centre, dim = centre_sum(manifest.centre_point()), torch.Size(manifest.shape).numel()
        self.rows = OutsideRows.of(self.parts, manifest.dtype, [dim])
        with ThreadPoolExecutor() as pool:
            self.sides = list(pool.map(self._side, range(len(self.parts))))

    def dataset(
        self, labels: Int64[Tensor, "N"] | None, weights: Float64[Tensor, "N"] | None, value_map: ValueMap | None
    ) -> OracleDataset:
        """Return the data set. labels, weights: [N], in place of those of the shards, or None. value_map: or None."""
        manifest, own = self.manifest, labels is None
        held = self._labels() if labels is None else checked_labels(labels, len(self.rows), self.rows.device)
        order, sorted_labels = by_label(held)
        half_norms = torch.cat([side.measures.half_norms for side in self.sides])
        if order is not None:
            half_norms, weights = half_norms[order], None if weights is None else weights[order]
        rows = Rows(
            stored=self._stored(order),
            centre=manifest.centre_point(),
            half_norms=half_norms,
            log_weights=None if weights is None else (weights / weights.sum()).log(),
            radius=manifest.radius,
            stored_radius=manifest.stored_radius,
            copies=manifest.copies,
        )
        rows.derived("range", lambda _: (manifest.low, manifest.high))
        rows.derived("total", lambda _: torch.stack([side.measures.total for side in self.sides]).sum(0))
        chosen = value_map or ValueMap.default(manifest.dtype)
        rest = {"order": order, "sorted_labels": sorted_labels}
        name, shape = self.folder.resolve().stem, manifest.shape
        data = OracleDataset._of_rows(rows, name=name, sample_shape=shape, value_map=chosen, rest=rest)
        if own and weights is None:
            facts = (shape, manifest.storage, chosen, [record.digest for record in manifest.shards])
            data.__dict__["fingerprint"] = hash_tensors(repr(facts), [])
        return data

    def _stored(self, order: Int64[Tensor, "N"] | None) -> Tensor:
        """Return the rows of all shards in this order: those of large files stay there."""
        if not stays_in_files(self.rows.nbytes):
            return self.rows.clone() if order is None else in_order(self.rows.clone(), order)
        if order is None and len(self.parts) == 1:
            return self.rows.map(0)
        return self.rows if order is None else self.rows.ordered(order)

    def _labels(self) -> Int64[Tensor, "N"] | None:
        parts = [side.labels for side in self.sides if side.labels is not None]
        return torch.cat(parts) if parts else None

    def _side(self, number: int) -> ShardSide:
        """Return what is kept about a shard."""
        side, record = ShardSide.read(self.parts[number], whole=False), self.manifest.shards[number]
        if (side.digest, side.centre) != (record.digest, self.centre):
            raise changed_since(side.part)
        check_sample(side, OutsideRows.of([side.part], self.rows.dtype, self.rows.shape[1:]))
        return side
