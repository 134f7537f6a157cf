"""Errors in one wording: which parameter, what it must be, what was received, and the remedy."""

from __future__ import annotations

import errno
from typing import TypeVar

_Kind = TypeVar("_Kind", bound="OracleError")

# how torch says that memory is short
_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "exceeds the maximum")


class OracleError(Exception):
    """Base class of every error that this package raises on purpose.

    parameter: the argument that the error is about or that mends it, or None. remedy: what the caller can do, without
    a full stop, or None. The message holds both; the command line replaces them by its options.
    """

    parameter: str | None = None
    remedy: str | None = None

    def about(self, parameter: str | None, remedy: str) -> OracleError:
        """Return the error with its message in other words.

        parameter: what takes the place of the argument, or None where the error names none. remedy: what takes the
        place of the remedy, without a full stop.
        """
        text = str(self)
        if self.parameter is not None and parameter is not None:
            text = text.replace(f"`{self.parameter}` ", f"`{parameter}` ", 1)
        if self.remedy is not None:
            text = text.removesuffix(f" Remedy: {self.remedy}.") + f" Remedy: {remedy}."
        return _with_remedy(type(self)(text), parameter, remedy)


class InputError(OracleError, ValueError):
    """An argument cannot be used; this is raised before any work starts."""


class DataFileError(OracleError, ValueError):
    """The content of a file is damaged, or of another kind than its name or place says."""


class DistributedError(OracleError, RuntimeError):
    """A rank, or an actor, is gone, stopped or elsewhere, so that a call of all of them has no answer.

    operation: what was asked for. found: what has become of it. rank: its number, or None where it is not known.
    seconds: for how long the caller had been waiting.
    """

    operation: str = ""
    found: str = ""
    rank: int | None = None
    seconds: float = 0.0


class MissingDependencyError(OracleError, ImportError):
    """An optional package that the requested feature needs is not installed."""


def invalid(parameter: str, requirement: str, received: object, remedy: str) -> InputError:
    """Return an :class:`InputError` about an argument, which the caller raises.

    parameter: the name of the argument. requirement: what it has to be, beginning with a verb ("must lie in [0, 1)").
    received: the value or a description of it, formatted by str. remedy: what the caller can do, without a full stop.

    >>> print(invalid("t", "must lie in [0, 1)", 1.0, "pass t_max=0.999 to clamp"))
    `t` must lie in [0, 1); received 1.0. Remedy: pass t_max=0.999 to clamp.
    """
    text = f"`{parameter}` {requirement}; received {received}. Remedy: {remedy}."
    return _with_remedy(InputError(text), parameter, remedy)


def bad_file(path: object, expected: str, found: str, remedy: str, *, parameter: str | None = None) -> DataFileError:
    """Return a :class:`DataFileError` about a file or a folder, which the caller raises.

    path: the file, formatted by str. expected, found: what the file should hold and what it holds, as nouns.
    remedy: what the caller can do, without a full stop. parameter: the argument that the remedy speaks of, if any.
    """
    text = f"{path}: expected {expected}; found {found}. Remedy: {remedy}."
    return _with_remedy(DataFileError(text), parameter, remedy)


def missing(package: str, feature: str, extra: str) -> MissingDependencyError:
    """Return a :class:`MissingDependencyError` with the pip line that repairs it, which the caller raises.

    package: the distribution as pip names it. feature: what needs it, the subject of the sentence.
    extra: the extra of oracle-velocity-engine that installs it.
    """
    return MissingDependencyError(
        f"{feature} needs the package `{package}`, which is not installed. Remedy: {install_words(package, extra)}."
    )


def lost(
    operation: str, found: str, seconds: float, remedy: str, *, rank: int | None = None, waiting: str = "this rank"
) -> DistributedError:
    """Return a :class:`DistributedError`, which the caller raises.

    operation: what all ranks were to do, a noun. found: what has become of a rank, a sentence without a full stop.
    seconds: for how long this rank has been waiting. remedy: what the caller can do, without a full stop. rank: the
    rank, or the actor, that failed, where it is known. waiting: who waited.
    """
    text = f"{operation}: {found}; {waiting} waited {seconds:.1f} s and has no answer. Remedy: {remedy}."
    error = _with_remedy(DistributedError(text), None, remedy)
    error.operation, error.found, error.rank, error.seconds = operation, found, rank, seconds
    return error


def install_words(packages: str, extra: str) -> str:
    """Return the pip lines that install an optional feature; this package is on no index, so its name is in neither.

    packages: the distributions as pip names them, separated by spaces. extra: the extra that names them in a checkout.
    """
    return f'pip install {packages} (or, in a checkout: pip install -e ".[{extra}]")'


def lacks_memory(error: BaseException) -> bool:
    """Return whether `error`, of Python, NumPy, torch or the system, says that there is no memory left."""
    short = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return short or any(part in str(error) for part in _NO_MEMORY)


def _with_remedy(error: _Kind, parameter: str | None, remedy: str) -> _Kind:
    error.parameter, error.remedy = parameter, remedy
    return error
