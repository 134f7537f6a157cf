"""The sides that are compared on a user's data: the engine, exact peers, nearest neighbours, and methods in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from ..base.errors import InputError
from ..base.machine.environment import memory_bytes
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from .contender import Contender
from .peers import Centred, UnavailableError, build_peer
from .peers.libraries import ideal_denoiser, kernel_density
from .peers.methods import METHODS, difference_tensor
from .peers.nearest import FLAT, HNSW, IVF, nearest_peer
from .record import OURS
from .truth import BAR
from .workloads import Batch

PREPARED, SOURCE = "ours-prepared", "ours-prepared-source"
DIFFERENCES, IDEAL, DENSITY = "difference-tensor", "ideal-denoiser", "kernel-density"

ENGINE = (OURS, PREPARED, SOURCE)
EXACT = ("eager", "sdpa", "numpy", "keops", IDEAL, DIFFERENCES)
ESTIMATES = (FLAT, IVF, HNSW, *METHODS)

# sides of the velocity that run unless others are named
DEFAULT = (*ENGINE, *EXACT, *ESTIMATES)

# and those that have to be named: compilation takes a minute, the others are variants
NAMED = ("compiled", "eager-columns", "eager-transposed", "compiled-columns", "numpy-blocks", "bf16", "tf32")


@dataclass
class Sides:
    """Sides over one data set, which hold what they need once.

    data: on the device where all run. tolerance: the largest relative velocity error of an estimate that can be used,
    and what the prepared engine is asked for. left_out: why a side that was asked for cannot run, by its name.
    """

    data: OracleDataset
    tolerance: float
    left_out: dict[str, str] = field(default_factory=dict)

    def velocities(self, names: Iterable[str], tick: Callable[[str], None] = lambda what: None) -> dict[str, Contender]:
        """Return the sides of the velocity by name, those that can run; `tick` is called with each name."""
        return self._built({name: partial(self._velocity, name) for name in names}, tick)

    def densities(self) -> dict[str, Contender]:
        """Return the sides of the log-density by name, those that can run."""
        return self._built(
            {
                OURS: lambda: Contender(lambda batch: self._exact.log_density(batch.x, batch.t)),
                DENSITY: lambda: Contender(kernel_density(self.data)),
            },
            lambda what: None,
        )

    def _built(
        self, builders: Mapping[str, Callable[[], Contender]], tick: Callable[[str], None]
    ) -> dict[str, Contender]:
        """Return the sides that can be built; why others cannot is kept in `left_out`."""
        found = {}
        for name, build in builders.items():
            tick(name)
            try:
                found[name] = build()
            except (UnavailableError, InputError) as reason:
                self.left_out[name] = str(reason)
        return found

    def _velocity(self, name: str) -> Contender:
        """Return the side of this name."""
        if name in ENGINE:
            return self._engine(name)
        if name == IDEAL:
            self._check_copies(1)
            return Contender(ideal_denoiser(self.data))
        if name == DIFFERENCES:
            return Contender(difference_tensor(self._centred).velocity)
        if name in METHODS:
            return self._method(name)
        if name in ESTIMATES:
            peer = nearest_peer(name, self._centred)
            return Contender(peer.velocity, self.tolerance, candidates=lambda batch: peer.nearest(batch)[1])
        return Contender.of(build_peer(name, self._centred))

    def _engine(self, name: str) -> Contender:
        """Return the engine as a side: exact, prepared, or told the source of each query."""
        if name == OURS:
            return Contender(partial(_velocity_of, self._exact, source=False), stated=lambda batch: BAR)
        asked, source = self._prepared, name == SOURCE
        if not asked.index or not asked.index.screened:
            raise UnavailableError("no screen saves time over these samples: `prepare` leaves them as they are")

        def stated(batch: Batch) -> float:
            """Return the largest error that the engine states for a batch."""
            given = {"source": batch.source} if source else {}
            bounds = asked.posterior(batch.x, batch.t, top_k=0, **given).velocity_error
            return max(float(bounds.max()), BAR)

        return Contender(partial(_velocity_of, asked, source=source), max(self.tolerance, BAR), stated)

    def _method(self, name: str) -> Contender:
        method = METHODS[name](self._centred)
        limited = None if method.rows is None else method.candidates
        return Contender(method.velocity, self.tolerance, candidates=limited)

    def _check_copies(self, copies: int) -> None:
        need, held = 4 * len(self.data) * self.data.dim * copies, memory_bytes()
        if self.data.device.type == "cpu" and held is not None and need > held // 2:
            raise UnavailableError(f"a copy of the samples in float32 needs {need / 2**30:.1f} GiB of memory")

    @cached_property
    def _exact(self) -> OracleEngine:
        return OracleEngine(self.data, mode="exact", device=self.data.device)

    @cached_property
    def _prepared(self) -> OracleEngine:
        return OracleEngine(self.data, tolerance=self.tolerance, device=self.data.device).prepare()

    @cached_property
    def _centred(self) -> Centred:
        self._check_copies(1)
        return Centred.of(self.data, torch.float32)


def _velocity_of(engine: OracleEngine, batch: Batch, *, source: bool) -> Tensor:
    return engine.velocity(batch.x, batch.t, source=batch.source if source else None)
