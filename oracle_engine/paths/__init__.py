"""Probability paths: the class :class:`Path` of all, those that have a name, and the table of the names."""

from .paths import EDM, GVP, PATHS, VP, LinearVP, Path, Polynomial, RectifiedFlow

__all__ = ["EDM", "GVP", "PATHS", "VP", "LinearVP", "Path", "Polynomial", "RectifiedFlow"]
