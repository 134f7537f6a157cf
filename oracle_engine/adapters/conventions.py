"""The conventions of other projects: direction of time, sign, order of arguments, and what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..base.arrays import Float, Float64, Tensor, reals
from ..base.errors import InputError, invalid

Returns = Literal["tensor", "tuple", "sample"]


@dataclass(frozen=True, eq=False)
class TransformerOutput:
    """The output of a transformer of diffusers: `.sample`, or output[0].

    sample: noise - data, [B, *sample_shape] in the dtype of the hidden states.
    """

    sample: Float[Tensor, "B ..."]

    def __getitem__(self, key: int | str) -> Float[Tensor, "B ..."]:
        """Return the sample for the `key` 0 or "sample". Raises KeyError or IndexError for another one."""
        return {"sample": self.sample}[key] if isinstance(key, str) else (self.sample,)[key]


@dataclass(frozen=True)
class Convention:
    """How a family of projects calls its velocity model.

    from_data: whether time runs from data at 0 to noise, and the output is dx/dt in that direction, such as noise -
        data; else 0 is noise, as in the engine.
    steps: what their time counts up to; times are divided by it. A positive number.
    arguments: what they call states, times and classes, in the order in which they pass them.
    returns: "tensor" where their loops use what the model returns as it is; "tuple" where they unpack it, or take [0]:
        (output, []), the list being that of features; "sample" where they read `.sample`, or pass return_dict=False
        and take [0].
    Raises InputError for other `returns`, for `steps` that are not positive, and for arguments that are not three.
    """

    from_data: bool = False
    steps: float = 1.0
    arguments: tuple[str, str, str] = ("x", "t", "y")
    returns: Returns = "tensor"

    def __post_init__(self) -> None:
        if self.returns not in get_args(Returns):
            remedy = "pass what the loop of the project takes apart"
            raise invalid("returns", f"must be one of {', '.join(get_args(Returns))}", repr(self.returns), remedy)
        if not self.steps > 0:
            raise invalid("steps", "must be positive", self.steps, "pass what their time counts up to")
        if len(set(self.arguments)) != 3:
            raise invalid("arguments", "must be three names", self.arguments, "name states, times and classes")

    @property
    def time_first(self) -> bool:
        """Whether models are called with the time before the states."""
        return self.arguments[0] == "t"

    def engine_time(self, t: Any) -> Float64[Tensor, "..."]:
        """Return times `t` of the project, a number or any shape in [0, steps], as engine times in [0, 1], float64.

        The result is a differentiable function of a tensor.
        """
        fraction = reals("t", t) / self.steps
        return 1.0 - fraction if self.from_data else fraction

    def model_output(self, velocity: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return a `velocity` of the engine, [B, *sample_shape], as the output of the project's model, like it."""
        return -velocity if self.from_data else velocity


_FROM_NOISE = Convention()
_TRANSFORMER = ("hidden_states", "timestep", "class_labels")
_DIFFUSERS = Convention(from_data=True, steps=1000.0, arguments=_TRANSFORMER, returns="sample")
# the conventions that VelocityModel knows by name
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "flow_matching": _FROM_NOISE,
        "torchcfm": Convention(arguments=("t", "x", "y")),
        "sit": _FROM_NOISE,
        "lightningdit": _FROM_NOISE,
        "repa": Convention(from_data=True, returns="tuple"),
        "diffusers": _DIFFUSERS,
        "sd3": _DIFFUSERS,
        "flux": Convention(from_data=True, arguments=_TRANSFORMER, returns="sample"),
    }
)
# other names of these, without case, spaces and punctuation
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "cfm": "torchcfm",
        "fluxdev": "flux",
        "flux1": "flux",
        "sd35": "sd3",
        "stablediffusion3": "sd3",
        "stablediffusion35": "sd3",
        "flowmatcheuler": "diffusers",
        "flowmatcheulerdiscretescheduler": "diffusers",
    }
)
_DENOISER = "their models are denoisers of a noise level, not velocities: use adapters.EDMDenoiser(engine)"
_EPSILON = "its models predict noise at a noise level: use adapters.SmallDiffusionModel(engine)"
_STEPS = "its models predict noise at DDPM steps: use adapters.DDPMDenoiser(engine, alphas_cumprod).noise"
# projects whose models are no velocities, and what takes their place
_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("edm", "edm2", "karras", "kdiffusion"), _DENOISER),
        "smalldiffusion": _EPSILON,
        **dict.fromkeys(("ddpm", "ddim", "dit", "adm"), _STEPS),
        "torchdiffeq": "its functions are called as func(t, x): use adapters.ODEFunction(engine)",
    }
)


def resolve_convention(convention: str | Convention) -> Convention:
    """Return the convention called `convention`, in any spelling, or itself where it is one.

    convention: a Convention, or a key of CONVENTIONS or another name of it; case, spaces, hyphens, dots and underscores
        do not matter.
    Raises InputError for other names; for those of projects whose models are no velocities, and for near misses, it
    says what to use.
    """
    if isinstance(convention, Convention):
        return convention
    if not isinstance(convention, str):
        raise _unknown(convention, "name the project, or describe its calls in a Convention")
    plain = _plain(convention)
    names = {_plain(name): name for name in CONVENTIONS} | dict(_ALIASES)
    if plain in names:
        return CONVENTIONS[names[plain]]
    if plain in _ELSEWHERE:
        raise _unknown(convention, _ELSEWHERE[plain])
    near = get_close_matches(plain, [*names, *_ELSEWHERE], n=1)
    if not near:
        raise _unknown(convention, "compare the direction of time and the sign")
    raise _unknown(convention, _ELSEWHERE.get(near[0]) or f"did you mean {names[near[0]]!r}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _unknown(convention: object, remedy: str) -> InputError:
    return invalid("convention", f"must be one of {', '.join(CONVENTIONS)}, or a Convention", repr(convention), remedy)
