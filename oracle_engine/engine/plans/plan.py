"""What a call will do and cost: decided before any work, and printable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...data.dataset import OracleDataset
from ...data.sharded import check_here
from ...queries.classes import batch_slices
from ...scans.backends import BACKENDS
from .forecast import RouteForecast, forecast
from .pass_forecast import PassForecast, forecast_pass
from .scan_timing import scan_seconds
from .timing import best_seconds

if TYPE_CHECKING:
    from ..engine import OracleEngine

# samples of a call that costs nothing beyond what every call costs
FEW_SAMPLES = 8

# operations of a scan that is timed, and what is left of it at least without what any call takes
CPU_OPERATIONS, CARD_OPERATIONS = 2e9, 2e11
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Plan:
    """What a call with `batch` unconditional queries will do; costs are those of the exact route.

    data: the data set, in words. values: the map from its stored numbers to values, their range and variance, in words.
    note: what to look at where the range looks unusual, or None. backend: the implementation; reason: why, in words.
    route: the ways the call can take, as they are tried; late: when. memory: bytes beyond the data. operations: of the
    matrix products, at most. read: bytes of data. resident: where the samples are and why, in words; streams: what a
    pass over them takes, or None where they are on the device. seconds: expected at most, where every block carries
    weight, at the rate of a scan that is timed just now; fixed: those of them that a call over a few samples takes.
    """

    data: str
    values: str
    note: str | None
    batch: int
    backend: str
    route: str
    reason: str
    late: RouteForecast
    resident: str
    streams: PassForecast | None
    memory: int
    operations: int
    read: int
    seconds: float
    fixed: float

    def __str__(self) -> str:
        lines = {
            "data": self.data,
            "values": self.values,
            "note": self.note or "",
            "batch": f"{self.batch}",
            "backend": self.backend,
            "route": self.route,
            "reason": self.reason,
            "late": f"{self.late}",
            "resident": self.resident,
            "pass": "" if self.streams is None else f"{self.streams}",
            "memory": f"{self.memory / 2**20:,.1f} MiB beyond the data",
            "cost": f"at most {self.operations / 1e9:,.2f} GFLOP, {self.read / 2**20:,.1f} MiB read",
            "expected": f"at most {self.seconds * 1e3:,.1f} ms, {self.fixed * 1e3:,.1f} of them in any call; timed now",
        }
        return "\n".join(f"{name:<9} {text}" for name, text in lines.items() if text or name not in ("note", "pass"))


def make_plan(engine: OracleEngine, batch: int) -> Plan:
    """Return what a call of `engine` with `batch` queries, at least 1, will do and cost.

    Costs a few scans of some samples, milliseconds each, and what :func:`forecast_pass` does.
    """
    check_here(engine.data, "a plan")
    rows = engine.data.rows
    slices = batch_slices(batch, rows.dim)
    size = slices[0].stop
    operations = 4 * batch * len(rows) * rows.dim
    late = forecast(engine.mode, engine.index, engine.data, path=engine.path, point_std=engine.point_std)
    fixed, streams = fixed_seconds(engine), forecast_pass(engine, batch)
    once = batch / size * resident_seconds(engine, size, fixed) if streams is None else streams.seconds
    return Plan(
        data=repr(engine.data),
        values=engine.data.describe_values(),
        note=engine.data.value_note,
        batch=batch,
        backend=engine.backend,
        route=", ".join(late.routes),
        reason=engine.backend_reason + (", velocities off by about 1e-3" if engine.precision == "half" else ""),
        late=late,
        resident=str(engine.residency),
        streams=streams,
        memory=BACKENDS[engine.backend].memory(rows, size),
        operations=operations,
        read=rows.stored.nbytes * (len(slices) if streams is None else 1),
        seconds=fixed * len(slices) + once,
        fixed=fixed,
    )


def fixed_seconds(engine: OracleEngine) -> float:
    """Return the seconds that any call of `engine` takes: those of one query over a few of its samples."""
    some = engine.data.rows.stored[:FEW_SAMPLES]
    few = OracleDataset(some.reshape(len(some), *engine.data.sample_shape), value_map=engine.data.value_map)
    small = type(engine)(few, engine.path, backend=engine.backend, precision=engine.precision, mode="exact")
    x = few[:1]
    # what a first call allocates or compiles is no part of others
    small.velocity(x, 0.5)
    # reading a value waits for the device
    return best_seconds(lambda: float(small.velocity(x, 0.5).reshape(-1)[0]))


def resident_seconds(engine: OracleEngine, batch: int, fixed: float) -> float:
    """Return the seconds of a scan of all samples for `batch` queries, from one of as many as take milliseconds.

    fixed: seconds of any call, which do not grow with the samples.
    """
    count, dim = len(engine.data), engine.data.dim
    operations = CPU_OPERATIONS if engine.data.device.type == "cpu" else CARD_OPERATIONS
    some = min(count, max(FEW_SAMPLES, int(operations / (4 * batch * dim))))
    seconds = scan_seconds(engine, batch, some)
    return max(seconds - fixed, LEAST_SHARE * seconds) * count / some
