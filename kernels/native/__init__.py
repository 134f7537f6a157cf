"""Kernels in C++ for the CPU, loaded as a shared library; without one the portable kernels serve."""

from __future__ import annotations

from .answer import NativeAnswers, ValueSpace
from .covariance import covariance_product
from .library import NativeLibrary, native_library
from .means import combined_norms, native_combined
from .measure import native_measured, native_prepared
from .pairs import native_pairs_state
from .scan import native_memory, native_state
from .segments import segments_state
from .values import float64_values

__all__ = [
    "NativeAnswers",
    "NativeLibrary",
    "ValueSpace",
    "combined_norms",
    "covariance_product",
    "float64_values",
    "native_combined",
    "native_library",
    "native_measured",
    "native_memory",
    "native_pairs_state",
    "native_prepared",
    "native_state",
    "segments_state",
]
