"""What the compiler is given for a job: the kernel, the constants of its launch, and the types of its arguments."""

from __future__ import annotations

from typing import Any

import torch
from triton.compiler import ASTSource

from ..late.entries import entry_kernel
from ..late.projection import coefficients_kernel, point_kernel
from ..late.screen_logits import SCREEN_CODES, SCREEN_FEATURES, SCREEN_ROWS
from ..late.screen_tiles import FIRST_ROWS, above_kernel, close_kernel, maxima_kernel
from ..late.search_floor import floor_kernel
from ..late.search_kernels import certify_kernel, list_kernel
from ..operands.moved_query import MOVE_BLOCK, moved_query_kernel
from ..operands.panels import PANEL_BLOCK, panels_kernel
from ..operands.queries import QUERY_BLOCK, query_digits_kernel, query_parts_kernel, shift_kernel
from ..operands.splits import EXACT, part_slots
from ..products.candidates import candidates_kernel
from ..products.fused import fused_kernel
from ..products.live_rows import DENSE_SHARE, PREFIX_BLOCK, place_kernel, prefix_kernel
from ..products.logits import finish_kernel, score_kernel
from ..products.logits_int8 import digits_kernel
from ..products.weighted_sum import dense_kernel, listed_kernel
from ..products.weights import weights_kernel, weights_rows
from ..rescore.compensate import based_kernel, compensated_slots_kernel
from ..rescore.doubt import doubt_kernel
from ..rescore.kernel import rescore_kernel
from ..rescore.lists import EVERY, ORDER_BLOCK, order_kernel
from ..rescore.steps import RESCORE_TILE
from ..scans.one_read import one_read_kernel
from ..scans.segment_order import SEGMENT_BLOCK, segment_order_kernel
from ..states.combine import COMBINE_BLOCK, combine_kernel
from ..states.describe import DESCRIBE_BLOCK, describe_kernel
from ..states.finish import state_kernel
from ..states.merge import MERGE_BLOCK, merge_kernel
from ..states.top import TOP_BLOCK, distance_kernel
from ..states.union_kernels import UNION_BLOCK, UNION_TOP, union_doubt_kernel, union_kernel, union_top_kernel
from ..sums.partition import PARTITION_QUERIES, TILE_BLOCK, partition_kernel
from ..sums.running_sums import MOST_PARTS, SUM_QUERIES, SUM_TILES, TOTAL_BLOCK, add_kernel
from ..sums.state_steps import SHARE_BLOCK, STATE_BLOCK
from .argument_types import argument_type
from .jobs import Job

# a kernel, and the constants that it is launched with by name
Specialisation = tuple[Any, dict[str, Any]]


def source_of(job: Job) -> ASTSource:
    """Return what the compiler is given for `job`, with arguments as in a launch whose D is a multiple of 16."""
    kernel, constants = _specialisation(job)
    signature = {name: "constexpr" if name in constants else argument_type(name, job) for name in kernel.arg_names}
    never = set(kernel.do_not_specialize or ())
    even = [
        index
        for index, (name, kind) in enumerate(signature.items())
        if name not in never and (kind.startswith("*") or name == "dim" or name.endswith("_stride"))
    ]
    attrs = {(index,): [["tt.divisibility", 16]] for index in even}
    return ASTSource(kernel, signature, constexprs=constants, attrs=attrs)


def _specialisation(job: Job) -> Specialisation:
    return {**_scores(job), **_sums(job), **_rescores(job), **_queries(job), **_states(job), **_bounds(job)}[job.kernel]


def _scores(job: Job) -> dict[str, Specialisation]:
    """Return the kernels of the logits: a query usually has one excluded range, its label, and weights add a load."""
    tile = {"BLOCK_N": job.config.block_n, "BLOCK_B": job.config.block_b}
    descriptors = {"SEGMENTED": job.segmented, "DESCRIBED": job.reads_descriptors}
    scored = {**tile, **descriptors, "BLOCK_D": job.config.block_d, "PARTS": job.parts[0], "WEIGHTED": True}
    return {
        "score": (score_kernel, {**scored, "EVERY": job.config.every, "STORE": True}),
        "digits": (digits_kernel, scored),
        "finish": (finish_kernel, {**tile, "WEIGHTED": True}),
    }


