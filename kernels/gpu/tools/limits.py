"""What the figures of a kernel must keep to, and which kernels may do otherwise, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.tables import ROW_KINDS, TABLES, table_name
from ..core.tiles import WeighConfig
from .figures import MEMORY_BOUND_QUERIES, Number
from .jobs import COMPENSATED, TRITON_NAMES, Job

# queries of a batch from which on the matrix unit sets the pace, and operands must not crowd the cache
MANY_QUERIES = 128


@dataclass(frozen=True)
class Limit:
    """A bound on a figure of some kernels.

    figure: as in `Compilation.figures`. value: the most, or the `least`. targets, kernels, stored: of which jobs, by
    their names; all where empty. few: whether of tiles for few queries, of the others, or, None, of both. half: of jobs
    in half precision alone. reason: why this one.
    """

    figure: str
    value: Number
    reason: str
    targets: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    few: bool | None = None
    least: bool = False
    half: bool = False

    def concerns(self, job: Job) -> bool:
        """Return whether `job` is one of those."""
        named = ((self.targets, job.target), (self.kernels, job.kernel), (self.stored, TRITON_NAMES[job.stored]))
        few = job.config.block_b <= MEMORY_BOUND_QUERIES
        wanted = self.few in (None, few) and job.half >= self.half
        return wanted and all(not names or name in names for names, name in named)

    def missed(self, figure: Number) -> bool:
        """Return whether `figure` is on the wrong side."""
        return figure < self.value if self.least else figure > self.value


BYTES, HALVES = ("u8", "i8"), ("fp16", "bf16")

TURNED = "8-bit rows become 16-bit operands in registers, which takes as many instructions as the products"
SPLIT = "a float32 row becomes two 16-bit numbers in registers, whose products are one sum: each waits for the last"
LISTED = "the address of every row comes from a list; taken only where less than half of the rows have weight"
FUSED = "the loop holds exponentials and sums of weights too; for D up to 128, where nothing is read twice"
COPIED = "Triton puts a barrier before each copy that one thread asks for, and after each wait"
THREE_SUMS = "three sums in turn, which take all registers: a wait for each, and a copy of each digit"
SMALLER = "mma.sync takes its operands from registers, and an instruction for eight cycles of a quarter of the unit"
BLACKWELL = "tiles of Hopper in a unit of twice the rate; no such card has timed them"
DOUBLE = "float64 holds two registers a value, and waits for every logit; off until a card has timed it"
HALVED = "half precision multiplies half as much in tiles of the same size"
AMD = "tiles for any card of 64 KB; no card of this make has timed them"

# the first that concerns a job holds; figures without one are only kept from getting worse
LIMITS = (
    Limit("spills", 32, "the tile that was fastest on an H100", ("sm_90",), ("dense",), BYTES),
    Limit("spills", 4, "outside of the loop", ("sm_100",), ("finish", "score")),
    Limit("spills", 10, BLACKWELL, ("sm_100",), ("above",), BYTES),
    Limit("spills", 36, DOUBLE, kernels=("one read",)),
    Limit("spills", 8, "few, for one more program a multiprocessor", ("sm_90",), ("compensate spread",)),
    Limit("spills", 4, "few, for one more program a multiprocessor", ("sm_80", "sm_90"), COMPENSATED),
    Limit("spills", 0, "registers in memory take its time"),
    Limit("unguarded", 0, "another warp group may still read what is written"),
    Limit("outside", 0, "sums of whole numbers are exact", kernels=("digits",)),
    Limit("outside", 1, "the law of rounding counts on sums that start anew", least=True),
    Limit("ahead", 0, FUSED, kernels=("fused",), least=True),
    Limit("ahead", 1, "products must not wait for memory", least=True),
    Limit("flying", 0, THREE_SUMS, ("sm_90",), ("digits",), least=True),
    Limit("flying", 0, SPLIT, ("sm_90",), stored=("fp32",), least=True),
    Limit("flying", 0, TURNED, ("sm_90",), ("listed",), BYTES, few=False, least=True),
    Limit("flying", 1, "the unit must not run dry at a wait", least=True),
    Limit("issued", 0.8, DOUBLE, kernels=("one read",)),
    Limit("issued", 20, FUSED, kernels=("fused",)),
    Limit("issued", 2.5, HALVED, half=True),
    Limit("issued", 0.7, LISTED, ("sm_90",), ("listed",), HALVES),
    Limit("issued", 0.75, TURNED, ("sm_90",), ("dense",), BYTES),
    Limit("issued", 1.25, TURNED, ("sm_90",), ("score", "listed"), BYTES),
    Limit("issued", 1.2, SPLIT, ("sm_90",), stored=("fp32",)),
    Limit("issued", 0.7, SMALLER, ("sm_80",), ("digits",)),
    Limit("issued", 0.6, SMALLER, ("sm_80",), ("score",), (*HALVES, "fp32")),
    Limit("issued", 1.6, f"{SMALLER}; {TURNED}", ("sm_80",)),
    Limit("issued", 3.0, BLACKWELL, ("sm_100",)),
    Limit("issued", 1.6, AMD, ("gfx942",)),
    Limit("issued", 0.45, "warps must find room to issue beside the waits of the unit"),
    Limit("barriers", 5, DOUBLE, kernels=("one read",)),
    Limit("barriers", 30, FUSED, kernels=("fused",)),
    Limit("barriers", 9, f"{THREE_SUMS}; {COPIED}", ("sm_90",), ("digits",)),
    Limit("barriers", 8, f"{SPLIT}; {COPIED}", ("sm_90",), stored=("fp32",)),
    Limit("barriers", 6, f"{TURNED}; {COPIED}", ("sm_90",), stored=BYTES),
    Limit("barriers", 4, COPIED, ("sm_90",)),
    Limit("barriers", 25, f"{COPIED}; {BLACKWELL}", ("sm_100",)),
    Limit("barriers", 12, AMD, ("gfx942",), ("listed",)),
    Limit("barriers", 6, AMD, ("gfx942",), stored=("fp32",)),
    Limit("barriers", 3, "the next list entries come before the rows they name", ("sm_80",), ("listed",)),
    Limit("barriers", 2, "one before a tile is read, one before it is written"),
    Limit("operand_kb", 40, HALVED, half=True),
    Limit("operand_kb", 24, "the registers hold the sums of half the tile of Hopper", ("sm_80",)),
    Limit("operand_kb", 32, AMD, ("gfx942",)),
    Limit("operand_kb", 16, "two numbers of each row and four bytes read", stored=("fp32",)),
    Limit("operand_kb", 12, "what all multiprocessors read of the cache together"),
)


def limit_of(job: Job, figure: str) -> Limit | None:
    """Return what holds for a figure of `job`; None where nothing does."""
    if figure == "operand_kb" and not serves_many(job):
        return None
    return next((limit for limit in LIMITS if limit.figure == figure and limit.concerns(job)), None)


def serves_many(job: Job) -> bool:
    """Return whether a table takes the tile of `job` for many queries."""
    table = TABLES[table_name(job.target)][ROW_KINDS[job.stored]]
    choices = [choice for choice in table if choice.batch >= MANY_QUERIES]
    tiles = [choice.config for choice in choices]
    return job.config in [
        *tiles,
        *(tile.listed(job.stored.itemsize) for tile in tiles if isinstance(tile, WeighConfig)),
    ]


def missed(job: Job, figures: Mapping[str, Number]) -> list[str]:
    """Return the figures of `job` that miss their limits, in words."""
    found = [(limit_of(job, name), name, figure) for name, figure in figures.items()]
    return [
        f"{name} {figure:g}, {'at least' if limit.least else 'at most'} {limit.value:g}: {limit.reason}"
        for limit, name, figure in found
        if limit is not None and limit.missed(figure)
    ]
