"""Count what a call would ask of a card, on a machine without one: nothing is launched, and nothing is compiled.

Triton's driver is replaced by one that names an H100. Tensors stay on the CPU and what kernels would write is zero, so
answers mean nothing; how many calls lead to them does not depend on values, but for numbers that the host reads early.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ....base.calls import checked
from ....base.calls.changes import Snapshot
from ....base.calls.early import EarlyNumber
from ..core.devices import Device
from ..scans import launch_checks

H100 = Device("NVIDIA H100 80GB HBM3", "sm_90", 132, 227 << 10)

# operations of torch that only look at memory, or take it
FREE = frozenset(
    (
        *("view", "expand", "slice", "select", "unsqueeze", "squeeze", "t", "transpose", "permute", "detach", "alias"),
        *("as_strided", "_unsafe_view", "unbind", "split", "split_with_sizes", "reshape", "_reshape_alias", "unfold"),
        *("diagonal", "empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "is_pinned"),
        *("lift_fresh", "sym_size", "promote_types"),
    )
)

# operations that make the host wait: values that it reads, sizes that it learns, and copies from it
WAITS = frozenset(("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "_unique2", "unique_dim"))


@dataclass
class Calls:
    """What was asked of the card.

    operations: of torch, by name, those that only look at memory left out. launches: of Triton kernels, by name.
    compilations: kernels that would have been compiled, by name and constants. early: numbers that the host reads while
    the card works on.
    """

    operations: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    compilations: Counter[str] = field(default_factory=Counter)
    early: int = 0

    @property
    def total(self) -> int:
        """Operations and launches together."""
        return self.operations.total() + self.launches.total()

    @property
    def waits(self) -> int:
        """How often the host waits for the card."""
        return sum(count for name, count in self.operations.items() if name in WAITS)

    def __str__(self) -> str:
        counts = f"{self.waits} waits, {self.early} early reads, {self.compilations.total()} compilations"
        parts = [f"{self.total} device calls, {counts}"]
        for name in ("launches", "operations", "compilations"):
            found = ", ".join(f"{key} {count}" for key, count in getattr(self, name).most_common())
            parts.append(f"  {name}: {found}")
        return "\n".join(parts)


class _Operations(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        # torch launches nothing for a result without values; a number that is read has one
        nothing = isinstance(result, torch.Tensor) and result.numel() == 0 and name not in WAITS
        if name not in FREE and not nothing:
            self.calls.operations[name] += 1
        return result


class _Driver:
    """A driver of Triton for a card that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_device_interface(self) -> Any:
        return torch.cpu

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


@dataclass
class PretendedCard:
    """Counts calls; made by :func:`pretended_card`.

    calls: of everything since the last :meth:`count` began. early: what is added to numbers that the host reads early.
    """

    calls: Calls = field(default_factory=Calls)
    seen: set[JITFunction[Any]] = field(default_factory=set)
    early: int = 0

    def count(self, function: Callable[[], Any]) -> Calls:
        """Return the calls that `function` makes; what an earlier one has compiled stays compiled."""
        self.calls = found = Calls()
        with _Operations(found):
            function()
        # what happens outside is not counted in these
        self.calls = Calls()
        return found

    def _reading(self, tolist: Callable[..., Any]) -> Callable[..., Any]:
        def reading(values: torch.Tensor) -> Any:
            """Count a read of the device, and return the values."""
            # torch reads memory of the host by itself
            self.calls.operations["_local_scalar_dense"] += 1
            return tolist(values)

        return reading

    def _reading_early(self) -> Callable[[EarlyNumber], int]:
        def reading(number: EarlyNumber) -> int:
            """Count the copy to the host, for which the card is not waited for, and return the number."""
            self.calls.operations["copy_"] += 1
            self.calls.early += 1
            with torch.utils._python_dispatch._disable_current_modes():
                return int(number._value) + self.early

        return reading

    def _run(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def counting(
            kernel: JITFunction[Any], *args: Any, grid: Any = None, warmup: bool = False, **options: Any
        ) -> Any:
            """Count a launch of `kernel`, which is prepared but not run."""
            self.seen.add(kernel)
            self.calls.launches[_name(kernel)] += 1
            return run(kernel, *args, grid=grid, warmup=True, **options)

        return counting

    def _compiling(self) -> Callable[..., object]:
        def compiling(
            kernel: JITFunction[Any], key: Any, signature: Any, device: int, constants: Any, *rest: Any
        ) -> object:
            """Count a compilation of `kernel` by its tile, and keep an empty one in its place."""
            names = [kernel.arg_names[place[0]] for place in constants if len(place) == 1]
            tile = sorted((name, constants[kernel.arg_names.index(name),]) for name in names if name.isupper())
            self.calls.compilations[" ".join([_name(kernel), *(f"{name}={value}" for name, value in tile)])] += 1
            compiled = object()
            kernel.device_caches[device][0][key] = compiled
            return compiled

        return compiling


def _name(kernel: JITFunction[Any]) -> str:
    return str(kernel.__name__)


def _zeros(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocating(*size: Any, **options: Any) -> torch.Tensor:
        """Return a new tensor that holds zeros: no kernel writes what would be read of it."""
        # below the dispatch that counts
        with torch.utils._python_dispatch._disable_current_modes():
            return allocate(*size, **options).zero_()

    return allocating


def _float64_values(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, None]:
    # as on a card, where the native library does not read them
    return x.detach().double().reshape(len(x), dim), None


@contextmanager
def pretended_card() -> Iterator[PretendedCard]:
    """Have the Triton kernels take the CPU for an H100 in this context, and count; not for the interpreter.

    Kernels that were compiled before are taken for new ones.
    """
    card, before = PretendedCard(), driver._active
    run = JITFunction.run
    with (
        patch.object(JITFunction, "run", card._run(run)),
        patch.object(JITFunction, "_do_compile", card._compiling()),
        patch.object(torch.Tensor, "tolist", card._reading(torch.Tensor.tolist)),
        patch.object(EarlyNumber, "read", card._reading_early()),
        patch.object(torch.Tensor, "new_empty", _zeros(torch.Tensor.new_empty)),
        patch.object(torch, "empty", _zeros(torch.empty)),
        patch.object(launch_checks, "device_of", lambda device: H100),
        patch.object(launch_checks, "INTERPRET", True),
        patch("oracle_engine.kernels.gpu.proven_card", lambda device, task: True),
        patch("oracle_engine.queries.builder.float64_values", _float64_values),
        # what is on a card is not read at once, and its samples have no probes
        patch.object(checked, "on_host", lambda values: False),
        patch.object(Snapshot, "differs", lambda *values: False),
    ):
        driver._active = _Driver()
        try:
            yield card
        finally:
            for kernel in card.seen:
                kernel.device_caches.clear()
            driver._active = before