def _sums(job: Job) -> dict[str, Specialisation]:
    """Return the kernels of weights and weighted sums, and the one that does everything in one read."""
    config, (queries, weights) = job.config, job.parts
    tile = {"BLOCK_N": config.block_n, "BLOCK_B": config.block_b}
    segmented = {"SEGMENTED": job.segmented}
    summed = {**tile, "BLOCK_D": config.block_d, "PARTS": weights}
    descriptors = {"DESCRIBED": job.reads_descriptors, "DENSE": DENSE_SHARE}
    rows = weights_rows(config.block_b)
    placed = {"WIDTH": weights * config.block_b, "TAIL": config.block_n, "BLOCK_N": rows}
    weighed = {**tile, **segmented, "BLOCK_N": rows, "PARTS": weights, "STORE": True, "MOMENTS": False}
    return {
        "dense": (dense_kernel, {**summed, **segmented, "EVERY": config.every, "DENSE": DENSE_SHARE}),
        "listed": (listed_kernel, {**summed, **segmented, **descriptors, "EVERY": config.every}),
        "weights": (weights_kernel, weighed),
        "prefix": (prefix_kernel, {"BLOCK": PREFIX_BLOCK}),
        "place": (place_kernel, {**placed, **segmented, **descriptors}),
        "fused": (fused_kernel, {**summed, "QUERY_PARTS": queries, "WEIGHTED": True, "MEAN": True, "RANGES": 1}),
    }


def _rescores(job: Job) -> dict[str, Specialisation]:
    """Return the kernels that score rows again in float64, or in twice its digits."""
    tile = {"BLOCK_N": job.config.block_n, "BLOCK_D": job.config.block_d}
    given = {"WEIGHTED": True, "CENTRED": False, **tile}
    read = {"RANGES": 1, "UNIT": RESCORE_TILE.block_n, "STAGES": job.config.stages}
    return {
        "distance": (distance_kernel, {"WEIGHTED": True, **tile}),
        "rescore": (rescore_kernel, {**given, "MEAN": True, "SPREAD": False, "TWICE": False}),
        "rescore spread": (rescore_kernel, {**given, "MEAN": True, "SPREAD": True, "TWICE": False}),
        "compensate": (rescore_kernel, {**given, "MEAN": True, "SPREAD": False, "TWICE": True}),
        "compensate spread": (rescore_kernel, {**given, "MEAN": True, "SPREAD": True, "TWICE": True}),
        "compensated slots": (compensated_slots_kernel, given),
        "based": (based_kernel, {"MOVED": True, "BLOCK": TOP_BLOCK}),
        "one read": (one_read_kernel, {**read, "WEIGHTED": True, "MEAN": True, "SPREAD": False, **tile}),
        "candidates": (candidates_kernel, {"CHOSEN": True, "SEGMENTED": True, "BLOCK": 256}),
        "order": (order_kernel, {"EVERY": EVERY, "BLOCK": ORDER_BLOCK}),
    }


def _queries(job: Job) -> dict[str, Specialisation]:
    """Return the kernels that write queries as products take them, and that order them."""
    slots = {"PARTS": job.parts[0], "SLOTS": part_slots(job.parts[0]), "CENTRED": True, "BLOCK": QUERY_BLOCK}
    return {
        "parts": (query_parts_kernel, slots),
        "split digits": (query_digits_kernel, {"DIGITS": EXACT.digits, "UNIT": 128, "BLOCK": QUERY_BLOCK}),
        "shift": (shift_kernel, {"BLOCK": 128}),
        "move": (moved_query_kernel, {"GATHERED": True, "BLOCK": MOVE_BLOCK}),
        "segments": (segment_order_kernel, {"UNIONS": True, "BLOCK": SEGMENT_BLOCK}),
        "panels": (panels_kernel, {"BLOCK_B": 16, "BLOCK": PANEL_BLOCK}),
    }


