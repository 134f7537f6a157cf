"""The velocity of the engine replayed from a CUDA graph, which takes no launches by the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oracle_engine import OracleEngine
from oracle_engine.compare.peers import SideVelocity, UnavailableError


@dataclass(frozen=True)
class Recording:
    """A graph, the queries and times it reads, and the velocity it writes."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    t: Tensor
    velocity: Tensor

    @classmethod
    def of(cls, engine: OracleEngine, x: Tensor, t: Tensor | float) -> Recording:
        """Record one call, after a first one that compiles and caches."""
        own_x, own_t = x.clone(), torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x)).clone()
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            engine.velocity(own_x, own_t)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            velocity = engine.velocity(own_x, own_t)
        return cls(graph, own_x, own_t, velocity)

    def replay(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return the velocity of other queries in the memory of the graph."""
        self.x.copy_(x)
        self.t.copy_(t) if isinstance(t, Tensor) else self.t.fill_(t)
        self.graph.replay()
        return self.velocity


def recorded(engine: OracleEngine) -> SideVelocity:
    """Return the engine's velocity, recorded for each batch size.

    Raises UnavailableError without the Triton backend on a CUDA device.
    """
    if engine.data.device.type != "cuda" or engine.backend != "triton":
        raise UnavailableError("CUDA graphs record the Triton backend on a CUDA device")
    recordings: dict[int, Recording] = {}

    def velocity(x: Tensor, t: Tensor | float) -> Tensor:
        """Return the velocity, of a recording that the first call of a batch size makes."""
        if len(x) not in recordings:
            recordings[len(x)] = Recording.of(engine, x, t)
        return recordings[len(x)].replay(x, t)

    return velocity
