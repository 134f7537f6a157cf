"""Compile every listed configuration without a GPU and check the machine code: `make aot`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import triton

from ..live_rows import PLACE_WARPS
from ..operands import shared_bound
from ..rescore import RescoreConfig
from ..weights import WEIGHTS_WARPS
from .jobs import FLOATING, TARGETS, Job, jobs, source_of, subset

# instructions as they appear in the disassembly, grouped by what the gate asks for
MATRIX = (*FLOATING, "IGMMA", "UTCIMMA", "IMMA")
ASYNC = ("LDGSTS", "UTMALDG", "UBLKCP")
SPILL = ("STL", "LDL")

# kernels whose fastest tile, as measured on an H100, spills a little, and how much
PAYING_SPILLS = {("dense", torch.uint8): 32, ("dense", torch.int8): 32}


@dataclass(frozen=True)
class Compilation:
    """What the compiler made of a job.

    registers: of a thread. spills: instructions that move registers to memory and back. shared: shared memory of a
    program, in bytes. matrix: how often each matrix instruction appears. copies: asynchronous copies.
    races: sums of floats by atomic instructions, whose order varies, and with it their result.
    """

    job: Job
    registers: int
    spills: int
    shared: int
    matrix: dict[str, int]
    copies: int
    races: int = 0

    @property
    def complaints(self) -> list[str]:
        """What fails the gate, in words; empty where the job passes."""
        job, found = self.job, []
        if self.spills > PAYING_SPILLS.get((job.kernel, job.stored), 0):
            found.append(f"{self.spills} spills")
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
        if job.wants_matrix_unit and not isinstance(job.config, RescoreConfig):
            bound = shared_bound(job.config, job.stored)
            if not self.shared <= bound <= TARGETS[job.target][1]:
                found.append(f"launches are checked with a bound of {bound}")
        return found

    def __str__(self) -> str:
        units = " ".join(f"{name}:{count}" for name, count in self.matrix.items()) or "-"
        verdict = "; ".join(self.complaints) or "ok"
        return f"{self.job}  {self.registers:4} {self.spills:6} {self.shared:7} {self.copies:5}  {units:22} {verdict}"


HEADER = "target  kernel   data  tile        launch  regs spills  shared async  matrix"


def compile_job(job: Job) -> Compilation:
    """Compile `job` and count the instructions of its machine code; errors of the compiler are passed on."""
    warps = {"weights": WEIGHTS_WARPS, "place": PLACE_WARPS}.get(job.kernel, job.config.warps)
    options = {"num_warps": warps, "num_stages": job.config.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source_of(job), target=TARGETS[job.target][0], options=options)
    shared, races = compiled.metadata.shared, len(re.findall(r"\batomic_rmw f", compiled.asm["ttir"]))
    if "cubin" in compiled.asm:
        return replace(_read_cubin(job, compiled.asm["cubin"], shared), races=races)
    return replace(_read_amdgcn(job, compiled.asm["amdgcn"], shared), races=races)


def _read_cubin(job: Job, cubin: bytes, shared: int) -> Compilation:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, code = (_disassemble(option, path) for option in ("-res-usage", "-sass"))
    registers = max(map(int, re.findall(r"REG:(\d+)", usage)))
    counts = Counter(re.findall(r"\b([A-Z][A-Z0-9]+)[. ]", code))
    matrix = {name: counts[name] for name in MATRIX if counts[name]}
    spills = sum(counts[name] for name in SPILL)
    return Compilation(job, registers, spills, shared, matrix, sum(counts[name] for name in ASYNC))


def _disassemble(option: str, path: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True, timeout=120).stdout


def _read_amdgcn(job: Job, code: str, shared: int) -> Compilation:
    def count(name: str) -> int:
        return max(map(int, re.findall(rf"\.{name}:\s+(\d+)", code)))

    kinds = Counter("MFMA_I8" if kind == "i32" else "MFMA" for kind in re.findall(r"\bv_mfma_([a-z0-9]+)_", code))
    copies = len(re.findall(r"\bbuffer_load_\S+ .*\blds\b|\bglobal_load_lds", code))
    # scalar registers are kept in lanes of vector registers, not in memory
    return Compilation(job, count("vgpr_count"), count("vgpr_spill_count"), shared, dict(kinds), copies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print a table, and return 1 where anything fails the gate, else 0.

    arguments: those of the command line where None.
    """
    parser = argparse.ArgumentParser(prog="python -m oracle_engine.kernels.gpu.tools.aot", description=__doc__)
    parser.add_argument("--subset", action="store_true", help="a few jobs that cover every kernel and target")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"some of {','.join(TARGETS)}")
    options = parser.parse_args(arguments)
    print(HEADER, flush=True)
    failed = total = 0
    for job in subset() if options.subset else jobs(options.targets.split(",")):
        result = compile_job(job)
        total, failed = total + 1, failed + bool(result.complaints)
        print(result, flush=True)
    print(f"{total - failed} of {total} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
