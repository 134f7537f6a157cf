"""Kernels: posterior states of queries over rows, as plain tensor functions; nothing here knows flow matching.

Import them as `oracle_engine.kernels`; the folder is not a package of its own. This module and
`oracle_engine.kernels.screens` are the only doors: the rest of the package imports nothing below them.
"""

from .common.combine import Combination, combined
from .common.copies import most_copies, random_directions
from .common.describe import Described, Description, described, log_densities, log_of
from .common.prepare import Measures, centre_of, counted_copies, prepare_rows, recentred, stored_range, total_variance
from .common.rescore import COMPENSATED_WINDOW, FARTHEST, Pairs, difference_error
from .common.rows import LEAST_RADIUS, MOST_RADIUS, GivenPoints, Query, Rows, Span, ValueQuery
from .common.segments import SegmentWork, outside, span_by_span
from .common.state import PosteriorState, Wanted, concatenate, merge, merged_means
from .common.work import Work
from .gpu import (
    gpu_combined,
    gpu_described,
    gpu_memory,
    gpu_merged,
    gpu_proven,
    gpu_ready,
    gpu_segments,
    gpu_state,
)
from .native import (
    NativeAnswers,
    NativeLibrary,
    ValueSpace,
    combined_norms,
    covariance_product,
    float64_values,
    native_combined,
    native_library,
    native_measured,
    native_memory,
    native_prepared,
    native_state,
    segments_state,
)
from .pairs import pairs_state
from .portable.covariance import Directions, reference_covariance_product
from .portable.scan import posterior_state, scan_memory
from .reference import reference_logits, reference_memory, reference_state

__all__ = [
    "COMPENSATED_WINDOW",
    "FARTHEST",
    "LEAST_RADIUS",
    "MOST_RADIUS",
    "Combination",
    "Described",
    "Description",
    "Directions",
    "GivenPoints",
    "Measures",
    "NativeAnswers",
    "NativeLibrary",
    "Pairs",
    "PosteriorState",
    "Query",
    "Rows",
    "SegmentWork",
    "Span",
    "ValueQuery",
    "ValueSpace",
    "Wanted",
    "Work",
    "centre_of",
    "combined",
    "combined_norms",
    "concatenate",
    "counted_copies",
    "covariance_product",
    "described",
    "difference_error",
    "float64_values",
    "gpu_combined",
    "gpu_described",
    "gpu_memory",
    "gpu_merged",
    "gpu_proven",
    "gpu_ready",
    "gpu_segments",
    "gpu_state",
    "log_densities",
    "log_of",
    "merge",
    "merged_means",
    "most_copies",
    "native_combined",
    "native_library",
    "native_measured",
    "native_memory",
    "native_prepared",
    "native_state",
    "outside",
    "pairs_state",
    "posterior_state",
    "prepare_rows",
    "random_directions",
    "recentred",
    "reference_covariance_product",
    "reference_logits",
    "reference_memory",
    "reference_state",
    "scan_memory",
    "segments_state",
    "span_by_span",
    "stored_range",
    "total_variance",
]
