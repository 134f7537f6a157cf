"""What a multiprocessor of each target holds and does in a cycle, from the data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.tiles import ceil_div


@dataclass(frozen=True)
class Machine:
    """A multiprocessor, and the card that it is part of.

    registers: of 32 bits for each of its four parts. granule: registers of a thread are given in multiples of it.
    lanes: threads of a warp. shared: bytes that programs share, of which each takes `reserved` more than it asks for.
    warps, programs: the most at once. products: multiplications with addition of 16-bit numbers in a cycle, of 8-bit
    ones twice as many. multiprocessors: of the card. clock: in Hz. read: bytes of memory that the card reads a second.
    """

    registers: int
    granule: int
    lanes: int
    shared: int
    reserved: int
    warps: int
    programs: int
    products: int
    multiprocessors: int
    clock: float
    read: float

    def resident(self, registers: int, shared: int, warps: int) -> int:
        """Return how many programs a multiprocessor holds at once.

        registers: of a thread. shared: bytes of a program. warps: of a program.
        """
        given = ceil_div(max(registers, 1), self.granule) * self.granule * self.lanes
        by_registers = 4 * min(self.registers // given, self.warps // 4) // warps
        by_shared = self.shared // max(1, shared + self.reserved)
        return min(by_registers, by_shared, self.programs)

    def read_cycles(self, size: int) -> float:
        """Return the cycles that a multiprocessor waits for `size` bytes while all of them read."""
        return size * self.multiprocessors * self.clock / self.read


# an A100, an H100, a B200 and a MI300X. Rates of memory are those of long copies, about nine tenths of the data sheet
MACHINES = {
    "sm_80": Machine(16384, 8, 32, 164 << 10, 1 << 10, 64, 32, 1024, 108, 1.41e9, 1.75e12),
    "sm_90": Machine(16384, 8, 32, 228 << 10, 1 << 10, 64, 32, 2048, 132, 1.755e9, 3.0e12),
    "sm_100": Machine(16384, 8, 32, 228 << 10, 1 << 10, 64, 32, 4096, 148, 1.85e9, 7.0e12),
    # registers of both kinds together
    "gfx942": Machine(32768, 8, 64, 64 << 10, 0, 32, 16, 1024, 304, 2.1e9, 4.3e12),
}
