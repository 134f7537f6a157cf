"""Kernels: posterior states of queries over rows, as plain tensor functions.

Import them as `oracle_engine.kernels`; the folder is not a package of its own.
"""

from .chunked import posterior_state, scan_memory
from .covariance import Vectors, covariance_product, reference_covariance_product
from .prepare import prepare_rows, total_variance
from .reference import reference_logits, reference_memory, reference_state
from .rows import Query, Rows, Span
from .state import PosteriorState, Wanted, concatenate, merge

__all__ = [
    "PosteriorState",
    "Query",
    "Rows",
    "Span",
    "Vectors",
    "Wanted",
    "concatenate",
    "covariance_product",
    "merge",
    "posterior_state",
    "prepare_rows",
    "reference_covariance_product",
    "reference_logits",
    "reference_memory",
    "reference_state",
    "scan_memory",
    "total_variance",
]
