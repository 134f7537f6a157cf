"""The types of the arguments of a kernel, as Triton's compiler is told them."""

from __future__ import annotations

from ..operands.splits import operand_dtype
from ..sums.law import Law
from .jobs import BOUNDS, COMPENSATED, PRODUCTS, TRITON_NAMES, Job

# arguments that are neither float32 pointers nor 32-bit integers; those of the operands depend on the dtype
TYPES = {
    "p_centre": "*fp16",
    "p_shift": "*i32",
    "p_excluded": "*i64",
    "p_list": "*i32",
    "p_live": "*i32",
    "p_marks": "*i8",
    "p_offset": "*i32",
    "p_total": "*i32",
    "p_panels": "*i32",
    "row_scale": "fp32",
    "p_rescore_count": "*i32",
    "p_rescore_row": "*i64",
    "p_row": "*i64",
    "p_first": "*i64",
    "p_listed": "*i32",
    "p_count": "*i32",
    "p_tile": "*i64",
    "p_columns": "*i32",
    "p_spans": "*i64",
    "p_table": "*i32",
    "p_candidate": "*i64",
    "p_places": "*i64",
    "p_row_held": "*i64",
    "p_named": "*i64",
    "p_row_out": "*i64",
    "p_counts": "*i32",
    "p_column": "*i64",
    "p_output": "*i64",
    "p_which": "*i64",
    "p_query": "*i64",
    "p_bits": "*i64",
    "p_end": "*i64",
    "p_place": "*i8",
    "p_digits": "*i8",
    "p_origin": "*i32",
    "p_reached": "*i32",
    "p_enter": "*i32",
    **dict.fromkeys(("radius", "reach", "log_rows"), "fp32"),
    **dict.fromkeys(("scale", "scale_rest", "scale_last", "offset", "offset_rest", "offset_last"), "fp32"),
    **dict.fromkeys(("half", "constant", "constant_rest", "constant_last"), "fp32"),
    **dict.fromkeys(("square", "square_rest", "square_last"), "fp32"),
    "first_row": "i64",
    "row_stride": "i64",
    "slice_stride": "i64",
}

# arguments that have another type in one kernel than in others
OWN = {
    **dict.fromkeys(BOUNDS, dict.fromkeys(("p_half_norm", "p_log_weight"), "*fp64")),
    "describe": dict.fromkeys(("p_order", "p_index", "p_mass"), "*i64"),
    "close": {"p_closed": "*i64"},
    **{kernel: {"p_place": "*i64"} for kernel in ("union", "union moments", "union top", "union doubt")},
    "point": dict.fromkeys(("p_point", "p_shared", "p_facts"), "*fp64"),
    "coefficients": {
        **dict.fromkeys(("p_facts", "p_alpha", "p_precision", "p_scale", "p_centre", "p_blur", "p_typical"), "*fp64"),
        **dict.fromkeys(("beyond", "upper", "row_size", "square_size", "shared", "weights", "deviations"), "fp32"),
        "p_edge": "*i32",
        "p_source": "*i64",
    },
    "floor": {"p_floor": "*fp32", "p_closed": "*i64"},
    "entry": {
        **dict.fromkeys(("p_alpha", "p_precision", "p_least", "p_costs"), "*fp64"),
        "p_source": "*i64",
        "p_entry": "*i32",
    },
    "certify": {"p_found": "*i8", "p_pending": "*i32", "p_gain": "*fp64", "p_gap": "*fp64"},
    "list": {
        **dict.fromkeys(("p_listed", "p_enter"), "*i32"),
        **dict.fromkeys(("p_kept", "p_opened", "p_closed"), "*i64"),
        "p_found": "*i8",
        **dict.fromkeys(("p_before", "p_omitted", "p_common"), "*fp64"),
    },
    "segments": dict.fromkeys(
        ("p_pairs", "p_order", "p_place", "p_query", "p_own", "p_ranges", "p_between", "p_apart"), "*i64"
    ),
}

# kernels that compute in float64
DOUBLE = (
    *("distance", "rescore", "rescore spread", "one read", *COMPENSATED),
    *("partition", "add", "doubt", "state", "state variance"),
    *("union", "union moments", "union top", "union doubt"),
    *("parts", "split digits", "combine", "merge", "move", "describe", "floor", "certify"),
)

# their arguments that are no float64 pointers, where another kernel has one of that name
SINGLE = {
    "p_stats": "partition",
    "p_sums": "add",
    "p_reference": "partition",
    "p_gain": "",
    "p_slope": "",
    "p_shares": "",
}


def argument_type(name: str, job: Job) -> str:
    """Return the type of the argument `name` of the kernel of `job`, such as "*fp16" of a pointer."""
    stored, operand = TRITON_NAMES[job.stored], TRITON_NAMES[operand_dtype(job.stored)]
    if name in ("rows", "query", "weights", "gathered") and job.kernel in PRODUCTS:
        return _tile_type(name, job, stored, "i8" if job.kernel == "digits" else operand)
    if name in OWN.get(job.kernel, {}):
        return OWN[job.kernel][name]
    if name in ("p_rows", "p_codes"):
        return f"*{stored}"
    if name in ("p_query", "p_weights", "p_gathered"):
        return f"*{operand}"
    if name in ("p_parts", "p_digits", "p_out") and job.kernel in ("parts", "split digits", "combine"):
        return "*i8" if job.kernel == "split digits" else f"*{stored}"
    if name in ("p_sums", "p_shift") and job.kernel in ("split digits", "shift"):
        return "*i32"
    if name in SINGLE and job.kernel in (SINGLE[name] or DOUBLE):
        return "*fp32"
    if name.startswith("p_") and job.kernel in DOUBLE:
        return TYPES.get(name, "*fp64")
    if job.kernel in ("partition", "doubt", "union doubt") and name in Law._fields:
        return "fp32"
    return TYPES.get(name, "*fp32" if name.startswith("p_") else "i32")


def _tile_type(name: str, job: Job, stored: str, operand: str) -> str:
    """Return the type of what tiles are read through: a descriptor, or a pointer."""
    config, (queries, weights) = job.config, job.parts
    held = queries if job.kernel == "score" else 1
    shapes = {"rows": (config.block_n, config.block_d), "query": (held, config.block_b, config.block_d)}
    shape = shapes.get(name, (config.block_n, weights * config.block_b))
    kind = stored if name == "rows" else operand
    return f"tensordesc<{kind}[{','.join(map(str, shape))}]>" if job.reads_descriptors else f"*{kind}"
