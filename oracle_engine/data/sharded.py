"""ShardedDataset: a data set of which every process holds a part, with what all of them need to know of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from ..base.arrays import Float64, Int64, Shaped, Tensor
from ..base.errors import InputError, OracleError, invalid
from ..base.files import hash_tensors
from ..base.group.ranks import Asked, Ranks, digest_of, number_of, share_of
from ..base.outside.rows import OutsideRows
from ..kernels import Rows
from .checks import BLOCK_VALUES
from .dataset import OracleDataset
from .deal import Deal

# shards that up to as many ranks hold, merged in one order whatever their number
SHARDS = 16


class ShardedDataset(OracleDataset):
    """The whole of a data set, whose samples are dealt to the ranks of a group; see :func:`oracle_engine.sharded`.

    Attributes beside those of OracleDataset: ranks, the processes; deal, which shard holds which rows; shards, those
    held here, by number, as data sets; own_queries, whether each rank asks for queries of its own; facts, numbers that
    differ where the whole data or the options do. Every rank holds the labels of all samples, their order and their
    weights, 8 bytes a sample each, where there are any. `rows` holds what is known of all rows and no row.
    Values of samples, the fingerprint, variance and range are collectives: all ranks ask for them, or none.
    """

    ranks: Ranks
    deal: Deal
    shards: Mapping[int, OracleDataset]
    own_queries: bool
    facts: list[int]

    @classmethod
    def deal_out(cls, whole: OracleDataset, ranks: Ranks, *, own_queries: bool, deterministic: bool) -> ShardedDataset:
        """Return the part of `whole`, the same prepared data set on all ranks, that this rank holds.

        own_queries: whether each rank will ask for queries of its own. deterministic: whether the samples are dealt to
        a fixed number of shards. Samples without labels are shared with `whole`, not copied. Raises InputError where
        the ranks have different data.
        """
        options = f"queries={own_queries}, deterministic={deterministic}"
        facts = facts_of(whole, options)
        ranks.compare("the engine", facts)
        shards = fixed_shards(ranks.size) if deterministic else ranks.size
        deal = Deal.of(len(whole), whole.sorted_labels, shards)
        held = {number: cut(whole, deal, number) for number in _numbers(ranks, shards)}
        self = cls._holding(whole, ranks, deal, {number: shard for number, shard in held.items() if shard is not None})
        self.own_queries, self.facts = own_queries, [one.value for one in facts]
        return self

    @classmethod
    def _holding(
        cls, whole: OracleDataset, ranks: Ranks, deal: Deal, shards: Mapping[int, OracleDataset]
    ) -> ShardedDataset:
        """Return `whole` with what all need to know of it, of which this rank holds some `shards` of `deal`."""
        rest = {"order": whole.order, "sorted_labels": whole.sorted_labels}
        self = cls._of_rows(
            _without_samples(whole.rows),
            name=whole.name,
            sample_shape=whole.sample_shape,
            value_map=whole.value_map,
            rest=rest,
        )
        assert isinstance(self, ShardedDataset)
        self.ranks, self.deal, self.shards, self.own_queries = ranks, deal, shards, False
        self.class_names = whole.class_names
        return self

    @property
    def device(self) -> torch.device:
        """The device that holds the samples of this rank."""
        return self.rows.centre.device

    def check_unchanged(self) -> None:
        """Raise InputError where samples that are held here were changed in place."""
        for shard in self.shards.values():
            shard.check_unchanged()

    def __repr__(self) -> str:
        classes = "" if self.sorted_labels is None else f", {len(self.segments)} classes"
        what = f"{len(self):,} x {list(self.sample_shape)} {self.value_map.describe(self.storage)}{classes}"
        held = f"shards {', '.join(map(str, self.shards))} of {self.deal.shards} on rank {self.ranks.rank}"
        return f"ShardedDataset({self.name!r}, {what}, {held} of {self.ranks.size}, {self.device})"

    def sample_values(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """Return samples in value space, [n, *shape] of `value_dtype`, wherever they are; a collective.

        row: [n] int64, rows in 0..N - 1, the same on all ranks unless these ask for queries of their own. Raises
        InputError where samples were changed in place.
        """
        values = self.stored_rows(row).double().mul_(self.value_map.scale).add_(self.value_map.offset)
        return values.to(self.value_dtype).reshape((len(row), *self.sample_shape))

    def stored_rows(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n D"]:
        """Return samples as they are stored, [n, D], wherever they are; a collective.

        row: as in :meth:`sample_values`, which raises what this does.
        """
        self.check_unchanged()
        words = f"{len(row)} of them, {row.tolist()[:4]}"
        same = [] if self.own_queries else [Asked("index", number_of(row), lambda: words)]
        counts = [count for (count,) in self.ranks.compare("samples", same, [len(row)])]
        asked = [row.cpu()]
        if self.own_queries:
            asked = self.ranks.share("samples", row.cpu()[:, None], counts)
        held = [self.bytes_of(one.reshape(-1).to(self.device)) for one in asked]
        # each sample is held by one rank, and the others add nothing to its bytes
        if self.own_queries:
            parts = self.ranks.exchange("samples", torch.cat(held), counts, [len(row)] * self.ranks.size)
        else:
            parts = self.ranks.gather("samples", held[0])
        found = torch.stack(parts).sum(0, dtype=torch.uint8)
        return found.view(self.storage).reshape(len(row), self.dim).to(self.device)

    def bytes_of(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n W"]:
        """Return samples as they are stored, byte for byte, [n, W] uint8, and zeros for those that are not here.

        row: as in :meth:`sample_values`.
        """
        shard, place = self.deal.find(row)
        found = torch.zeros(len(row), self.dim, dtype=self.storage, device=self.device)
        for number, held in self.shards.items():
            mine = (shard == number).nonzero()[:, 0]
            found[mine] = held.rows.stored[place[mine]]
        return found.cpu().view(torch.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that an answer depends on: of the fingerprints of the shards; a collective.

        It is another one than that of the data in one process, and depends on the number of shards.
        """
        parts = self._of_all("the fingerprint", "fingerprints")
        return hash_tensors(f"{len(self)}", [torch.stack(parts).sum(0)])

    @cached_property
    def variance_per_dim(self) -> float:
        """Variance of the weighted samples in value space, averaged over the D coordinates; a collective."""
        self.check_unchanged()
        # each shard is held by one rank: the order of the sum does not depend on their number
        sums = torch.stack(self._of_all("the variance", "moments")).sum(0).sum(0)
        mass, half_norm, *mean = sums.split([1, 1, self.dim])
        total = 2.0 * float(half_norm / mass) - float((mean[0] / mass).square().sum())
        return self.value_map.scale**2 * total / self.dim

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest of all values; a collective, whose first access reads the data once."""
        low, high = torch.stack(self._of_all("the range", "ends")).unbind(1)
        return float(low.min()), float(high.max())

    def _of_all(self, operation: str, what: str) -> list[Tensor]:
        """Return what the method `what` returns on each rank, of one shape and dtype; a collective."""
        own: Tensor = getattr(self, what)()
        self.ranks.compare(operation, [])
        return self.ranks.gather(operation, own)

    def fingerprints(self) -> Shaped[Tensor, "S 16"]:
        """Return the fingerprint of each shard, [S, 16] uint8, zeros for those that are not here."""
        parts = torch.zeros(self.deal.shards, 16, dtype=torch.uint8)
        for number, shard in self.shards.items():
            parts[number] = torch.frombuffer(bytearray.fromhex(shard.fingerprint), dtype=torch.uint8)
        return parts

    def moments(self) -> Float64[Tensor, "S M"]:
        """Return the sums over each shard that a variance is made of, [S, D + 2], zeros for those not here."""
        sums = torch.zeros(self.deal.shards, self.dim + 2, dtype=torch.float64)
        for number, shard in self.shards.items():
            sums[number] = _moments(shard.rows).cpu()
        return sums

    def ends(self) -> Float64[Tensor, "2"]:
        """Return the smallest and the largest value of the shards that are here, [2]; infinite without one."""
        found = [shard.value_range for shard in self.shards.values()] or [(math.inf, -math.inf)]
        return torch.tensor([min(low for low, _ in found), max(high for _, high in found)], dtype=torch.float64)

    def to(self, device: torch.device | str) -> OracleDataset:
        """Return the data set with the shards of this rank on another device, or itself where they are there already.

        device, errors: as in OracleDataset.
        """
        shards = {number: shard.to(device) for number, shard in self.shards.items()}
        if all(shards[number] is shard for number, shard in self.shards.items()):
            return self
        raise invalid("device", "must be that of the samples", device, "move the data before they are sharded")

    def centred_at(self, centre: Tensor) -> OracleDataset:
        """Refuse another centre, which only an index would need. Raises InputError."""
        raise _elsewhere("an index")

    def save(self, path: str | Path) -> None:
        """Refuse to write one file of what several processes hold. Raises InputError."""
        raise _elsewhere("saving")


def cut(whole: OracleDataset, deal: Deal, number: int) -> OracleDataset | None:
    """Return a shard of `whole` as a data set, or None where it is empty.

    deal: which rows each shard holds. number: of the shard. The rows keep the centre of the whole, so that states of
    shards merge; those of one run are shared with it, those of several are copied, unless they stay in files.
    """
    runs = deal.runs(number)
    if not runs:
        return None

    def part(tensor: Tensor) -> Tensor:
        """Return the rows of the shard."""
        cut = [tensor[start:stop] for start, stop in runs]
        return cut[0] if len(cut) == 1 else torch.cat(cut)

    rows, labels = whole.rows, whole.sorted_labels
    weights = None if rows.log_weights is None else part(rows.log_weights)
    # radii and copies of the whole bound those of its parts
    stored = rows.stored.within(runs) if isinstance(rows.stored, OutsideRows) else part(rows.stored)
    held = replace(rows, stored=stored, half_norms=part(rows.half_norms), log_weights=weights)
    rest = {} if labels is None else {"sorted_labels": part(labels)}
    return OracleDataset._of_rows(
        held, name=whole.name, sample_shape=whole.sample_shape, value_map=whole.value_map, rest=rest
    )


def rows_here(data: OracleDataset) -> list[Rows]:
    """Return the rows that kernels will meet in this process: all, or those of the shards that it holds, if any."""
    return [shard.rows for shard in data.shards.values()] if isinstance(data, ShardedDataset) else [data.rows]


def rows_like(data: OracleDataset) -> Rows:
    """Return rows of the dtype and on the device of those that are scanned in this process; it may hold none."""
    for rows in rows_here(data):
        return rows
    empty = torch.empty(0, data.dim, dtype=data.storage, device=data.device)
    return replace(data.rows, stored=empty, half_norms=empty[:, 0].double(), log_weights=None)


def stored_rows(data: OracleDataset, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n D"]:
    """Return samples as they are stored, [n, D]; row: [n] int64, rows in 0..N - 1. A collective of sharded data."""
    return data.stored_rows(row) if isinstance(data, ShardedDataset) else data.rows.stored[row]


@contextmanager
def refused_together(data: OracleDataset) -> Iterator[None]:
    """Let the other ranks of sharded data know where this one refuses what it was asked, so that they refuse it too."""
    try:
        yield
    except OracleError as error:
        if isinstance(data, ShardedDataset):
            data.ranks.refuse(error)
        raise


def check_here(data: OracleDataset, purpose: str) -> None:
    """Raise InputError where the samples are not all in this process, which `purpose`, a noun, needs."""
    if isinstance(data, ShardedDataset):
        raise _elsewhere(purpose)


def _elsewhere(purpose: str) -> InputError:
    remedy = "use an OracleEngine over the data set itself"
    return invalid("data", f"must be in one process for {purpose}", "a sharded data set", remedy)


def fixed_shards(holders: int) -> int:
    """Return into how many shards data are dealt whose answers do not depend on the number of their holders."""
    return max(SHARDS, 1 << (holders - 1).bit_length())


def facts_of(whole: OracleDataset, options: str) -> list[Asked]:
    """Return what has to be the same wherever a part of `whole` is held: its facts, without a look at the samples.

    options: what else has to be the same, in words.
    """
    rows = whole.rows
    facts = f"{len(whole):,} x {list(whole.sample_shape)} {whole.value_map.describe(whole.storage)}"

    def same(parameter: str, *parts: Tensor | None) -> Asked:
        """Return what has to be the same on all ranks: a checksum of some tensors."""
        held = digest_of(" ".join(str(number_of(part)) for part in parts))
        return Asked(parameter, held, lambda: f"those with the checksum {held:08x}")

    return [
        Asked("data", digest_of(f"{facts}{whole.value_map}"), lambda: facts),
        same("labels", whole.sorted_labels, whole.order),
        same("weights", rows.log_weights),
        same("data", rows.centre, rows.half_norms),
        Asked("options", digest_of(options), lambda: options),
    ]


def _numbers(ranks: Ranks, shards: int) -> range:
    """Return the shards of this rank."""
    return range(*share_of(shards, ranks.rank, ranks.size))


def _moments(rows: Rows) -> Float64[Tensor, "M"]:
    """Return the sums over rows of their weights, of these times |r|^2 / 2, and of these times r, [D + 2]."""
    uniform = torch.ones_like(rows.half_norms) if rows.log_weights is None else rows.log_weights.exp()
    mean, size = torch.zeros_like(rows.centre), max(1, BLOCK_VALUES // rows.dim)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        mean += uniform[part] @ (rows.stored[part].double() - rows.centre)
    return torch.cat([uniform.sum()[None], (uniform @ rows.half_norms)[None], mean])


def _without_samples(rows: Rows) -> Rows:
    stored = torch.empty(rows.stored.shape, dtype=rows.stored.dtype, device="meta")
    return replace(rows, stored=stored, half_norms=torch.empty_like(rows.half_norms, device="meta"))
