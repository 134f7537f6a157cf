"""From a workload to a row of the table: errors, interleaved times and peak memory of all sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine

from .floors import Need, Rates
from .load import watch_others
from .memory import peak_extra_bytes
from .peers import Centred, UnavailableError, Velocity, build_peer
from .record import OURS, OURS_COARSE, OURS_RECORDED, Row, Side, sizes_of
from .recorded import recorded
from .rescoring import without_rescoring
from .timing import Timing, interleave
from .truth import posterior_weights, relative_error, velocity_of
from .workloads import Workload

# queries whose error is computed: the float64 velocity costs more than any side
ERROR_QUERIES = 64


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
        self.velocities: dict[str, Velocity] = {}
        self._engine = OracleEngine(data, device=data.device)
        for name in names:
            try:
                self.velocities[name] = self._side(name)
            except UnavailableError as reason:
                say(f"{name} left out: {reason}")

    def row(self, work: Workload, budget: float) -> Row:
        """Measure all sides on one workload over this data, with about `budget` seconds of timing."""
        batch = work.draw()
        few = batch[:ERROR_QUERIES]
        weights = posterior_weights(self.data, few)
        truth = velocity_of(self.data, few, weights)
        floor = None if self._rates is None else self._rates.floor(Need.of(self.data, batch, weights))
        del weights
        calls = {
            name: partial(velocity, batch.x, batch.t, **batch.conditions) for name, velocity in self.velocities.items()
        }
        # these first calls also warm all sides up
        errors = {name: relative_error(call()[:ERROR_QUERIES], truth) for name, call in calls.items()}
        sides, busy = self._timed(calls, errors, budget)
        return Row(*sizes_of(self.data), work.batch, work.time_label, busy, sides, work.kind, floor)

    def _timed(
        self, calls: Mapping[str, Callable[[], Tensor]], errors: Mapping[str, float], budget: float
    ) -> tuple[dict[str, Side], float | None]:
        device = self.data.device
        peaks = {name: peak_extra_bytes(call, device) for name, call in calls.items()}
        others = watch_others()
        timings = interleave(calls, budget, device, always=(OURS, OURS_COARSE, OURS_RECORDED))
        busy = others()
        return {name: _measured(timings[name], timings.get(OURS), errors[name], peaks[name]) for name in calls}, busy

    @cached_property
    def _centred(self) -> Centred:
        # the largest data leave no room for this copy, so that it is made only when a peer needs it
        return self._centre(self.data, torch.float32)

    def _side(self, name: str) -> Velocity:
        if name == OURS:
            return self._engine.velocity
        if name == OURS_COARSE:
            return without_rescoring(self._engine)
        if name == OURS_RECORDED:
            return recorded(self._engine)
        return build_peer(name, self._centre(self.data, torch.float64) if name == "float64" else self._centred)


def _measured(timing: Timing, ours: Timing | None, error: float, peak: int | None) -> Side:
    first, third = timing.quartiles
    return Side(
        median_ms=1e3 * timing.median,
        fastest_ms=1e3 * timing.minimum,
        first_quartile_ms=1e3 * first,
        third_quartile_ms=1e3 * third,
        rounds=len(timing.seconds),
        error=error,
        peak_mib=None if peak is None else peak / 2**20,
        paired=None if ours is None else timing.paired_ratio(ours),
    )
