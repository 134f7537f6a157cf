"""What the compiler made of a configuration, and what of it no kernel may have."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import triton

from ..core.tiles import DigitConfig, FusedConfig, ScoreConfig, WeighConfig
from ..operands.splits import shared_bound
from ..products.live_rows import PLACE_WARPS
from ..products.weights import WEIGHTS_WARPS
from .figures import LoopStep, Number, operand_kilobytes
from .jobs import COMPENSATED, TARGETS, Job
from .machine_code import COPIES, MATRIX, amd_code, nvidia_code
from .machines import MACHINES
from .sources import source_of

SPILL = ("STL", "LDL")


@dataclass(frozen=True)
class Compilation:
    """What the compiler made of a job.

    registers: of a thread. spills: instructions that move registers to memory and back. shared: shared memory of a
    program, in bytes. matrix: how often each matrix instruction appears. copies: asynchronous copies.
    races: sums of floats by atomic instructions, whose order varies, and with it their result. code: instructions in
    all. step: of the loop of the
    products, None where there is none.
    """

    job: Job
    registers: int
    spills: int
    shared: int
    matrix: dict[str, int]
    copies: int
    races: int = 0
    code: int = 0
    step: LoopStep | None = None

    @property
    def complaints(self) -> list[str]:
        """What fails on every target, in words; empty where the job passes."""
        job, found = self.job, []
        if self.races:
            found.append(f"{self.races} float atomics")
        if self.shared > TARGETS[job.target][1]:
            found.append(f"shared memory over {TARGETS[job.target][1]}")
        if job.wants_matrix_unit and not set(job.units) & set(self.matrix):
            found.append("no matrix instructions")
        if set(self.matrix) - set(job.units):
            found.append("matrix instructions of another kind")
        if job.wants_wgmma and not {"HGMMA", "IGMMA"} & set(self.matrix):
            found.append("no wgmma")
        if job.wants_matrix_unit and not job.target.startswith("gfx") and not self.copies:
            found.append("no asynchronous copies")
        if job.wants_matrix_unit and isinstance(job.config, (ScoreConfig, DigitConfig, WeighConfig, FusedConfig)):
            bound = shared_bound(job.config, job.stored)
            if not self.shared <= bound <= TARGETS[job.target][1]:
                found.append(f"launches are checked with a bound of {bound}")
        return found

    @property
    def programs(self) -> int:
        """How many programs a multiprocessor holds at once."""
        return MACHINES[self.job.target].resident(self.registers, self.shared, warps_of(self.job))

    @property
    def figures(self) -> dict[str, Number]:
        """The figures that are kept, by name."""
        found: dict[str, Number | None] = {
            "registers": self.registers,
            "spills": self.spills,
            "shared": self.shared,
            "programs": self.programs,
            "code": self.code,
            "operand_kb": operand_kilobytes(self.job),
        }
        if self.step is not None:
            found |= {name: None if value is None else float(value) for name, value in vars(self.step).items()}
        return {name: value for name, value in found.items() if value is not None}


def warps_of(job: Job) -> int:
    """Return the warps that the kernel is launched with."""
    return {"weights": WEIGHTS_WARPS, "place": PLACE_WARPS}.get(job.kernel, job.config.warps)


def compile_options(job: Job) -> dict[str, Number]:
    """Return what the kernel is launched with."""
    # what rounding leaves over is found by operations that must not be joined
    fused = job.kernel not in COMPENSATED
    return {"num_warps": warps_of(job), "num_stages": job.config.stages, "enable_fp_fusion": fused}


def compile_job(job: Job) -> Compilation:
    """Compile `job` and count in its machine code; errors of the compiler are passed on."""
    compiled = triton.compile(source_of(job), target=TARGETS[job.target][0], options=compile_options(job))
    shared, races = compiled.metadata.shared, len(re.findall(r"\batomic_rmw f", compiled.asm["ttir"]))
    if "cubin" in compiled.asm:
        code, registers = nvidia_code(compiled.asm["cubin"])
        counts = Counter(instruction.name for instruction in code)
        spills, copies = (sum(counts[name] for name in names) for names in (SPILL, COPIES))
    else:
        assembly = compiled.asm["amdgcn"]
        code, registers = amd_code(assembly), _largest("vgpr_count", assembly)
        counts = Counter(instruction.name for instruction in code)
        # scalar registers are kept in lanes of vector registers, not in memory
        spills = _largest("vgpr_spill_count", assembly)
        copies = len(re.findall(r"\bbuffer_load_\S+ .*\blds\b|\bglobal_load_lds", assembly))
    matrix = {name: counts[name] for name in MATRIX if counts[name]}
    step = LoopStep.of(job, code, compiled.asm["ttgir"])
    return Compilation(job, registers, spills, shared, matrix, copies, races, len(code), step)


def _largest(name: str, assembly: str) -> int:
    return max(map(int, re.findall(rf"\.{name}:\s+(\d+)", assembly)))
