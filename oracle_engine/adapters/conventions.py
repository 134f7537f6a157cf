"""The direction of time and the sign of the output in other projects, and the oracle as such a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ..base.arrays import Float, Float64, Tensor, exact
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.conditions import Guidance
from .evidence import check_direction, check_no_graph


@dataclass(frozen=True)
class Convention:
    """The times and the output of a family of projects.

    from_data: whether time runs from data at 0 to noise, and the output is dx/dt in that direction, such as noise -
        data; else 0 is noise, as in the engine.
    steps: what their time counts up to; times are divided by it. A positive number.
    """

    from_data: bool = False
    steps: float = 1.0

    def engine_time(self, t: int | float | Tensor) -> Float64[Tensor, "..."]:
        """Return times `t` of the project, a number or any shape in [0, steps], as engine times in [0, 1], float64."""
        fraction = exact(t) / self.steps
        return 1.0 - fraction if self.from_data else fraction

    def model_output(self, velocity: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return a `velocity` of the engine, [B, *sample_shape], as the output of the project's model, like it."""
        return -velocity if self.from_data else velocity


_FROM_NOISE, _FROM_DATA = Convention(), Convention(from_data=True)
# the conventions that VelocityModel knows by name
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
    convention: a key of CONVENTIONS, or a Convention.
    null_label: what `y` says where there is no class, often the number of classes; None where `y` has -1 for it.
    check_time: whether to refuse x that is unmistakably as noisy as at the mirrored time.
    Raises InputError for conventions of other names.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import adapters
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> x, repa = torch.randn(2, 1, 8, 8), adapters.VelocityModel(engine, "repa", null_label=10)
    >>> torch.equal(repa(x, 0.9, torch.tensor([3, 10])), -engine.velocity(x, 0.1, labels=torch.tensor([3, -1])))
    True
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
        *,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the oracle in the convention of the project, what its network is trained to.

        x: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        t: times of the project: a number, [], [B] or [B, 1, ...] in [0, steps].
        y: classes, an integer or [B], or None.
        guidance: as in OracleEngine.velocity, a number, [B], or a Guidance, whose interval is in engine times.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as OracleEngine.velocity does, for x that requires a gradient, and where time seems to run the
        other way. Costs one velocity.
        """
        check_no_graph(x)
        times = self.convention.engine_time(t).to(x.device)
        velocity = self.engine.velocity(x, times, labels=self._labels(y), guidance=guidance)
        # guided states leave the path on purpose
        if self.check_time and guidance is None:
            check_direction(self.engine, x, times, velocity)
        return self.convention.model_output(velocity)

    def _labels(self, y: int | Tensor | None) -> Tensor | None:
        if y is None or self.null_label is None:
            return y if y is None else torch.as_tensor(y)
        labels = torch.as_tensor(y)
        return torch.where(labels == self.null_label, -1, labels)


def resolve_convention(convention: str | Convention) -> Convention:
    """Return the convention called `convention`, or itself where it is one. Raises InputError for unknown names."""
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        known = f"must be one of {', '.join(CONVENTIONS)}, or a Convention"
        raise invalid("convention", known, repr(convention), "compare the direction of time and the sign")
    return CONVENTIONS[convention]
