"""The velocity with torch: products and a softmax, eager or compiled, fused attention, KeOps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .centred import Attend, Centred, SideVelocity, UnavailableError, times_of, velocity_around


def eager(data: Centred) -> Attend:
    """Queries times data, softmax, weights times data."""

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return softmax(logits) @ samples."""
        return torch.addmm(slope * data.half_norms, query, data.samples.T).softmax(1) @ data.samples

    return attend


def eager_columns(data: Centred) -> Attend:
    """Data times queries, transposed before the softmax.

    A softmax over columns would be as fast, but adds thousands of weights one after the other in float32, and its error
    would be above the bar.
    """

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return the same from logits whose queries are columns."""
        bias = data.half_norms[:, None] * slope.T
        return torch.addmm(bias, data.samples, query.T).T.softmax(1) @ data.samples

    return attend


def eager_transposed(data: Centred) -> Attend:
    """Queries times data from a second, transposed copy: the layout some matrix libraries read faster."""
    transposed = data.samples.T.contiguous()

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return the same from samples that are stored transposed."""
        return torch.addmm(slope * data.half_norms, query, transposed).softmax(1) @ data.samples

    return attend


def sdpa(data: Centred) -> Attend:
    """Attention of the queries to the data, with the norms as an additive mask."""
    samples = data.samples[None, None]

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return the same by scaled_dot_product_attention, with the norms as a mask."""
        bias = (slope * data.half_norms).expand(len(query), -1)[None, None]
        return scaled_dot_product_attention(query[None, None], samples, samples, attn_mask=bias, scale=1.0)[0, 0]

    return attend


def bf16(data: Centred) -> Attend:
    """The first peer with both products in bf16; far from the accuracy bar."""
    samples = data.samples.bfloat16()

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return the same from bfloat16 products."""
        logits = (query.bfloat16() @ samples.T).float() + slope * data.half_norms
        return (logits.softmax(1).bfloat16() @ samples).float()

    return attend


def tf32(data: Centred) -> Attend:
    """The first peer with TF32 products; CUDA only, far from the accuracy bar."""
    if data.samples.device.type != "cuda":
        raise UnavailableError("TF32 is a mode of CUDA devices")
    plain = eager(data)

    def attend(query: Tensor, slope: Tensor) -> Tensor:
        """Return the same while TF32 is allowed."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            mean: Tensor = plain(query, slope)
            return mean
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
        """Return the same by KeOps, without a matrix of logits."""
        slopes = LazyTensor(slope.expand(len(query), 1)[:, None].contiguous())
        logits = (LazyTensor(query[:, None].contiguous()) | samples) + slopes * half_norms
        mean: Tensor = logits.sumsoftmaxweight(samples, dim=1)
        return mean

    return attend


def _peer(way: Callable[[Centred], Attend], *, compiled: bool = False) -> Callable[[Centred], SideVelocity]:
    """Return a builder of the velocity that attends in this way, through torch.compile where `compiled`."""

    def build(data: Centred) -> SideVelocity:
        """Return the velocity over these samples."""
        attend = way(data)

        def core(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            """Return the velocity of flat queries [B, D]: what is compiled."""
            found: Tensor = velocity_around(attend, data.mean, x, alpha, sigma)
            return found

        run = _compiled(core, data.samples.device) if compiled else core

        def velocity(x: Tensor, t: Tensor | float) -> Tensor:
            """Return the velocity of queries x [B, *shape] at t."""
            flat = x.reshape(len(x), -1).to(data.mean.dtype)
            found: Tensor = run(flat, *times_of(t, data.mean))
            return found.reshape(x.shape)

        return velocity

    return build


def _compiled(core: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return `core` compiled. Raises UnavailableError where there is no compiler."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UnavailableError("torch.compile needs a C++ compiler")
    # each data set and batch size is compiled separately, which is more often than the usual limit
    torch._dynamo.config.recompile_limit = 128
    return torch.compile(core, dynamic=False)


TORCH: Mapping[str, Callable[[Centred], SideVelocity]] = {
    "eager": _peer(eager),
    "eager-columns": _peer(eager_columns),
    "eager-transposed": _peer(eager_transposed),
    "compiled": _peer(eager, compiled=True),
    "compiled-columns": _peer(eager_columns, compiled=True),
    "sdpa": _peer(sdpa),
    "keops": _peer(keops),
    "bf16": _peer(bf16),
    "tf32": _peer(tf32),
    # from a float64 copy of the data
    "float64": _peer(eager),
}
