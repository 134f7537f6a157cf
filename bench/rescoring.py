"""The engine without its rescoring by direct differences, which shows the cost of that step and the error without."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from oracle_engine import OracleEngine
from oracle_engine.compare.peers import SideVelocity, UnavailableError
from oracle_engine.kernels import PosteriorState, Work, native_library, native_memory, posterior_state, scan_memory
from oracle_engine.kernels.common.matmul import ieee_products
from oracle_engine.kernels.common.rounding import Windows
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeScan, Rounding, product_dtype
from oracle_engine.kernels.portable.blocks import BLOCK_LIMITS
from oracle_engine.kernels.portable.scan import score_dtype
from oracle_engine.kernels.portable.single import SingleScan
from oracle_engine.scans.backends import BACKENDS, Backend


class CoarseScan(SingleScan):
    """The scan in float32 with empty rescore windows, so that it lists no sample to rescore."""

    def _windows(self) -> Windows:
        found = super()._windows()
        return replace(found, rescore=torch.full_like(found.rescore, -torch.inf))


def coarse_state(work: Work) -> PosteriorState:
    """Return what the portable scan returns, from coarse logits alone where it scores in float32."""
    if score_dtype(work.rows) == torch.float64:
        return posterior_state(work)
    with ieee_products(work.rows.device.type):
        scan = CoarseScan(work, BLOCK_LIMITS)
        for block in scan.scores.blocks():
            scan.add(block)
        return scan.result().coarse


class CoarseNativeScan(NativeScan):
    """The native scan with a law by which no rounding shows, so that it lists no sample to rescore."""

    def rounding(self) -> Rounding:
        """Return a law by which errors of any size are allowed."""
        return Rounding(product_dtype(self.work.rows), math.inf, (math.inf, math.inf))


def coarse_native_state(work: Work) -> PosteriorState:
    """Return what the native scan returns, from coarse logits alone."""
    library = native_library().library
    assert library is not None
    with ieee_products("cpu"):
        return CoarseNativeScan(work, library, NATIVE_LIMITS).state()


COARSE = {"torch": Backend(coarse_state, scan_memory), "native": Backend(coarse_native_state, native_memory)}


def without_rescoring(engine: OracleEngine) -> SideVelocity:
    """Return the velocity of the engine without rescoring. Raises UnavailableError for other backends than two."""
    if engine.backend not in COARSE:
        raise UnavailableError("only the native and the torch backend can leave rescoring out")
    name = f"coarse {engine.backend}"
    BACKENDS.setdefault(name, COARSE[engine.backend])
    return OracleEngine(engine.data, engine.path, backend=name, mode=engine.mode).velocity
