"""Which way time runs and what is predicted elsewhere, and the oracle as such a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ..base.arrays import Float, Float64, Tensor, exact
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.request import Guidance
from .evidence import check_direction, check_no_graph


@dataclass(frozen=True)
class Convention:
    """The times and the output of a family of tools.

    from_data: time runs from data at 0 to noise, and the output is dx/dt in that direction, such as noise - data.
    steps: times are counted in 1 / steps of the path.
    """

    from_data: bool = False
    steps: float = 1.0

    def ours(self, t: int | float | Tensor) -> Float64[Tensor, "..."]:
        """Return their times as ours, 0 noise and 1 data, float64."""
        fraction = exact(t) / self.steps
        return 1.0 - fraction if self.from_data else fraction

    def output(self, velocity: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return our velocity as theirs."""
        return -velocity if self.from_data else velocity


_FROM_NOISE, _FROM_DATA = Convention(), Convention(from_data=True)
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "flow_matching": _FROM_NOISE,
        "torchcfm": _FROM_NOISE,
        "sit": _FROM_NOISE,
        "lightningdit": _FROM_NOISE,
        "repa": _FROM_DATA,
        "diffusers": Convention(from_data=True, steps=1000.0),
    }
)


class VelocityModel:
    """The oracle as a model(x, t, y) of another project: its direction of time, its sign, its null label.

    engine: with the path of the project: its linear interpolant is rectified_flow, SiT's GVP and REPA's cosine are gvp.
    convention: a key of CONVENTIONS, or a Convention. null_label: what `y` says where there is no class, often the
    number of classes. check_time: refuse x that is unmistakably as noisy as at the mirrored time.

    A call takes x [B, *shape], t (a number, [] or [B]) and y [B], and returns what the network is trained to, like x.
    Raises InputError as OracleEngine.velocity does. Costs one velocity.
    """

    def __init__(
        self,
        engine: OracleEngine,
        convention: str | Convention,
        *,
        null_label: int | None = None,
        check_time: bool = True,
    ) -> None:
        self.engine, self.null_label, self.check_time = engine, null_label, check_time
        self.convention = resolve_convention(convention)

    def __call__(
        self,
        x: Float[Tensor, "B ..."],
        t: int | float | Tensor,
        y: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the oracle in the convention of the project; an interval of `guidance` is in our times."""
        check_no_graph(x)
        times = self.convention.ours(t).to(x.device)
        velocity = self.engine.velocity(x, times, labels=self._labels(y), guidance=guidance)
        # guidance leaves the path on purpose
        if self.check_time and guidance is None:
            check_direction(self.engine, x, times, velocity)
        return self.convention.output(velocity)

    def _labels(self, y: int | Tensor | None) -> Tensor | None:
        if y is None or self.null_label is None:
            return y if y is None else torch.as_tensor(y)
        labels = torch.as_tensor(y)
        return torch.where(labels == self.null_label, -1, labels)


def resolve_convention(convention: str | Convention) -> Convention:
    """Return the convention called so, or itself. Raises InputError for unknown names."""
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        known = f"must be one of {', '.join(CONVENTIONS)}, or a Convention"
        raise invalid("convention", known, repr(convention), "compare the direction of time and the sign")
    return CONVENTIONS[convention]
