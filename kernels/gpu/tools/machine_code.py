"""Machine code as a disassembler prints it: instructions, the loop of the products, what guards shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import triton

from ....base.errors import invalid

# matrix instructions as they appear in the disassembly, on floating point and on whole numbers
ON_FLOATS = ("HGMMA", "UTCHMMA", "UTCQMMA", "HMMA", "MFMA")
ON_INTEGERS = ("IGMMA", "UTCIMMA", "IMMA", "MFMA_I8")
MATRIX = (*ON_FLOATS, *ON_INTEGERS)

# asynchronous copies to shared memory
COPIES = ("LDGSTS", "UTMALDG", "UBLKCP")

# what warps write to shared memory themselves
STORES = ("STS", "STSM", "ATOMS", "STAS")

BARRIERS = ("BAR", "s_barrier")

# additions in float32 outside the matrix unit
SUMS = ("FADD", "FADD2", "v_add_f32_e32", "v_pk_add_f32")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its place, in bytes or lines, and its text without what is printed about it."""

    place: int
    text: str

    @cached_property
    def full_name(self) -> str:
        """The name with its modifiers, as HGMMA.64x128x16.F32."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]

    @cached_property
    def name(self) -> str:
        """The name without modifiers; matrix instructions of AMD by their kind."""
        name = self.full_name.split(".")[0]
        if name.startswith("v_mfma"):
            return "MFMA_I8" if name.startswith("v_mfma_i32") else "MFMA"
        return name

    @cached_property
    def conditional(self) -> bool:
        """Whether it is skipped, or a branch not taken, on some condition."""
        return self.text.startswith("@") or "BRA.U" in self.text or self.name.startswith("s_cbranch")

    @cached_property
    def target(self) -> int | None:
        """Where a branch leads to; None for others."""
        if self.name not in ("BRA", "s_branch") and not self.name.startswith("s_cbranch"):
            return None
        found = re.search(r"0x([0-9a-f]+)", self.text)
        return int(found.group(1), 16) if found else None


Code = Sequence[Instruction]


def nvidia_code(cubin: bytes) -> tuple[Code, int]:
    """Return the instructions of a kernel for NVIDIA cards, and the registers of a thread.

    Raises InputError without a disassembler.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = _dumped(path)
    registers = max(map(int, re.findall(r"REG:(\d+)", text)))
    lines = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.MULTILINE)
    return [Instruction(int(place, 16), code.strip()) for place, code in lines], registers


def _dumped(path: Path) -> str:
    # comes with the wheel of Triton, so that no toolkit need be installed
    own = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    tool = str(own) if own.is_file() else shutil.which("cuobjdump")
    if tool is None:
        remedy = "install Triton from its wheel, which brings it, or a CUDA toolkit"
        raise invalid("cuobjdump", "must be there to count instructions", f"nothing at {own} or in PATH", remedy)
    command = [tool, "-sass", "-res-usage", str(path)]
    return str(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def amd_code(assembly: str) -> Code:
    """Return the instructions of a kernel for AMD cards; places are lines, and branches name them."""
    lines = [line.split(";")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: hex(number) for number, line in enumerate(lines) if line.endswith(":")}
    code = []
    for number, line in enumerate(lines):
        if re.match(r"[sv]_|ds_|global_|buffer_|flat_|scratch_", line):
            code.append(Instruction(number, re.sub(r"\.LBB\w+", lambda found: labels.get(found[0], found[0]), line)))
        elif line.startswith(".size"):
            break
    return code


def product_loop(code: Code, products: Sequence[str] = MATRIX) -> Code:
    """Return the smallest loop with products, by the names of their instructions, empty where there is none."""
    loops = []
    for instruction in code:
        target = instruction.target
        if target is not None and target <= instruction.place:
            body = [other for other in code if target <= other.place <= instruction.place]
            if any(other.name in products for other in body):
                loops.append(body)
    return min(loops, key=len, default=[])


def now_and_then(loop: Code) -> set[int]:
    """Return the places that a step may skip on its own: where sums are taken out of the matrix unit."""
    found: set[int] = set()
    for instruction in loop:
        target = instruction.target
        if target is None or not instruction.conditional or not instruction.place < target <= loop[-1].place:
            continue
        inside = [other for other in loop if instruction.place < other.place < target]
        names = Counter(other.name for other in inside)
        if sum(names[name] for name in SUMS) > len(inside) // 8 and not any(names[name] for name in MATRIX):
            found |= {other.place for other in inside}
    return found


def unguarded(code: Code) -> int:
    """Return after how many waits for a product of several warps a write may reach what the others' still read.

    A warp waits for its own part of a product. With another product in flight, no copy may be asked for before a
    barrier; without one, copies go where a product of an earlier step was, which a barrier has ended, but what warps
    store themselves goes where the last one may still read.
    """
    index = {instruction.place: number for number, instruction in enumerate(code)}
    waits = [number for number, instruction in enumerate(code) if in_flight(instruction) is not None]
    writes = [(*STORES, *(COPIES if in_flight(code[wait]) else ())) for wait in waits]
    return sum(_reached(code, index, wait + 1, names) for wait, names in zip(waits, writes, strict=True))


def in_flight(instruction: Instruction) -> int | None:
    """Return how many products a wait of a warp group leaves in flight; None for other instructions."""
    found = re.match(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x([0-9a-f]+)", instruction.text)
    return int(found.group(1), 16) if found else None


def _reached(code: Code, index: dict[int, int], start: int, names: Sequence[str]) -> bool:
    # whether one of `names` comes before a barrier, or the next product, on some way from `start`
    seen: set[int] = set()
    ahead = [start]
    while ahead:
        number = ahead.pop()
        if number in seen or number >= len(code):
            continue
        seen.add(number)
        instruction = code[number]
        if instruction.name in names:
            return True
        if instruction.name == "BAR" or "GMMA" in instruction.name:
            continue
        if instruction.target is not None:
            ahead.append(index.get(instruction.target, len(code)))
        if instruction.conditional or instruction.name not in ("BRA", "EXIT", "RET"):
            ahead.append(number + 1)
    return False
