"""ActorDataset: a data set whose samples actors hold, with what an engine needs to know of the whole."""

from __future__ import annotations

import torch

from ..base.arrays import Int64, Shaped, Tensor
from ..base.errors import invalid
from ..base.group.actors import Actors
from ..base.group.lone import LoneRank
from .dataset import OracleDataset
from .deal import Deal
from .sharded import ShardedDataset, facts_of, fixed_shards


class ActorDataset(ShardedDataset):
    """The whole of a data set, no sample of which is here; see :func:`oracle_engine.sharded_on_ray`.

    Attributes beside those of ShardedDataset: actors, which hold the shards. Samples, the fingerprint, variance and
    range are asked of them.
    """

    actors: Actors

    @classmethod
    def over(cls, whole: OracleDataset, actors: Actors, options: str) -> ActorDataset:
        """Return `whole`, of which every actor holds its part already.

        options: what the actors were made with, in words. Raises InputError where they hold other data, or have other
        options, and what they raise where they cannot read theirs.
        """
        own = facts_of(whole, options)
        for place, facts in enumerate(actors.ask("the engine", "facts")):
            for mine, theirs in zip(own, facts, strict=True):
                if mine.value != theirs:
                    remedy = "pass what the actors were made with, or another name"
                    text = f"{mine.words()} here, others there"
                    raise invalid(mine.parameter, f"must be the same on actor {place}", text, remedy)
        deal = Deal.of(len(whole), whole.sorted_labels, fixed_shards(len(actors)))
        self = cls._holding(whole, LoneRank(0, 1), deal, {})
        assert isinstance(self, ActorDataset)
        self.actors, self.facts = actors, [one.value for one in own]
        return self

    def __repr__(self) -> str:
        classes = "" if self.sorted_labels is None else f", {len(self.segments)} classes"
        what = f"{len(self):,} x {list(self.sample_shape)} {self.value_map.describe(self.storage)}{classes}"
        return f"ActorDataset({self.name!r}, {what}, {self.deal.shards} shards on {len(self.actors)} actors)"

    def bytes_of(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n W"]:
        """Return samples as they are stored, byte for byte, [n, W] uint8; row: as in :meth:`sample_values`."""
        return torch.stack(self.actors.ask("samples", "of_data", "bytes_of", row)).sum(0, dtype=torch.uint8)

    def _of_all(self, operation: str, what: str) -> list[Tensor]:
        return self.actors.ask(operation, "of_data", what)

    def end(self) -> None:
        """End the actors, also for other engines that ask them."""
        self.actors.end()
