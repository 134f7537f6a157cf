"""Shards that actors hold: a question is sent to all of them, and their answers come back as rows."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Shaped, Tensor
from ..base.group.actors import Actors
from .shards import HeldShards, ShardQuestion
from .tree import Node, Partial


@dataclass(frozen=True)
class ActorShards:
    """The shards that `actors` hold."""

    actors: Actors

    def nodes(self, question: ShardQuestion[Partial]) -> dict[Node, Partial]:
        """Return the answers over the fewest nodes of the tree that cover the shards of each actor.

        Raises what :meth:`Actors.ask` does. Sends the question to each actor, and gets rows of each node back.
        """
        codec, found = question.codec, self.actors.ask(question.operation, "nodes", written(question))
        return {node: codec.unpack(rows) for part in found for node, rows in part.items()}


def written(question: ShardQuestion[Any]) -> bytes:
    """Return a question in bytes, for :func:`answered`."""
    buffer = io.BytesIO()
    torch.save(question, buffer)
    return buffer.getvalue()


def answered(held: HeldShards, question: bytes) -> dict[Node, Shaped[Tensor, "B C"]]:
    """Return the answers of shards to what :func:`written` returned, as rows on the CPU.

    Raises InputError where samples were changed in place.
    """
    held.data.check_unchanged()
    # the device of the shards may be another than that of the engine; bytes are those of a process that asks by Ray
    asked = torch.load(io.BytesIO(question), map_location=held.data.device, weights_only=False)
    return {node: asked.codec.pack(value) for node, value in held.nodes(asked).items()}
