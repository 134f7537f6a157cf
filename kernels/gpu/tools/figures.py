"""Figures of a compiled kernel: what it takes of a multiprocessor, and what a step of its loop costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.tiles import AnyConfig, DigitConfig, FusedConfig, ScoreTile, WeighConfig
from ..operands.splits import operand_dtype
from .jobs import Job
from .machine_code import BARRIERS, SUMS, Code, Instruction, in_flight, now_and_then, product_loop, unguarded
from .machines import MACHINES

# what a figure is
Number = int | float

# products in float64
DOUBLE_PRODUCTS = ("DFMA", "v_fma_f64")

# queries of a tile up to which a step waits for memory, not for the matrix unit
MEMORY_BOUND_QUERIES = 16


@dataclass(frozen=True)
class LoopStep:
    """What a step of the loop of the products costs; steps that empty the matrix unit count by their share.

    instructions: of a warp. issued: share of the cycles of the step in which an instruction is issued, if the matrix
    unit, or memory where queries are few, never waited. barriers: of the program. ahead: steps whose rows are under
    way while one is multiplied. flying: products that every wait for one leaves in flight; None where the unit has no
    such waits. outside: whether sums are added outside the matrix unit. unguarded: waits for products after which
    shared memory is written too early. emptying: instructions of a step while nothing is in the unit, its sums being
    taken out. ends: instructions outside of the loop. ahead to unguarded are None for AMD, whose loops lie in pieces.
    """

    instructions: float
    issued: float
    barriers: float
    ahead: int | None
    flying: int | None
    outside: bool | None
    unguarded: int | None
    emptying: float
    ends: int

    @classmethod
    def of(cls, job: Job, code: Code, middle: str) -> LoopStep | None:
        """Return the figures of a kernel; None without a loop of products.

        job: what was compiled. code: its instructions. middle: TTGIR.
        """
        if job.kernel == "one read":
            loop = product_loop(code, DOUBLE_PRODUCTS)
        else:
            loop = product_loop(code) if job.wants_matrix_unit else []
        if not loop:
            return None
        seldom, every = now_and_then(loop), max(1, job.config.every if not isinstance(job.config, DigitConfig) else 1)

        def weighed(part: Sequence[Instruction]) -> float:
            """Return the number of instructions, those that run now and then by their share."""
            skipped = sum(instruction.place in seldom for instruction in part)
            return round(len(part) - skipped + skipped / every, 2)

        waits = [instruction for instruction in loop if instruction.place not in seldom]
        flights = [flight for wait in waits if (flight := in_flight(wait)) is not None]
        names = Counter(instruction.name for instruction in loop)
        instructions, nvidia = weighed(loop), not job.target.startswith("gfx")
        return cls(
            instructions=instructions,
            issued=round(instructions * job.config.warps / 4 / step_cycles(job), 3),
            barriers=weighed([instruction for instruction in loop if instruction.name in BARRIERS]),
            ahead=stages_ahead(middle) if nvidia else None,
            flying=min(flights, default=None),
            outside=any(names[name] for name in SUMS) if nvidia else None,
            # a single warp group reads what it waits for itself
            unguarded=(unguarded(code) if job.config.warps > 4 else 0) if nvidia else None,
            emptying=round(len(seldom) / every, 2),
            ends=len(code) - len(loop),
        )


def step_cycles(job: Job) -> float:
    """Return the cycles of a step: of the matrix unit, or of memory where queries are few."""
    machine, config = MACHINES[job.target], job.config
    memory = machine.read_cycles(config.block_n * config.block_d * job.stored.itemsize)
    if not job.wants_matrix_unit:
        return memory
    queries, weights = job.parts
    # of a row, with all parts of the queries or weights
    products = config.block_b * config.block_d * (weights if isinstance(config, WeighConfig) else queries)
    if isinstance(config, FusedConfig):
        products += config.block_b * config.block_d * weights
    # both halves of a row are multiplied
    rows = config.block_n * (2 if job.stored.itemsize == 4 else 1)
    rate = machine.products * (2 if isinstance(config, DigitConfig) else 1)
    unit = rows * products / rate
    return max(unit, memory) if config.block_b <= MEMORY_BOUND_QUERIES else unit


def operand_kilobytes(job: Job) -> float | None:
    """Return the kilobytes that a program reads for a million operations; None for kernels without products."""
    config: AnyConfig = job.config  # type: ignore[assignment]
    if not job.wants_matrix_unit or isinstance(config, FusedConfig):
        return None
    queries, weights = job.parts
    size = 1 if isinstance(config, DigitConfig) else operand_dtype(job.stored).itemsize
    if isinstance(config, ScoreTile):
        held = config.block_b * queries
        operand, rows, products = held * size, config.block_n * job.stored.itemsize, config.block_n * held
    else:
        held = config.block_b * weights
        operand, rows, products = held * size, config.block_d * job.stored.itemsize, config.block_d * held
    halves = 2 if job.stored.itemsize == 4 else 1
    return round(1e3 * (operand + rows) / (2 * halves * products), 2)


def stages_ahead(middle: str) -> int:
    """Return how many steps ahead the rows of the loop of the products are asked for, in the compiler's TTGIR."""
    before, loop = _product_body(middle.splitlines())
    counts = [_count(lines, "ttng.barrier_expect") for lines in (before, loop)]
    found = [counts[0] // counts[1]] if counts[1] else []
    commits = _count(loop, "ttg.async_commit_group")
    waits = [int(number) for line in loop for number in re.findall(r"ttg\.async_wait .*num = (\d+)", line)]
    found += [min(waits) // commits] if commits and waits else []
    # rows that are kept in registers until the next step
    yielded = next((line for line in reversed(loop) if "scf.yield" in line), "")
    loads = [re.match(r"\s*(%\w+) = tt\.load .*tensor<\d+x\d+x", line) for line in loop]
    found += [int(re.search(rf"{load.group(1)}\b", yielded) is not None) for load in loads if load]
    return min(found, default=0)


def _product_body(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines before the innermost loop with a product, and those of the loop."""
    product = re.compile(r"warp_group_dot |tt\.dot |tc_gen5_mma |math\.exp .*f64")
    best: tuple[list[str], list[str]] = ([], [])
    for first, line in enumerate(lines):
        if " scf.for " not in line:
            continue
        end = f"{line[: len(line) - len(line.lstrip())]}}}"
        last = next((number for number in range(first, len(lines)) if lines[number].startswith(end)), len(lines))
        if any(map(product.search, lines[first:last])) and (not best[1] or last - first < len(best[1])):
            best = lines[:first], lines[first:last]
    return best


def _count(lines: Sequence[str], word: str) -> int:
    return sum(word in line for line in lines)
