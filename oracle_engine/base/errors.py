"""Errors in one wording: which parameter, what it must be, what was received, and the remedy."""

from __future__ import annotations


class OracleError(Exception):
    """Base class of every error that this package raises on purpose."""


class InputError(OracleError, ValueError):
    """An argument cannot be used; this is raised before any work starts."""


class DataFileError(OracleError, ValueError):
    """The content of a file is damaged, or of another kind than its name or place says."""


class MissingDependencyError(OracleError, ImportError):
    """An optional package that the requested feature needs is not installed."""


def invalid(parameter: str, requirement: str, received: object, remedy: str) -> InputError:
    """Return an :class:`InputError` about an argument, which the caller raises.

    parameter: the name of the argument. requirement: what it has to be, beginning with a verb ("must lie in [0, 1)").
    received: the value or a description of it, formatted by str. remedy: what the caller can do, without a full stop.

    >>> print(invalid("t", "must lie in [0, 1)", 1.0, "pass t_max=0.999 to clamp"))
    `t` must lie in [0, 1); received 1.0. Remedy: pass t_max=0.999 to clamp.
    """
    return InputError(f"`{parameter}` {requirement}; received {received}. Remedy: {remedy}.")


def bad_file(path: object, expected: str, found: str, remedy: str) -> DataFileError:
    """Return a :class:`DataFileError` about a file or a folder, which the caller raises.

    path: the file, formatted by str. expected, found: what the file should hold and what it holds, as nouns.
    remedy: what the caller can do, without a full stop.
    """
    return DataFileError(f"{path}: expected {expected}; found {found}. Remedy: {remedy}.")


def missing(package: str, feature: str, extra: str) -> MissingDependencyError:
    """Return a :class:`MissingDependencyError` with the pip line that repairs it, which the caller raises.

    package: the distribution as pip names it. feature: what needs it, the subject of the sentence.
    extra: the extra of oracle-velocity-engine that installs it.
    """
    return MissingDependencyError(
        f"{feature} needs the package `{package}`, which is not installed. "
        f'Remedy: pip install "oracle-velocity-engine[{extra}]" (or: pip install {package}).'
    )
