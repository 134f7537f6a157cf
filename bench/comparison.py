"""The sides that a bench names, prepared once over one data set and measured on one workload after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.compare.contender import Contender
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.measure import Watch, measured_row
from oracle_engine.compare.peers import Centred, SideVelocity, UnavailableError, build_peer
from oracle_engine.compare.record import OURS, OURS_COARSE, OURS_RECORDED, Row
from oracle_engine.compare.workloads import Workload

from .recorded import recorded
from .rescoring import without_rescoring


class Comparison:
    """The sides of one data set, prepared once.

    data: on the device where all sides run. names: the engine and peers to build. say: called with the reason where one
    is left out. centre: makes the centred copy of the data that peers hold. rates: of this machine, for floors.
    """

    def __init__(
        self,
        data: OracleDataset,
        names: Sequence[str],
        say: Callable[[str], None],
        *,
        centre: Callable[[OracleDataset, torch.dtype], Centred] = Centred.of,
        rates: Rates | None = None,
    ) -> None:
        self.data, self._centre, self._rates = data, centre, rates
        self.velocities: dict[str, SideVelocity] = {}
        self._engine = OracleEngine(data, device=data.device)
        for name in names:
            try:
                self.velocities[name] = self._side(name)
            except UnavailableError as reason:
                say(f"{name} left out: {reason}")

    def row(self, work: Workload, budget: float) -> Row:
        """Measure all sides on one workload over this data, with about `budget` seconds of timing."""
        sides = {name: Contender.of(velocity) for name, velocity in self.velocities.items()}
        watch = Watch(budget, self._rates, always=(OURS, OURS_COARSE, OURS_RECORDED))
        return measured_row(self.data, sides, work, watch)

    @cached_property
    def _centred(self) -> Centred:
        # the largest data leave no room for this copy, so that it is made only when a peer needs it
        return self._centre(self.data, torch.float32)

    def _side(self, name: str) -> SideVelocity:
        if name == OURS:
            return self._engine.velocity
        if name == OURS_COARSE:
            return without_rescoring(self._engine)
        if name == OURS_RECORDED:
            return recorded(self._engine)
        return build_peer(name, self._centre(self.data, torch.float64) if name == "float64" else self._centred)
