"""Whether kernels run in Triton's interpreter, which is decided when triton is imported."""

from __future__ import annotations

import triton.language as tl
from triton.knobs import runtime

INTERPRET = bool(runtime.interpret)

# the same for kernels
INTERPRETED = tl.constexpr(INTERPRET)
