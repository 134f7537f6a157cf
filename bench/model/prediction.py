"""The predicted time of a velocity, launch by launch, and the floor below which none can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oracle_engine.kernels.gpu.core.configs import choose
from oracle_engine.kernels.gpu.core.limits import DEFAULT_LIMITS
from oracle_engine.kernels.gpu.core.tiles import ceil_div
from oracle_engine.kernels.gpu.products.weights import WEIGHTS_WARPS, weights_rows
from oracle_engine.kernels.gpu.scans.narrow import NARROW_DIM
from oracle_engine.kernels.gpu.scans.one_read import ONE_READ_DIM, one_read_tile
from oracle_engine.kernels.gpu.scans.scan import TwoPhaseScan
from oracle_engine.kernels.gpu.tools.jobs import TRITON_NAMES, Job
from oracle_engine.kernels.gpu.tools.pretended_card import H100
from oracle_engine.kernels.gpu.tools.waves import launches

from ..gate.kept import Kept
from ..gpu_cases import Case
from .launches import BARRIER, Card, Launch, together

# seconds of a device call that has little to do, replayed from a graph: 0.16 ms for the 39 of an answer over few rows
CALL = 4.0e-6

# device calls of every further block of rows
BLOCK_CALLS = 9

# device calls of an answer in one read
ONE_READ_CALLS = 30


@dataclass(frozen=True)
class Prediction:
    """What the model says of a velocity.

    kernels: seconds of each kernel with much to do, and what takes them. calls: seconds of the others. floor: seconds
    of one read of the rows, or of the products, whichever takes longer.
    """

    kernels: Mapping[str, tuple[float, str]]
    calls: float
    floor: float

    @property
    def seconds(self) -> float:
        """The predicted time."""
        return self.calls + sum(seconds for seconds, _ in self.kernels.values())


def predicted(case: Case, batch: int, kept: Kept, card: Card, *, early: bool) -> Prediction:
    """Return the prediction for a batch of queries over a data set on an H100.

    case: the data. kept: figures of the gate. card: its rates. early: whether all rows have weight, or next to none.
    """
    size = DEFAULT_LIMITS.block_rows(batch, TwoPhaseScan.pair_bytes)
    counts = [min(size, case.count - start) for start in range(0, case.count, size)]
    kernels: dict[str, tuple[float, str]] = {}
    for count in counts:
        for name, (seconds, bound) in block_times(case, count, batch, kept, card, early=early).items():
            kernels[name] = (kernels.get(name, (0.0, ""))[0] + seconds, bound)
    # of bfloat16 as many as of float16
    name = TRITON_NAMES[case.storage].replace("bf16", "fp16")
    asked = kept.sections["calls"][f"velocity {name}"]
    calls = CALL * (asked["device_calls"] + BLOCK_CALLS * (len(counts) - 1))
    return Prediction(kernels, calls, floor(case, batch, card, early=early))


def block_times(
    case: Case, count: int, batch: int, kept: Kept, card: Card, *, early: bool
) -> dict[str, tuple[float, str]]:
    """Return the seconds of each kernel over a block of `count` rows, and what bounds it."""
    config = choose(H100, case.storage, batch, case.dim)
    grids = launches(config, case.storage, count, batch, case.dim)
    kernel, (score, programs) = next(iter(grids.items()))
    slices = config.score_slices(count, batch, case.dim)
    rows, logits = float(count * case.dim * case.storage.itemsize), 4.0 * count * batch
    steps = ceil_div(ceil_div(case.dim, slices), score.block_d)
    # several slices are written, read and added up
    scored = rows + logits * (1 if slices == 1 else 2 * slices + 1)
    found = [Launch(Job("sm_90", kernel, case.storage, score), programs, steps, scored)]
    weights = found[0].job.parts[1] * 2.0 * count * batch
    times = {}
    if early:
        tile, programs = grids["dense"]
        shares = config.weigh_shares(count, batch, case.dim)
        steps = ceil_div(ceil_div(count, shares), tile.block_n)
        found.append(Launch(Job("sm_90", "dense", case.storage, tile), programs, steps, rows + weights))
    for launch in found:
        times[launch.job.kernel] = together(launch.bounds(kept.sections["configurations"][str(launch.job)], card))
    written = weights if early else 0.0
    job = Job("sm_90", "weights", case.storage, config.weigh)
    times["weights"] = together(weights_bounds(job, logits, written, kept, card))
    return times


def weights_bounds(job: Job, logits: float, written: float, kept: Kept, card: Card) -> dict[str, float]:
    """Return the seconds that each of the resources takes to turn logits into weights.

    job: the kernel. logits, written: bytes that are read and written. kept, card: as in :func:`predicted`.
    """
    machine, code = card.machine, kept.sections["configurations"][str(job)]["code"]
    tiles = logits / (4.0 * weights_rows(job.config.block_b) * job.config.block_b)
    issue = tiles * code * WEIGHTS_WARPS / 4 / machine.multiprocessors / machine.clock
    return {"memory": (logits + written) / card.read, "issue": issue}


def predicted_once(case: Case, kept: Kept, card: Card) -> Prediction | None:
    """Return the prediction for a single query in one read of the rows; None where that kernel has no place."""
    stored, machine = case.storage, card.machine
    if stored.itemsize == 1 or not NARROW_DIM < case.dim <= ONE_READ_DIM:
        return None
    job = Job("sm_90", "one read", stored, one_read_tile(ONE_READ_DIM))
    figures, tile = kept.sections["configurations"][str(job)], one_read_tile(case.dim)
    # rows of fewer values come more at a time, and take as many instructions
    steps = ceil_div(ceil_div(case.count, machine.multiprocessors), tile.block_n)
    step = (figures["instructions"] * tile.warps / 4 + figures["barriers"] * BARRIER) / machine.clock
    bounds = {"memory": case.bytes / card.read, "issue": steps * step}
    return Prediction({"one read": together(bounds)}, CALL * ONE_READ_CALLS, floor(case, 1, card, early=True))


def floor(case: Case, batch: int, card: Card, *, early: bool) -> float:
    """Return the seconds of one read, or of the products of an exact answer, whichever is longer."""
    config = choose(H100, case.storage, batch, case.dim)
    # two parts of a query, or three digits at twice the rate, and two parts of the weights
    products = (1.5 if config.operand == "digits" else 2.0) + (2.0 if early else 0.0)
    operations = 2.0 * products * batch * case.count * case.dim
    return max(case.bytes / card.read, operations / card.product)
