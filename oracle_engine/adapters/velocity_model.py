"""The oracle as the velocity model of another project, in its call shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..base.arrays import Float, Float64, Numbers, Tensor, check_shape, integers, on_device, reals
from ..base.calls.transforms import unreadable
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..engine.arguments import check_oracle
from ..engine.oracle import Oracle
from ..queries.conditions import Guidance
from ..queries.labels import check_null_label
from .conventions import Convention, Returns, TransformerOutput, resolve_convention
from .evidence import check_direction, mostly_noise, one_time
from .extras import check_extras

Output = Tensor | TransformerOutput | tuple[Any, ...]


class VelocityModel(torch.nn.Module):
    """The oracle as a model(x, t, y) of another project: its order of arguments, its time, its sign, its output.

    engine: with the path of the project: its linear interpolant is rectified_flow, SiT's GVP and REPA's cosine are gvp.
        Solvers that step over the end of their grid need an engine with t_max, as with SolverModel.
    convention: a key of CONVENTIONS in any spelling, or a Convention.
    null_label: what `y` says where there is no class, often the number of classes; None where `y` has -1 for it.
    check_time: whether to refuse x that is unmistakably as noisy as at the mirrored time. A solver whose first call is
        at a time of noise, the same for all states, is not checked after it: adaptive ones try steps that are too long.
        Compiled calls are not checked.
    returns: "tensor", "tuple" or "sample" in place of what the convention returns, see Convention.
    guided_channels: how many of the first channels `forward_with_cfg` guides; None for all. The code of SiT and
        LightningDiT guides three.
    ignore_conditions: whether text embeddings are ignored even where no class is named.
    Raises InputError for conventions of other names and for an engine that is none.

    What is returned is what the loops of the project take apart: a tensor for flow_matching, torchcfm, SiT and
    LightningDiT; (output, []) for REPA, whose sampler takes [0] and whose loss unpacks the features beside it; a
    TransformerOutput, or a tuple under return_dict=False, for diffusers, SD3 and FLUX. torchcfm calls model(t, x), or
    model(xt) with the time as last of D + 1 columns.

    Keywords of networks are accepted and ignored where they cannot change an oracle (force_fp32, img_ids, txt_ids, and
    everything that is None, empty or zero). Text embeddings and other conditions are ignored where classes are named
    or with ignore_conditions=True, else refused, like augmentations, skipped layers and names that are not known.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import adapters
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> x, repa = torch.randn(2, 1, 8, 8), adapters.VelocityModel(engine, "repa", null_label=10)
    >>> output, features = repa(x, 0.9, torch.tensor([3, 10]))
    >>> torch.equal(output, -engine.velocity(x, 0.1, labels=torch.tensor([3, -1]))), features
    (True, [])
    """

    def __init__(
        self,
        engine: Oracle,
        convention: str | Convention,
        *,
        null_label: int | None = None,
        check_time: bool = True,
        returns: Returns | None = None,
        guided_channels: int | None = None,
        ignore_conditions: bool = False,
    ) -> None:
        super().__init__()
        check_oracle(engine)
        check_null_label(null_label, engine.data.segments)
        known = resolve_convention(convention)
        self.engine, self.null_label, self.check_time = engine, null_label, check_time
        self.convention = known if returns is None else replace(known, returns=returns)
        self.guided_channels, self.ignore_conditions = guided_channels, ignore_conditions
        # whether the first call was at one time of much noise; None before it
        self._starts_with_noise: bool | None = None

    def forward(
        self,
        *inputs: Any,
        guidance: Numbers | Guidance | None = None,
        return_dict: bool = True,
        **extras: Any,
    ) -> Output:
        """Return the oracle in the convention of the project, what its network is trained to.

        inputs: states, times and classes, in the order of the convention, or by name: x, t and y, or the names that
            the convention has for them.
            States: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
            Times of the project: a number, [], [B] or [B, 1, ...] in [0, steps].
            Classes: an integer or [B], or None. flow_matching's extra={"label": classes} is understood.
        guidance: as in OracleEngine.velocity, a number, [B], or a Guidance, whose interval is in engine times.
        return_dict: False for a tuple of one tensor, where the convention returns a `.sample`.
        extras: other keywords of networks, see the class.
        Returns what the convention says, of a tensor [B, *sample_shape] in the dtype of the states. It can be
        differentiated as answers of the engine can.
        Raises InputError as OracleEngine.velocity does, for keywords that could change a network's answer, and where
        time seems to run the other way. Costs one velocity.
        """
        x, t, y = self._bound(inputs, extras)
        check_extras(extras, ignore_conditions=self.ignore_conditions or y is not None)
        if y is None and self.ignore_conditions:
            # guided from nothing to nothing
            guidance = None
        times = self._times(t, x)
        velocity = self.engine.velocity(x, times, labels=self._labels(y), guidance=guidance)
        # guided states leave the path on purpose, and compiled code reads no values
        if self.check_time and guidance is None and not unreadable(x, times):
            self._check_direction(x, times, velocity)
        return self._returned(self.convention.model_output(velocity), return_dict)

    def forward_with_cfg(
        self,
        x: Float[Tensor, "B ..."],
        t: Numbers,
        y: Tensor,
        cfg_scale: float,
        *,
        cfg_interval: bool | None = None,
        cfg_interval_start: float | None = None,
    ) -> Output:
        """Return guided outputs for a doubled batch, as the samplers of SiT and LightningDiT ask for them.

        x: [B, *sample_shape], B even; the first half is used for both halves.
        t: times of the project, a number, [] or [B].
        y: classes, [B]: those to guide towards, then as many null labels.
        cfg_scale: w of v_0 + w (v_y - v_0).
        cfg_interval, cfg_interval_start: with True, times of the project before the start are not guided.
        Returns the guided output twice, [B, *sample_shape], and beyond `guided_channels` that of each half's class; as
        the convention returns it. Raises InputError for an odd batch and as :meth:`forward` does. Costs one velocity.
        """
        half = len(x) // 2
        if len(x) != 2 * half or len(y) != len(x):
            found = f"{len(x)} states and {len(y)} classes"
            raise invalid("x", "must be a doubled batch, with classes and null labels", found, "pass cat([x, x])")
        doubled, labels = torch.cat([x[:half], x[:half]]), self._labels(y)
        velocity = self.engine.velocity(doubled, self._times(t, doubled), labels=labels)
        if self._inside(t, x, cfg_interval_start if cfg_interval else None):
            velocity = self._guided(velocity, cfg_scale, x.dtype)
        else:
            velocity = velocity[:half].repeat(2, *[1] * (x.ndim - 1))
        return self._returned(self.convention.model_output(velocity), return_dict=True)

    def _inside(self, t: Numbers, x: Tensor, start: float | None) -> bool:
        """Return whether times of the project, from `start` on, are guided. Raises InputError for different times."""
        if start is None:
            return True
        if not one_time(self._times(t, x)):
            remedy = "pass one time, or leave cfg_interval out"
            raise invalid("t", "must be one time for all where an interval is guided", "several", remedy)
        return not float(torch.as_tensor(t).reshape(-1)[0]) < start

    def _guided(self, velocity: Tensor, cfg_scale: float, dtype: torch.dtype) -> Tensor:
        """Return a doubled batch of velocities, guided from its second half towards its first, in both halves."""
        half = len(velocity) // 2
        towards, free = velocity[:half], velocity[half:]
        scale = reals("cfg_scale", cfg_scale, velocity.device)
        mixed = free.double() + scale * (towards.double() - free.double())
        guided = rounded_answer(mixed, "velocity", dtype, free.shape).repeat(2, *[1] * (velocity.ndim - 1))
        kept = guided if self.guided_channels is None else guided[:, : self.guided_channels]
        return torch.cat([kept, velocity[:, kept.shape[1] :]], dim=1)

    def _check_direction(self, x: Tensor, times: Tensor, velocity: Tensor) -> None:
        if self._starts_with_noise is None:
            self._starts_with_noise = mostly_noise(self.engine, times)
        if not (self._starts_with_noise and one_time(times)):
            check_direction(self.engine, x, times, velocity)

    def _bound(self, inputs: tuple[Any, ...], extras: dict[str, Any]) -> tuple[Tensor, Any, Any]:
        """Return states, times and classes, and take those that were passed by name out of `extras`."""
        given, names = self._given(inputs, extras), self.convention.arguments
        ordered = names if not self.convention.time_first else (names[1], names[0], names[2])
        x, t, y = (given.get(name, given.get(plain)) for name, plain in zip(ordered, "xty", strict=True))
        y = self._with_label(y, extras)
        if self.convention.time_first and x is None and isinstance(t, Tensor):
            x, t = self._columns(t)
        if t is None or not isinstance(x, Tensor):
            raise self._called(f"{type(x).__name__} for states and {type(t).__name__} for times")
        self._check_order(x, t)
        return x, t, y

    def _given(self, inputs: tuple[Any, ...], extras: dict[str, Any]) -> dict[str, Any]:
        """Return what was passed for states, times and classes, by the names that were used or stand for a place."""
        names = self.convention.arguments
        if len(inputs) > len(names):
            raise self._called(f"{len(inputs)} positional arguments")
        given: dict[str, Any] = dict(zip(names[: len(inputs)], inputs, strict=True))
        # not the intersection of both sets, which torch before 2.10 cannot trace
        for name in [name for name in dict.fromkeys((*names, "x", "t", "y")) if name in extras]:
            if name in given:
                raise self._called(f"{name!r} twice")
            given[name] = extras.pop(name)
        return given

    def _with_label(self, y: Any, extras: dict[str, Any]) -> Any:
        """Return classes `y`, or those in flow_matching's extra={"label": classes}, which is taken out of `extras`."""
        extra = extras.pop("extra", None)
        if not isinstance(extra, dict):
            if extra is not None:
                extras["extra"] = extra
            return y
        named = dict(extra)
        label = named.pop("label", None)
        if y is not None and label is not None:
            raise self._called("classes, and again in extra['label']")
        # no class, but what the network was told: to be looked at with the other keywords
        extras.update(named)
        return label if y is None else y

    def _columns(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return states and times of the one argument [B, D + 1] that torchcfm passes to networks of vectors."""
        shape = self.engine.data.sample_shape
        if len(shape) != 1 or columns.ndim != 2 or columns.shape[1] != shape[0] + 1:
            raise self._called(f"one argument of shape {list(columns.shape)}")
        return columns[:, :-1], columns[:, -1]

    def _check_order(self, x: Tensor, t: Any) -> None:
        shape = self.engine.data.sample_shape
        if isinstance(t, Tensor) and x.shape[1:] != shape and t.ndim and t.shape[1:] == shape:
            raise self._called(f"states of shape {list(x.shape)} and times of shape {list(t.shape)}")
        check_shape(self.convention.arguments[int(self.convention.time_first)], x, shape)

    def _called(self, found: str) -> Exception:
        names = ", ".join(self.convention.arguments)
        return invalid("model", f"is called as model({names})", found, "pass them in this order, or by these names")

    def _times(self, t: Any, x: Tensor) -> Float64[Tensor, "..."]:
        times = self.convention.engine_time(t).to(x.device)
        # adaptive solvers step over the end of their grid
        return times if self.engine.t_max is None else times.clamp_max(self.engine.t_max)

    def _labels(self, y: Any) -> Tensor | None:
        """Return the classes of a call, with -1 in place of the null label."""
        if y is None:
            return None
        labels = on_device(y, self.engine.data.device, "y")
        # a null label is a number: in one-hot rows it would be one of their zeros
        if self.null_label is None or labels.ndim > 1:
            return labels
        # unsigned numbers have no -1
        numbers = integers("y", labels, labels.device, "pass y.long()")
        return numbers.masked_fill(numbers == self.null_label, -1)

    def _returned(self, output: Tensor, return_dict: bool) -> Output:
        """Return an output in the form that the convention returns."""
        if self.convention.returns == "tensor":
            return output
        if self.convention.returns == "tuple":
            return output, []
        return TransformerOutput(output) if return_dict else (output,)
