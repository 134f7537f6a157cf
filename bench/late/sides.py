"""The sides of the late route over one data set, and their answers: routes, survivors, mass found, errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from oracle_engine import OracleEngine
from oracle_engine.compare.floors import Floor, Need, Rates
from oracle_engine.compare.memory import peak_extra_bytes
from oracle_engine.compare.peers import Centred
from oracle_engine.compare.peers.nearest import NearestPeer, faiss_peers
from oracle_engine.compare.record import sizes_of
from oracle_engine.compare.truth import posterior_weights
from oracle_engine.compare.workloads import HELD, Batch

from .record import EXACT, LateRow, LateSide
from .split import Split

# queries whose found mass is computed at once, for FAISS, in float64
MASS_QUERIES = 16

# queries whose posteriors say how many samples have weight
FLOOR_QUERIES = 64


@dataclass(frozen=True)
class Answered:
    """The answer of one side to a batch: the velocity [B, D], every other tensor [B]; see LateSide."""

    velocity: Tensor
    log_density: Tensor
    survivors: Tensor
    routes: tuple[str, ...]
    stated_error: Tensor | None
    peak: int | None


class Sides:
    """The engine with every tolerance, and FAISS, over one data set; prepared once, kept in the folder `kept`."""

    def __init__(self, split: Split, tolerances: Sequence[float], kept: Path | None, rates: Rates) -> None:
        self.split, self.rates, data = split, rates, split.data
        self.exact = OracleEngine(data, mode="exact")
        self.auto = {_auto_name(tolerance): OracleEngine(data, tolerance=tolerance) for tolerance in tolerances}
        name = f"{data.name}-{len(data)}"
        index = next(iter(self.auto.values())).prepare(path=None if kept is None else kept / f"{name}.index").index
        for engine in self.auto.values():
            engine.index = index
        self.peers = faiss_peers(Centred.of(data), kept, name)

    def calls(self, kind: str, batch: Batch) -> dict[str, Callable[[], Tensor]]:
        """Return the calls to time: held-out queries go to FAISS too, training queries also with their source."""
        calls: dict[str, Callable[[], Tensor]] = {EXACT: partial(self.exact.velocity, batch.x, batch.t)}
        calls |= {name: partial(engine.velocity, batch.x, batch.t) for name, engine in self.auto.items()}
        if kind == HELD:
            return calls | {name: partial(peer.velocity, batch) for name, peer in self.peers.items()}
        known = {f"{name} source": engine for name, engine in self.auto.items()}
        return calls | {
            name: partial(one.velocity, batch.x, batch.t, source=batch.source) for name, one in known.items()
        }

    def answered(self, name: str, call: Callable[[], Tensor], batch: Batch) -> Answered:
        """Return the answer of the side called `name`; the calls also warm it up for timing."""
        if name in self.peers:
            return self._found(self.peers[name], call, batch)
        engine = self.exact if name == EXACT else self.auto[name.removesuffix(" source")]
        source = batch.source if name.endswith(" source") else None
        posterior = engine.posterior(batch.x, batch.t, source=source, top_k=0)
        velocity, peak = _with_peak(call)
        return Answered(
            velocity, posterior.log_density, posterior.survivors, posterior.route, posterior.velocity_error, peak
        )

    def floor(self, batch: Batch) -> Floor:
        """Return the floor of the exact route."""
        weights = posterior_weights(self.split.data, batch[:FLOOR_QUERIES])
        return self.rates.floor(Need.of(self.split.data, batch, weights))

    def row(
        self, sides: Mapping[str, LateSide], work: tuple[int, str, str], others: float | None, floor: Floor | None
    ) -> LateRow:
        """Return the row of one batch over these data; work: its size, the kind of its queries, its time."""
        size, kind, time = work
        return LateRow(*sizes_of(self.split.data), size, time, others, sides, kind, floor)

    def _found(self, peer: NearestPeer, call: Callable[[], Tensor], batch: Batch) -> Answered:
        _, place = peer.nearest(batch)
        density = torch.cat(
            [
                self._log_density(batch.x[part], batch.times[part], place[part])
                for part in map(partial(_slice_from, MASS_QUERIES), range(0, len(place), MASS_QUERIES))
            ]
        )
        velocity, peak = _with_peak(call)
        return Answered(velocity, density, (place >= 0).sum(1), (), None, peak)

    def _log_density(self, x: Tensor, times: Tensor, place: Tensor) -> Tensor:
        """Return the log-density [B] that the samples with these indices [B, k] make, as the engine defines it."""
        data, sigma = self.split.data, 1 - times
        samples = data.sample_values(place.clamp_min(0).reshape(-1)).reshape(*place.shape, -1).double()
        difference = x.double().reshape(len(x), 1, -1) - times[:, None, None] * samples
        logits = -0.5 * difference.square().sum(2) / sigma[:, None].square()
        lse = torch.where(place < 0, -torch.inf, logits).logsumexp(1)
        return lse - math.log(len(data)) - 0.5 * data.dim * (2 * math.pi * sigma.square()).log()


def _auto_name(tolerance: float) -> str:
    return f"auto {tolerance:.0e}".replace("e-0", "e-")


def _slice_from(length: int, start: int) -> slice:
    return slice(start, start + length)


def _with_peak(call: Callable[[], Tensor]) -> tuple[Tensor, int | None]:
    held: list[Tensor] = []
    peak = peak_extra_bytes(lambda: held.append(call()), torch.device("cpu"))
    return held[0].double().flatten(1), peak
