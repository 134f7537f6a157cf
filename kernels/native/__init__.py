"""Kernels in C++ for the CPU, loaded as a shared library; without one the portable kernels serve."""

from __future__ import annotations

from .library import Native, native

__all__ = ["Native", "native"]
