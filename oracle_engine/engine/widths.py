"""What widths of the Gaussians around samples an engine takes."""

from __future__ import annotations

import math

from torch import Tensor

from ..base.errors import invalid


def check_point_std(point_std: float | Tensor) -> None:
    """Check that `point_std` is one width, in value space, for all samples; raises InputError for anything else."""
    if isinstance(point_std, Tensor) and point_std.numel() != 1:
        remedy = "use oracle_engine.PointGaussians, or pass the root of its mean square"
        found = f"a tensor of shape {list(point_std.shape)}, which gives every sample a kernel of its own"
        raise invalid("point_std", "must be one width for all samples", found, remedy)
    if not 0.0 <= point_std < math.inf:
        raise invalid("point_std", "must be a finite number >= 0", point_std, "pass the width in value space")
