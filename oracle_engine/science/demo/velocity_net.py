"""The network of the training demonstration."""

from __future__ import annotations

import math

import torch

from ...base.arrays import Float, Tensor

FREQUENCIES = 16
# of Adam, wherever this network is trained
LEARNING_RATE = 1e-3


class VelocityNet(torch.nn.Module):
    """A residual perceptron v(x, t) = c(t) x + f(x, t), with f modulated by Fourier features of t.

    The first term is the part of the velocity along x itself, which a layer narrower than x cannot represent.
    """

    def __init__(self, dim: int, width: int, blocks: int = 2) -> None:
        """Create the layers with torch's default initialisation, from its global generator.

        dim: values of a sample, D. width: hidden units of a layer. blocks: residual layers.
        """
        super().__init__()
        self.time = torch.nn.Sequential(
            torch.nn.Linear(2 * FREQUENCIES, width), torch.nn.SiLU(), torch.nn.Linear(width, (blocks + 1) * width + 1)
        )
        self.first = torch.nn.Linear(dim, width)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(blocks))
        self.last = torch.nn.Linear(width, dim)

    def forward(self, x: Float[Tensor, "B ..."], t: Float[Tensor, "B"]) -> Float[Tensor, "B ..."]:
        """Return the velocity, like x.

        x: [B, *shape] of D values each. t: times in [0, 1], [B], of the dtype of x.
        """
        flat = x.reshape(len(x), -1)
        angles = math.pi * t[:, None] * torch.arange(1, FREQUENCIES + 1, device=x.device, dtype=x.dtype)
        *shifts, along = self.time(torch.cat([angles.sin(), angles.cos()], 1)).split(self.first.out_features, 1)
        hidden = self.first(flat) + shifts[0]
        for block, shift in zip(self.blocks, shifts[1:], strict=True):
            hidden = hidden + block(torch.nn.functional.silu(hidden)) + shift
        answer: Tensor = along * flat + self.last(torch.nn.functional.silu(hidden))
        return answer.reshape(x.shape)
