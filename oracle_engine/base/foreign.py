"""Queries in arrays of other libraries, NumPy's and those that speak DLPack, and answers of the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from .arrays import Tensor, on_device
from .errors import invalid


class SpeaksDLPack(Protocol):
    """An array that others can look at through DLPack: a tensor, a NumPy array, an array of JAX or CuPy."""

    def __dlpack__(self, *arguments: Any, **options: Any) -> Any:
        """Return the memory of the array as a capsule."""

    def __dlpack_device__(self) -> Any:
        """Return where the memory is."""


if TYPE_CHECKING:
    Queries = TypeVar("Queries", bound=SpeaksDLPack)
else:
    # compiled code is not to look for methods
    Queries = TypeVar("Queries")


def is_foreign(x: Any) -> bool:
    """Return whether `x` is an array of another library."""
    return not isinstance(x, Tensor) and (isinstance(x, np.ndarray) or hasattr(x, "__dlpack__"))


def lent(x: Any, device: torch.device | None, name: str = "x") -> Tensor:
    """Return an array of another library as a tensor on `device`, or where it is for None.

    x: the array; NumPy's are copied, others share their memory where they are on that device. name: the parameter that
    errors name. Raises InputError where torch cannot take it.
    """
    if isinstance(x, np.ndarray):
        return on_device(x, device or torch.device("cpu"), name)
    try:
        held: Tensor = from_dlpack(x)
        return held if device is None else held.to(device)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        found = f"{type(x).__name__} ({str(error).splitlines()[0]})"
        raise invalid(name, "must be an array that torch can take by DLPack", found, "pass a tensor") from error


def answered_alike(x: Any, device: torch.device, answer: Callable[[Tensor], Tensor]) -> Any:
    """Return `answer` of an array of another library as an array of that library, where the array is.

    x: the array, for which :func:`is_foreign` holds. device: where the answer is computed. answer: of a tensor.
    Raises InputError where torch cannot take it, or where its library takes no answer.
    """
    given, back = there_and_back(x, device)
    return back(answer(given))


def there_and_back(x: Any, device: torch.device | None, name: str = "x") -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return an array of another library as a tensor, and what makes an array like it, where it is, of a tensor.

    x, device, name: as in :func:`lent`; errors as of :func:`answered_alike`.
    """
    if isinstance(x, np.ndarray):
        return lent(x, device, name), lambda answer: answer.detach().cpu().numpy()
    back = _from_dlpack(x, name)
    given = lent(x, device, name)
    home = from_dlpack(x).device
    return given, lambda answer: back(answer.detach().to(home).contiguous())


def _from_dlpack(x: Any, name: str) -> Callable[[Any], Any]:
    """Return what makes an array of the library of `x` of a tensor."""
    spaces = [x.__array_namespace__()] if hasattr(x, "__array_namespace__") else []
    spaces.append(sys.modules.get(type(x).__module__.partition(".")[0]))
    found = next((space.from_dlpack for space in spaces if hasattr(space, "from_dlpack")), None)
    if found is None:
        kind = f"{type(x).__module__}.{type(x).__name__}"
        raise invalid(name, "must be of a library with from_dlpack", kind, f"pass torch.from_dlpack({name})")
    made: Callable[[Any], Any] = found
    return made
