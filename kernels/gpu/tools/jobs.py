"""What is compiled ahead of time: every listed configuration, for every target, with the kernels launched beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..candidates import candidates_kernel
from ..combine import COMBINE_BLOCK, combine_kernel
from ..compensate import COMPENSATED_TILE, based_kernel, compensated_slots_kernel
from ..devices import Device
from ..finish import SHARE_BLOCK, STATE_BLOCK, state_kernel
from ..fused import fused_kernel
from ..live_rows import DENSE_SHARE, PREFIX_BLOCK, place_kernel, prefix_kernel
from ..logits import finish_kernel, score_kernel
from ..logits_int8 import digits_kernel
from ..merge import MERGE_BLOCK, merge_kernel
from ..moved_query import MOVE_BLOCK, moved_query_kernel
from ..one_read import ONE_READ_ARCHITECTURES, ONE_READ_DIM, one_read_kernel, one_read_tile
from ..operands import EXACT, HALF, operand_dtype, part_slots
from ..panels import PANEL_BLOCK, panels_kernel
from ..partition import PARTITION_QUERIES, TILE_BLOCK, Law, partition_kernel
from ..query_operand import QUERY_BLOCK, QUERY_WARPS, query_digits_kernel, query_parts_kernel, shift_kernel
from ..rescore import RESCORE_TILE
from ..rescore_kernels import rescore_kernel, spread_kernel
from ..rescore_list import EVERY, ORDER_BLOCK, order_kernel
from ..rescore_top import TOP_BLOCK, distance_kernel
from ..running_sums import MOST_PARTS, SUM_QUERIES, SUM_TILES, TOTAL_BLOCK, add_kernel
from ..screen_logits import (
    DIGITS_BLOCK,
    DIGITS_WARPS,
    FEW_QUERIES,
    MANY_QUERIES,
    SCREEN_CODES,
    SCREEN_FEATURES,
    SCREEN_ROWS,
    SCREEN_STAGES,
    SCREEN_WARPS,
    factor_digits_kernel,
)
from ..screen_tiles import (
    CLOSE_QUERIES,
    CLOSE_TILES,
    NAMED_TILES,
    above_kernel,
    close_kernel,
    maxima_kernel,
    named_kernel,
)
from ..segment_order import SEGMENT_BLOCK, segment_order_kernel
from ..tables import TABLES, table_name
from ..tiles import AnyConfig, DigitConfig, FusedConfig, ScoreConfig, Tile, WeighConfig
from ..variance import VARIANCE_BLOCK, variance_kernel
from ..weighted_sum import dense_kernel, listed_kernel
from ..weights import weights_kernel, weights_rows
from .machine_code import FLOATING

# what is compiled for, and the shared memory that a program may use there: sm_80 also stands for the 99 KB of sm_86
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 99 << 10),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 << 10),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 << 10),
}

STORED = {
    "half": (torch.float16,),
    "brain": (torch.bfloat16,),
    "byte": (torch.uint8, torch.int8),
    "single": (torch.float32,),
}
KERNEL_NAMES = {
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}

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
    **dict.fromkeys(("radius", "reach"), "fp32"),
    **dict.fromkeys(("scale", "scale_rest", "scale_last", "offset", "offset_rest", "offset_last"), "fp32"),
    "first_row": "i64",
    "row_stride": "i64",
    "slice_stride": "i64",
}

# kernels that bound the rows of a screen
BOUNDS = ("maxima", "above")

# arguments that have another type in one kernel than in others
OWN = {
    **dict.fromkeys(BOUNDS, dict.fromkeys(("p_half_norm", "p_log_weight"), "*fp64")),
    "factor digits": dict.fromkeys(("p_factors", "p_centre", "p_slack"), "*fp64"),
    "close": {"p_below": "*fp64"},
    "named": {"p_upper": "*fp64"},
    "segments": dict.fromkeys(("p_pairs", "p_order", "p_place", "p_query", "p_own", "p_ranges"), "*i64"),
}

# kernels that multiply blocks, and of these the ones that score
SCORES = ("score", "digits")
PRODUCTS = (*SCORES, "dense", "listed", "fused")

# kernels that compute in twice the digits of float64, and all that compute in float64
COMPENSATED = ("compensate", "compensated spread", "compensated slots", "based")
DOUBLE = (
    *("distance", "rescore", "spread", "one read", *COMPENSATED),
    *("partition", "add", "state", "variance", "parts", "split digits", "combine", "merge", "move"),
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

# matrix instructions of each target on whole numbers
INTEGER = {"sm_80": ("IMMA",), "sm_90": ("IGMMA", "IMMA"), "sm_100": ("UTCIMMA",), "gfx942": ("MFMA_I8",)}

QUERY_TILE = replace(RESCORE_TILE, warps=QUERY_WARPS)


@dataclass(frozen=True)
class Job:
    """One kernel of one configuration for one target.

    target: a key of TARGETS. kernel: its name. stored: dtype of the rows. config: the tile. half: whether operands are
    split as in half precision. segmented: whether tiles of queries have rows of their own.
    """

    target: str
    kernel: str
    stored: torch.dtype
    config: AnyConfig | Tile
    half: bool = False
    segmented: bool = False

    def __str__(self) -> str:
        tile = f"{self.config.block_n}x{self.config.block_b}x{self.config.block_d}"
        further = f"{' half' if self.half else ''}{' own' if self.segmented else ''}"
        launch = f"w{self.config.warps} s{self.config.stages}{further}"
        return f"{self.target:7} {self.kernel:8} {KERNEL_NAMES[self.stored]:5} {tile:11} {launch}"

    @property
    def wants_matrix_unit(self) -> bool:
        """Whether the kernel multiplies blocks; other kernels work element by element."""
        return self.kernel in PRODUCTS

    @property
    def device(self) -> Device:
        """A device of the target."""
        return Device(self.target, self.target, 1, 1)

    @property
    def described(self) -> bool:
        """Whether the kernel reads tiles through tensor descriptors."""
        return self.device.has_descriptors and self.kernel in (*SCORES, "dense", "listed", "place")

    @property
    def parts(self) -> tuple[int, int]:
        """Numbers that a tile holds of a query and of a weight."""
        split, dtype = HALF if self.half else EXACT, operand_dtype(self.stored)
        queries = split.digits if self.kernel == "digits" else split.query[dtype]
        return queries if self.kernel in ("digits", "fused") else part_slots(queries), split.weight[dtype]

    @property
    def wants_wgmma(self) -> bool:
        """Whether the matrix instructions of Hopper must appear, which compute 64 rows of the accumulator at once."""
        tile = self.config
        rows = {"dense": tile.block_d, "listed": tile.block_d, "fused": tile.block_b}.get(self.kernel, tile.block_n)
        return self.target == "sm_90" and self.kernel in PRODUCTS and rows >= 64

    @property
    def units(self) -> tuple[str, ...]:
        """The matrix instructions that may appear: on whole numbers for digits, on floating point ones for others."""
        if self.kernel in BOUNDS:
            # codes beside features
            return (*INTEGER[self.target], *FLOATING)
        return INTEGER[self.target] if self.kernel == "digits" else FLOATING


def jobs(targets: Sequence[str]) -> Iterator[Job]:
    """Yield every listed configuration for `targets`, keys of TARGETS, with the kernels that are launched beside it."""
    for target in targets:
        for kind, table in TABLES[table_name(target)].items():
            configs = dict.fromkeys(choice.config for choice in table)
            for stored in STORED[kind]:
                for config in configs:
                    yield from _jobs_of(target, stored, config)
                    # few queries are about the same segment
                    if config.block_b == 16 and not isinstance(config, FusedConfig):
                        found = _jobs_of(target, stored, config)
                        yield from (replace(job, segmented=True) for job in found if job.kernel != "finish")
        yield from _rescoring(target)


def _jobs_of(target: str, stored: torch.dtype, config: AnyConfig) -> Iterator[Job]:
    if isinstance(config, DigitConfig):
        if Device(target, target, 1, 1).multiplies_digits:
            yield Job(target, "digits", stored, config)
            yield Job(target, "finish", stored, config)
    elif isinstance(config, ScoreConfig):
        yield Job(target, "score", stored, config)
        yield Job(target, "finish", stored, config)
    elif isinstance(config, WeighConfig):
        dense = ("dense",) if Device(target, target, 1, 1).has_descriptors else ()
        for kernel in (*dense, "weights"):
            yield Job(target, kernel, stored, config)
        for kernel in ("listed", "place"):
            yield Job(target, kernel, stored, config.listed(stored.itemsize))
    else:
        yield Job(target, "fused", stored, config)


def _rescoring(target: str) -> Iterator[Job]:
    """Yield the kernels around the products, which have one tile for all devices."""
    for stored in dict.fromkeys(dtype for dtypes in STORED.values() for dtype in dtypes):
        for kernel in ("distance", "rescore", "spread"):
            yield Job(target, kernel, stored, RESCORE_TILE)
        for kernel in ("compensate", "compensated spread", "compensated slots"):
            yield Job(target, kernel, stored, COMPENSATED_TILE)
        if target in ONE_READ_ARCHITECTURES and stored.itemsize > 1:
            yield Job(target, "one read", stored, one_read_tile(ONE_READ_DIM))
    yield from _bounding(target)
    for stored in (torch.float16, torch.bfloat16):
        yield Job(target, "parts", stored, QUERY_TILE)
    for stored in (torch.float16, torch.bfloat16, torch.float32):
        yield Job(target, "combine", stored, RESCORE_TILE)
    yield Job(target, "split digits", torch.uint8, QUERY_TILE)
    yield Job(target, "prefix", torch.float32, RESCORE_TILE)
    yield Job(target, "based", torch.float32, replace(COMPENSATED_TILE, warps=1))
    for kernel in (
        "shift",
        "partition",
        "add",
        "state",
        "variance",
        "candidates",
        "panels",
        "segments",
        "merge",
        "move",
        "order",
    ):
        yield Job(target, kernel, torch.float32, RESCORE_TILE)


def _bounding(target: str) -> Iterator[Job]:
    """Yield the kernels of screens: of float32 features, and of 8-bit codes with features beside them."""
    for batch in (FEW_QUERIES, MANY_QUERIES):
        tile = Tile(SCREEN_ROWS, batch, SCREEN_CODES, SCREEN_WARPS, SCREEN_STAGES)
        for kernel in BOUNDS:
            for stored in (torch.float32, torch.int8, torch.uint8):
                yield Job(target, kernel, stored, tile)
    yield Job(target, "factor digits", torch.int8, Tile(1, 1, DIGITS_BLOCK, DIGITS_WARPS, 3))
    yield Job(target, "close", torch.float32, Tile(CLOSE_TILES, CLOSE_QUERIES, 1, 4, 3))
    yield Job(target, "named", torch.float32, Tile(NAMED_TILES, 1, SCREEN_ROWS, 4, 3))


def subset() -> list[Job]:
    """Return a few jobs that cover every kernel, dtype and target and compile in well under a minute."""
    chosen: dict[tuple[str, str], Job] = {}
    for job in jobs(["sm_90"]):
        # the last of each is the one for large batches
        chosen[job.kernel, KERNEL_NAMES[job.stored]] = job
    keys = (
        ("score", "fp16"),
        ("dense", "fp16"),
        ("weights", "bf16"),
        ("dense", "u8"),
        ("score", "fp32"),
        ("place", "fp16"),
    )
    few = [chosen[key] for key in keys]
    few += [replace(chosen[key], half=True) for key in (("score", "u8"), ("weights", "fp16"), ("listed", "bf16"))]
    others = [job for target in ("sm_80", "sm_100", "gfx942") for job in jobs([target])]
    firsts = {(job.target, job.kernel): job for job in reversed(others) if job.kernel in ("score", "digits")}
    fused = next(job for job in jobs(["sm_90"]) if job.kernel == "fused")
    rescoring = [
        chosen[key] for key in (("distance", "fp32"), ("rescore", "u8"), ("spread", "fp16"), ("order", "fp32"))
    ]
    rescoring += [chosen[key] for key in (("compensate", "fp16"), ("compensated slots", "u8"), ("based", "fp32"))]
    rescoring += [chosen[key] for key in (("parts", "bf16"), ("combine", "fp16"), ("split digits", "u8"))]
    rescoring += [
        chosen["maxima", "u8"],
        chosen["above", "fp32"],
        chosen["factor digits", "i8"],
    ]
    rescoring += [chosen[key, "fp32"] for key in ("shift", "partition", "add", "state")]
    return [*few, chosen["digits", "u8"], fused, *rescoring, *firsts.values()]


def source_of(job: Job) -> ASTSource:
    """Return what the compiler is given for `job`, with arguments as in a launch whose D is a multiple of 16."""
    kernel, constants = _kernel_of(job)
    signature = {name: "constexpr" if name in constants else _type_of(name, job) for name in kernel.arg_names}
    never = set(kernel.do_not_specialize or ())
    even = [
        index
        for index, (name, kind) in enumerate(signature.items())
        if name not in never and (kind.startswith("*") or name == "dim" or name.endswith("_stride"))
    ]
    attrs = {(index,): [["tt.divisibility", 16]] for index in even}
    return ASTSource(kernel, signature, constexprs=constants, attrs=attrs)


def _type_of(name: str, job: Job) -> str:
    stored, operand = KERNEL_NAMES[job.stored], KERNEL_NAMES[operand_dtype(job.stored)]
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
    if job.kernel == "partition" and name in Law._fields:
        return "fp32"
    return TYPES.get(name, "*fp32" if name.startswith("p_") else "i32")


def _tile_type(name: str, job: Job, stored: str, operand: str) -> str:
    """Return the type of what tiles are read through: a descriptor, or a pointer."""
    config, (queries, weights) = job.config, job.parts
    held = queries if job.kernel == "score" else 1
    shapes = {"rows": (config.block_n, config.block_d), "query": (held, config.block_b, config.block_d)}
    shape = shapes.get(name, (config.block_n, weights * config.block_b))
    kind = stored if name == "rows" else operand
    return f"tensordesc<{kind}[{','.join(map(str, shape))}]>" if job.described else f"*{kind}"


def _kernel_of(job: Job) -> tuple[Any, dict[str, Any]]:
    config, (queries, weights) = job.config, job.parts
    tile = {"BLOCK_N": config.block_n, "BLOCK_B": config.block_b}
    every = {"EVERY": config.every, "DESCRIBED": job.described} if isinstance(config, Tile) else {}
    rescored = {"BLOCK_N": config.block_n, "BLOCK_D": config.block_d}
    given = {"WEIGHTED": True, "CENTRED": False, **rescored}
    read = {"RANGES": 1, "UNIT": RESCORE_TILE.block_n, "STAGES": config.stages}
    # one label per query is the usual number of excluded ranges; weights add a load
    segmented = {"SEGMENTED": job.segmented}
    scored = {**tile, **every, **segmented, "BLOCK_D": config.block_d, "PARTS": queries, "WEIGHTED": True}
    exact = {name: value for name, value in scored.items() if name != "EVERY"}
    summed = {**tile, "BLOCK_D": config.block_d, "PARTS": weights}
    rows, dense = weights_rows(config.block_b), {"DENSE": DENSE_SHARE, "DESCRIBED": job.described}
    placed = {"WIDTH": weights * config.block_b, "TAIL": config.block_n, "BLOCK_N": rows}
    # rows that are codes have norms beside them, others all they need; two digits are more than one
    coded = job.stored != torch.float32
    beside = {"FEATURES": True, "NORMED": coded, "WEIGHTED": coded, "SHARED": True, "BLOCK_E": SCREEN_FEATURES}
    bounds = {**tile, **beside, "DIGITS": 2 if coded else 0, "BLOCK_D": SCREEN_CODES}
    kernels: dict[str, tuple[Any, dict[str, Any]]] = {
        "score": (score_kernel, {**scored, "STORE": True}),
        "digits": (digits_kernel, exact),
        "finish": (finish_kernel, {**tile, "WEIGHTED": True}),
        "dense": (dense_kernel, {**summed, **segmented, "EVERY": getattr(config, "every", 0), "DENSE": DENSE_SHARE}),
        "listed": (listed_kernel, {**summed, **segmented, **every, **dense}),
        "weights": (
            weights_kernel,
            {**tile, **segmented, "BLOCK_N": rows, "PARTS": weights, "STORE": True, "MOMENTS": False},
        ),
        "prefix": (prefix_kernel, {"BLOCK": PREFIX_BLOCK}),
        "place": (place_kernel, {**placed, **segmented, **dense}),
        "distance": (distance_kernel, {"WEIGHTED": True, **rescored}),
        "rescore": (rescore_kernel, {**given, "MEAN": True, "TWICE": False}),
        "spread": (spread_kernel, {**given, "TWICE": False}),
        "compensate": (rescore_kernel, {**given, "MEAN": True, "TWICE": True}),
        "compensated spread": (spread_kernel, {**given, "TWICE": True}),
        "compensated slots": (compensated_slots_kernel, given),
        "based": (based_kernel, {"BLOCK": TOP_BLOCK}),
        "one read": (one_read_kernel, {**read, "WEIGHTED": True, "MEAN": True, **rescored}),
        "parts": (
            query_parts_kernel,
            {"PARTS": queries, "SLOTS": part_slots(queries), "CENTRED": True, "BLOCK": QUERY_BLOCK},
        ),
        "split digits": (query_digits_kernel, {"DIGITS": EXACT.digits, "UNIT": 128, "BLOCK": QUERY_BLOCK}),
        "shift": (shift_kernel, {"BLOCK": 128}),
        "partition": (partition_kernel, {"PARTS": MOST_PARTS, "BLOCK_T": TILE_BLOCK, "BLOCK_B": PARTITION_QUERIES}),
        "add": (add_kernel, {"SUMS": 4, "BLOCK_T": SUM_TILES, "BLOCK_B": SUM_QUERIES, "BLOCK_D": TOTAL_BLOCK}),
        "state": (
            state_kernel,
            {
                "PARTS": MOST_PARTS,
                "CENTRED": True,
                "MOVED": True,
                "BLOCK_N": config.block_n,
                "BLOCK_S": SHARE_BLOCK,
                "BLOCK_D": STATE_BLOCK,
            },
        ),
        "variance": (variance_kernel, {"CENTRED": True, "BLOCK": VARIANCE_BLOCK}),
        "candidates": (candidates_kernel, {"SEGMENTED": True, "BLOCK": 256}),
        "move": (moved_query_kernel, {"GATHERED": True, "BLOCK": MOVE_BLOCK}),
        "merge": (merge_kernel, {"BLOCK": MERGE_BLOCK}),
        "segments": (segment_order_kernel, {"BLOCK": SEGMENT_BLOCK}),
        "panels": (panels_kernel, {"BLOCK_B": 16, "BLOCK": PANEL_BLOCK}),
        "combine": (combine_kernel, {"BLOCK": COMBINE_BLOCK}),
        "maxima": (maxima_kernel, {**bounds, "BEFORE": True}),
        "above": (above_kernel, bounds),
        "factor digits": (factor_digits_kernel, {"CENTRED": True, "DIGITS": 1, "BLOCK": config.block_d}),
        "close": (close_kernel, {"BLOCK_T": config.block_n, "BLOCK_B": config.block_b}),
        "named": (named_kernel, {"BLOCK_T": config.block_n, "BLOCK_N": config.block_d}),
        "order": (order_kernel, {"EVERY": EVERY, "BLOCK": ORDER_BLOCK}),
        "fused": (fused_kernel, {**summed, "QUERY_PARTS": queries, "WEIGHTED": True, "MEAN": True, "RANGES": 1}),
    }
    return kernels[job.kernel]
