"""A kernel of one configuration that is compiled for one target, and what of its machine code is to be expected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.backends.compiler import GPUTarget

from ..core.devices import Device
from ..core.tiles import Tile
from ..operands.splits import EXACT, HALF, operand_dtype, part_slots
from .machine_code import ON_FLOATS

# what is compiled for, and the shared memory that a program may use there: sm_80 also stands for the 99 KB of sm_86
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 99 << 10),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 << 10),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 << 10),
}

# what Triton calls the dtypes
TRITON_NAMES = {
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}

# kernels that bound the rows of a screen
BOUNDS = ("maxima", "above")

# kernels that multiply blocks, and of these the ones that score
SCORES = ("score", "digits")
PRODUCTS = (*SCORES, "dense", "listed", "fused")

# kernels that compute in twice the digits of float64
COMPENSATED = ("compensate", "compensate spread", "compensated slots", "based")

# matrix instructions of each target on whole numbers
INTEGER_UNITS = {"sm_80": ("IMMA",), "sm_90": ("IGMMA", "IMMA"), "sm_100": ("UTCIMMA",), "gfx942": ("MFMA_I8",)}


@dataclass(frozen=True)
class Job:
    """One kernel of one configuration for one target.

    target: a key of TARGETS. kernel: its name. stored: dtype of the rows. config: the tile. half: whether operands are
    split as in half precision. segmented: whether tiles of queries have rows of their own.
    """

    target: str
    kernel: str
    stored: torch.dtype
    config: Tile
    half: bool = False
    segmented: bool = False

    def __str__(self) -> str:
        tile = f"{self.config.block_n}x{self.config.block_b}x{self.config.block_d}"
        further = f"{' half' if self.half else ''}{' own' if self.segmented else ''}"
        launch = f"w{self.config.warps} s{self.config.stages}{further}"
        return f"{self.target:7} {self.kernel:8} {TRITON_NAMES[self.stored]:5} {tile:11} {launch}"

    @property
    def wants_matrix_unit(self) -> bool:
        """Whether the kernel multiplies blocks; other kernels work element by element."""
        return self.kernel in PRODUCTS

    @property
    def device(self) -> Device:
        """A device of the target."""
        return Device(self.target, self.target, 1, 1)

    @property
    def reads_descriptors(self) -> bool:
        """Whether the kernel reads tiles through tensor descriptors."""
        return self.device.has_descriptors and self.kernel in (*SCORES, "dense", "listed", "place")

    @property
    def parts(self) -> tuple[int, int]:
        """Numbers that a tile holds of a query and of a weight."""
        split, dtype = HALF if self.half else EXACT, operand_dtype(self.stored)
        queries = split.digits if self.kernel == "digits" else split.query[dtype]
        return queries if self.kernel in ("digits", "fused") else part_slots(queries), split.weight[dtype]

    @property
    def wants_wgmma(self) -> bool:
        """Whether the matrix instructions of Hopper must appear, which compute 64 rows of the accumulator at once."""
        tile = self.config
        rows = {"dense": tile.block_d, "listed": tile.block_d, "fused": tile.block_b}.get(self.kernel, tile.block_n)
        return self.target == "sm_90" and self.kernel in PRODUCTS and rows >= 64

    @property
    def units(self) -> tuple[str, ...]:
        """The matrix instructions that may appear: on whole numbers for digits, on floating point ones for others."""
        if self.kernel in BOUNDS:
            # codes beside features
            return (*INTEGER_UNITS[self.target], *ON_FLOATS)
        return INTEGER_UNITS[self.target] if self.kernel == "digits" else ON_FLOATS