def _states(job: Job) -> dict[str, Specialisation]:
    """Return the kernels that make states of sums over tiles."""
    blocks = {"BLOCK_N": job.config.block_n, "BLOCK_S": SHARE_BLOCK, "BLOCK_D": STATE_BLOCK}
    state = {"PARTS": MOST_PARTS, "CENTRED": True, **blocks}
    return {
        "partition": (partition_kernel, {"PARTS": MOST_PARTS, "BLOCK_T": TILE_BLOCK, "BLOCK_B": PARTITION_QUERIES}),
        "add": (add_kernel, {"SUMS": 4, "BLOCK_T": SUM_TILES, "BLOCK_B": SUM_QUERIES, "BLOCK_D": TOTAL_BLOCK}),
        "doubt": (doubt_kernel, state),
        "state": (state_kernel, {**state, "MOVED": True, "VARIANCE": False, "OVERFLOWED": False}),
        "state variance": (state_kernel, {**state, "MOVED": True, "VARIANCE": True, "OVERFLOWED": False}),
        "merge": (merge_kernel, {"BLOCK": MERGE_BLOCK}),
        "union": (union_kernel, {"MOMENTS": False, "BLOCK": UNION_BLOCK}),
        "union moments": (union_kernel, {"MOMENTS": True, "BLOCK": UNION_BLOCK}),
        "union top": (union_top_kernel, {"BLOCK": UNION_TOP}),
        "union doubt": (union_doubt_kernel, {"BLOCK": UNION_BLOCK}),
        "describe": (describe_kernel, {"MASSES": True, "ORDERED": True, "BLOCK": DESCRIBE_BLOCK}),
        "combine": (combine_kernel, {"BLOCK": COMBINE_BLOCK}),
    }


def _bounds(job: Job) -> dict[str, Specialisation]:
    """Return the kernels of screens; rows that are codes have norms beside them, others all they need."""
    config, coded = job.config, job.stored != torch.float32
    beside = {"FEATURES": True, "NORMED": coded, "WEIGHTED": coded, "SHARED": True, "BLOCK_E": SCREEN_FEATURES}
    # two digits are more than one
    codes = {"DIGITS": 2 if coded else 0, "BLOCK_D": SCREEN_CODES}
    known = {"SOURCE": job.stored != torch.uint8, "SHARED": job.stored != torch.uint8, "WEIGHTED": True}
    # rows as they are stored have nothing beside them
    kind = {"FEATURES": job.stored != torch.uint8, "CODED": coded, "CENTRED": job.stored == torch.uint8, "DIGITS": 1}
    bounds = {"BLOCK_N": config.block_n, "BLOCK_B": config.block_b, **beside, **codes}
    return {
        "maxima": (maxima_kernel, bounds),
        "above": (above_kernel, bounds),
        "close": (close_kernel, {"BLOCK_T": config.block_n, "BLOCK_B": config.block_b}),
        "point": (point_kernel, {"SHARED": True, "BLOCK": config.block_d}),
        "coefficients": (coefficients_kernel, {**known, **kind, "BLOCK": config.block_d}),
        "floor": (floor_kernel, {"ANSWER": True, "WEIGHTED": True, "FIRST": FIRST_ROWS, "BLOCK": config.block_d}),
        "entry": (entry_kernel, {"SOURCE": True, "BLOCK": config.block_d}),
        "certify": (certify_kernel, {"BLOCK": config.block_d}),
        "list": (list_kernel, {"BLOCK": config.block_d, "BLOCK_T": config.block_n, "BLOCK_N": SCREEN_ROWS}),
    }
