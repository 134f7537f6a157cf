"""Facts about GPUs that launches depend on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch

# architectures whose int8 matrix unit runs at twice the rate of the 16-bit one, and the first version of Triton that
# uses it: three products of 8-bit rows with a digit of the query take the time of 1.5, against two with 16-bit parts,
# need no conversion of the rows, and their sums are exact, so fewer samples are rescored. Not sm_103, where that
# unit is slow, nor gfx90a, where both are equal. These factors follow from data sheets and are not measured
INT8_UNITS = {
    **dict.fromkeys(("sm_80", "sm_86", "sm_89", "sm_90", "sm_120", "gfx942", "gfx950", "interpreter"), (0, 0)),
    # older versions give it the instructions of older cards
    "sm_100": (3, 8),
}

# architectures with a copy engine that reads tiles through tensor descriptors
DESCRIPTORS = ("sm_90", "sm_100", "sm_103", "sm_120", "interpreter")

# values of D in 16 bits that a matrix unit adds at once before it cuts the running sum to float32; of float32 values it
# adds half as many. LEAST_STEP_DEPTH is for older units, and for those whose sums are not known. From arXiv 2511.10909,
# whose models give the bits of the hardware
STEP_DEPTH = dict.fromkeys(("sm_90", "sm_100", "sm_103", "sm_120"), 16)
LEAST_STEP_DEPTH = 8


@dataclass(frozen=True)
class Device:
    """A GPU as launches see it.

    name: as the driver calls it. architecture: sm_90, gfx942 or the like, or `interpreter`. multiprocessors: how many.
    shared_bytes: shared memory that a program may use, in bytes.
    """

    name: str
    architecture: str
    multiprocessors: int
    shared_bytes: int

    @property
    def multiplies_digits(self) -> bool:
        """Whether products with base-256 digits in its int8 matrix unit are faster than those of 16-bit numbers."""
        return self.architecture in INT8_UNITS and INT8_UNITS[self.architecture] <= triton_version()

    @property
    def has_descriptors(self) -> bool:
        """Whether a copy engine reads tiles through tensor descriptors."""
        return self.architecture in DESCRIPTORS

    def steps(self, depth: int) -> int:
        """Return how often a sum of `depth` products of 16-bit numbers is cut to float32."""
        return -(-depth // STEP_DEPTH.get(self.architecture, LEAST_STEP_DEPTH))


@lru_cache
def triton_version() -> tuple[int, ...]:
    """Return the first two numbers of the version of Triton, zeros where its package has another name."""
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return (0, 0)


@lru_cache
def device_of(device: torch.device) -> Device:
    """Return the facts about `device`; the CPU stands for the interpreter."""
    if device.type != "cuda":
        return Device("interpreter", "interpreter", 2, 1 << 30)
    facts = torch.cuda.get_device_properties(device)
    gcn = getattr(facts, "gcnArchName", "") if torch.version.hip else ""
    architecture = gcn.split(":")[0] or f"sm_{facts.major}{facts.minor}"
    shared = getattr(facts, "shared_memory_per_block_optin", 0) or facts.shared_memory_per_block
    return Device(facts.name, architecture, facts.multi_processor_count, shared)
