"""Other ways to compute the same velocity, each written for speed with the usual tools.

All of them hold the centred samples in floating point, precomputed half norms, and get the logits
gain <x - alpha mu, z_j> - gain alpha |z_j|^2 / 2 with gain = alpha / sigma^2. Their preparation is not timed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from oracle_engine import OracleDataset
from oracle_engine.base.environment import environment_report

from .truth import mean_value, value_blocks

Velocity = Callable[[Tensor, Tensor | float], Tensor]

# posterior mean [B, D] of centred samples for queries [B, D] in units of the logit and slopes [B or 1, 1] of |z|^2/2
Attend = Callable[[Tensor, Tensor], Tensor]


class UnavailableError(Exception):
    """A peer that cannot run here; the message says why."""


@dataclass(frozen=True)
class Centred:
    """Samples z_j = X_j - mu in value space.

    samples: [N, D]; mean: mu [D]; half_norms: |z_j|^2 / 2 [N]; all of one floating dtype.
    """

    samples: Tensor
    mean: Tensor
    half_norms: Tensor

    @classmethod
    def of(cls, data: OracleDataset, dtype: torch.dtype = torch.float32) -> Centred:
        """Centre in float64, then round once to `dtype`."""
        mean = mean_value(data)
        samples = torch.empty(len(data), data.dim, dtype=dtype, device=data.device)
        half_norms = torch.empty(len(data), dtype=dtype, device=data.device)
        start = 0
        for block in value_blocks(data):
            block -= mean
            stop = start + len(block)
            samples[start:stop], half_norms[start:stop] = block, 0.5 * block.square().sum(1)
            start = stop
        return cls(samples, mean.to(dtype), half_norms)


def eager(data: Centred) -> Attend:
    """Queries times data, softmax, weights times data."""

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        return torch.addmm(slope * data.half_norms, query, data.samples.T).softmax(1) @ data.samples

    return attend


def eager_columns(data: Centred) -> Attend:
    """Data times queries, transposed before the softmax.

    A softmax over columns would be as fast, but adds thousands of weights one after the other in float32, and its error
    would be above the bar.
    """

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        bias = data.half_norms[:, None] * slope.T
        return torch.addmm(bias, data.samples, query.T).T.softmax(1) @ data.samples

    return attend


def eager_transposed(data: Centred) -> Attend:
    """Queries times data from a second, transposed copy: the layout some matrix libraries read faster."""
    transposed = data.samples.T.contiguous()

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        return torch.addmm(slope * data.half_norms, query, transposed).softmax(1) @ data.samples

    return attend


def sdpa(data: Centred) -> Attend:
    """Attention of the queries to the data, with the norms as an additive mask."""
    samples = data.samples[None, None]

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        bias = (slope * data.half_norms).expand(len(query), -1)[None, None]
        return scaled_dot_product_attention(query[None, None], samples, samples, attn_mask=bias, scale=1.0)[0, 0]

    return attend


def bf16(data: Centred) -> Attend:
    """The first peer with both products in bf16; far from the accuracy bar."""
    samples = data.samples.bfloat16()

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        logits = (query.bfloat16() @ samples.T).float() + slope * data.half_norms
        return (logits.softmax(1).bfloat16() @ samples).float()

    return attend


def tf32(data: Centred) -> Attend:
    """The first peer with TF32 products; CUDA only, far from the accuracy bar."""
    if data.samples.device.type != "cuda":
        raise UnavailableError("TF32 is a mode of CUDA devices")
    plain = eager(data)

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return plain(query, slope)
        finally:
            torch.set_float32_matmul_precision(before)

    return attend


def keops(data: Centred) -> Attend:
    """KeOps' softmax-weighted sum, which never stores the logits."""
    try:
        import pykeops
        from pykeops.torch import LazyTensor
    except ImportError as error:
        raise UnavailableError("pykeops is not installed") from error
    pykeops.set_verbose(False)
    samples, half_norms = LazyTensor(data.samples[None]), LazyTensor(data.half_norms[None, :, None].contiguous())

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        slopes = LazyTensor(slope.expand(len(query), 1)[:, None].contiguous())
        logits = (LazyTensor(query[:, None].contiguous()) | samples) + slopes * half_norms
        mean: Tensor = logits.sumsoftmaxweight(samples, dim=1)
        return mean

    return attend


ATTENDS: dict[str, Callable[[Centred], Attend]] = {
    "eager": eager,
    "eager-columns": eager_columns,
    "eager-transposed": eager_transposed,
    "compiled": eager,
    "compiled-columns": eager_columns,
    "sdpa": sdpa,
    "keops": keops,
    "bf16": bf16,
    "tf32": tf32,
    "float64": eager,
}


def default_peers(device: torch.device) -> list[str]:
    """Return the peers worth timing on `device`; the others run when they are named."""
    names = ["eager", "eager-columns", "eager-transposed", "compiled", "compiled-columns", "sdpa", "keops"]
    if device.type == "cuda":
        return [*names, "bf16", "tf32"]
    # without matrix units a bf16 product is done in software, a hundred times slower than float32
    return [*names, "bf16"] if {"AMX", "AVX512-BF16"} & set(environment_report()["cpu"]["matrix_units"]) else names


def build_peer(name: str, data: Centred) -> Velocity:
    """Return the velocity of the peer `name`, a key of ATTENDS, computed in the dtype of `data`.

    Raises UnavailableError where it cannot run.
    """
    core = _velocity_core(data, ATTENDS[name](data))
    if name.startswith("compiled"):
        core = _compiled(core, data.samples.device)

    def velocity(x: Tensor, t: Tensor | float) -> Tensor:
        alpha = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1)
        flat = x.reshape(len(x), -1).to(data.mean.dtype)
        return core(flat, alpha.to(flat.dtype), (1 - alpha).to(flat.dtype)).reshape(x.shape)

    return velocity


def _velocity_core(data: Centred, attend: Attend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def core(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        gain = alpha / sigma.square()
        mean = attend(gain * (x - alpha * data.mean), -gain * alpha) + data.mean
        return mean - (x - alpha * mean) / sigma

    return core


def _compiled(core: Callable[[Tensor, Tensor, Tensor], Tensor], device: torch.device) -> Callable[..., Tensor]:
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UnavailableError("torch.compile needs a C++ compiler")
    # each data set and batch size is compiled separately, which is more often than the usual limit
    torch._dynamo.config.recompile_limit = 128
    return torch.compile(core, dynamic=False)
