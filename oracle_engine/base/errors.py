"""Errors in one wording: which parameter, what it must be, what was received, and the remedy."""

from __future__ import annotations


class OracleError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(OracleError, ValueError):
    """An argument that cannot be used; raised before any work starts."""


class DataFileError(OracleError, ValueError):
    """A file whose content is not what its name or place promises."""


class MissingDependencyError(OracleError, ImportError):
    """An optional package that the requested feature needs and that is not installed."""


def invalid(parameter: str, requirement: str, received: object, remedy: str) -> InputError:
    """Word an :class:`InputError`; the caller raises it.

    >>> raise invalid("t", "must lie in [0, 1)", 1.0, "pass t_max=0.999 to clamp")
    """
    return InputError(f"`{parameter}` {requirement}; received {received}. Remedy: {remedy}.")


def bad_file(path: object, expected: str, found: str, remedy: str) -> DataFileError:
    """Word a :class:`DataFileError`; the caller raises it."""
    return DataFileError(f"{path}: expected {expected}; found {found}. Remedy: {remedy}.")


def missing(package: str, feature: str, extra: str) -> MissingDependencyError:
    """Word a :class:`MissingDependencyError` with the pip line that repairs it; the caller raises it."""
    return MissingDependencyError(
        f"{feature} needs the package `{package}`, which is not installed. "
        f'Remedy: pip install "oracle-velocity-engine[{extra}]" (or: pip install {package}).'
    )
