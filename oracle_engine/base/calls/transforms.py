"""Transforms of torch.func, such as vmap and jvp, that may surround a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def constant_when_compiled(function: F) -> F:
    """Return `function`, whose result torch.compile takes for a constant: it is called when code is traced.

    It does what torch.compiler.assume_constant_result does, without its import of the compiler and of triton.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def transformed() -> bool:
    """Return whether a transform of torch.func surrounds the call; where code is compiled, the tracing of it."""
    return bool(torch._C._functorch.peek_interpreter_stack() is not None)


def traced() -> bool:
    """Return whether the call is compiled, or traced by make_fx or with fake tensors: no value can be read then."""
    if torch.compiler.is_compiling():
        return True
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    modes, mode_of = torch._C._TorchDispatchModeKey, torch._C._get_dispatch_mode
    return mode_of(modes.PROXY) is not None or mode_of(modes.FAKE) is not None


def unreadable(*values: Any) -> bool:
    """Return whether the values of a tensor cannot be read: the call is traced, or vmap has batched one of `values`."""
    return traced() or batched(*values)


def batched(*values: Any) -> bool:
    """Return whether vmap has batched one of `values`."""
    if not transformed():
        return False
    for value in values:
        while isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
            if torch._C._functorch.is_batchedtensor(value):
                return True
            value = torch._C._functorch.get_unwrapped(value)
    return False


@contextmanager
def recorded() -> Iterator[None]:
    """Record graphs of plain tensors inside, even where torch.inference_mode or an operator has switched them off."""
    kept = torch._C._dispatch_tls_local_exclude_set().remove(torch._C.DispatchKey.AutogradFunctionality)
    with (
        torch.inference_mode(False),
        torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), kept),
        torch.enable_grad(),
    ):
        yield


@contextmanager
def untransformed() -> Iterator[None]:
    """Compute with plain tensors inside, whatever transform of torch.func surrounds the call."""
    if not transformed():
        yield
        return
    # imported here, because it imports the compiler
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        yield


if TYPE_CHECKING:
    cached_tensor = cached_property
else:

    class cached_tensor(cached_property):
        """A cached property whose tensors are plain, wherever it is read first.

        Inside a transform of torch.func a tensor belongs to the transform, and under torch.inference_mode autograd
        cannot save it: neither may be kept.
        """

        def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
            """Return the value for `instance`, computed at the first access, or the property itself without one."""
            plain = not transformed() and not torch.is_inference_mode_enabled()
            if instance is None or plain or self.attrname in instance.__dict__:
                return super().__get__(instance, owner)
            with untransformed(), torch.inference_mode(False), torch.no_grad():
                return super().__get__(instance, owner)
